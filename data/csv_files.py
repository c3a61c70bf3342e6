"""Read CSV files strictly: every cell as text, and no row that does not fit its header.

pandas guesses types and shifts columns: it takes an image called `1.10` for 1.1 and `NA` for nothing, and reads a row
with a trailing comma one column too far to the left.
"""

import csv
import io
import os
import unicodedata
from collections import Counter
from pathlib import Path

import pandas as pd

from data.files import listing, one_line

_DELIMITERS = ",;\t"
_MAX_COLUMNS = 10_000


class CsvError(ValueError):
    """A CSV file cannot be read; the message names the cause and, where there is one, the line."""


def read_csv_table(path: str | os.PathLike) -> pd.DataFrame:
    """Read a table from a CSV file in UTF-8 (or UTF-16 with a byte order mark).

    The header decides the delimiter: commas, or semicolons or tabs if it has no comma. Spaces around names and cells
    are stripped, and empty lines are skipped.

    Returns:
        Text in every cell, "" for an empty one, also where a row is shorter than the header. The index is the row's
        number, without empty lines.

    Raises:
        OSError: the file cannot be read.
        CsvError: it is not text, has no header, a column twice, or a row with more fields than the header.
    """
    try:
        content = Path(path).read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        text = content.decode(encoding)
        if "\0" in text:
            raise CsvError("it has NUL characters, so it is not UTF-8 text: save it as UTF-8")
        # Unlike str.splitlines, this ends lines at \n, \r and \r\n alone: a name may hold U+0085 or U+2028.
        header_line = next((line for line in io.StringIO(text, newline="") if line.strip()), "")
        delimiter = next((sign for sign in _DELIMITERS if sign in header_line), ",")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        header, rows = None, []
        for fields in reader:
            cells = [field.strip() for field in fields]
            if not any(cells):
                continue
            if header is None:
                header = _check_header(cells)
            elif len(cells) > len(header):
                raise CsvError(
                    f"line {reader.line_num}: {len(cells)} fields, but the header ({listing(header, shown=5)}) has "
                    f"{len(header)}; is there a comma at the end or within a number?"
                )
            else:
                rows.append(cells + [""] * (len(header) - len(cells)))
    except UnicodeDecodeError as error:
        raise CsvError(f"it is not UTF-8 text ({one_line(error)}): save it as UTF-8") from error
    except csv.Error as error:
        raise CsvError(f"line {reader.line_num}: {one_line(error)}") from error
    if header is None:
        raise CsvError("the file is empty")
    return pd.DataFrame(rows, columns=header, dtype=str)


def _check_header(cells: list[str]) -> list[str]:
    if len(cells) > _MAX_COLUMNS:
        raise CsvError(f"{len(cells)} columns; at most {_MAX_COLUMNS} are read")
    # Marks that cannot be seen, such as a zero-width space, would hide a column.
    cells = ["".join(sign for sign in cell if unicodedata.category(sign) != "Cf").strip() for cell in cells]
    repeated = [name for name, count in Counter(cells).items() if count > 1 and name]
    if repeated:
        raise CsvError(f"the column {repeated[0]!r} is there more than once; is the first line the header?")
    return [name or f"unnamed_{number}" for number, name in enumerate(cells, start=1)]


def match_column(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Rename the column that differs from `name` only in case, if there is exactly one."""
    similar = [column for column in table if column.casefold() == name.casefold()]
    return table.rename(columns={similar[0]: name}) if name not in table and len(similar) == 1 else table


def to_numbers(cells: pd.Series) -> pd.Series:
    """Return text as float64, NaN where it is not a number."""

    def to_number(text: str) -> float:
        try:
            return float("nan" if "_" in text else text)  # Python reads 1_000 as a number
        except ValueError:
            return float("nan")

    return cells.map(to_number).astype(float)
