"""Write files whole or not at all, lock and hash them, and format names and errors for messages."""

import csv
import errno
import hashlib
import json
import math
import os
import re
import secrets
import sys
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import numpy as np
import pandas as pd

# Unicode categories that can move a cursor, break a line or turn the direction of writing; and bytes that are no text.
_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")


@contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[Path]:
    """Replace a file atomically: readers see the old content or the complete new one, also after a crash.

        with replace_file("scores.csv") as unfinished:
            unfinished.write_text(...)

    The content is written to a temporary file in the same folder, flushed to disk and renamed. If the block raises, the
    temporary file is deleted and the old file stays. Temporary names are unique, so two processes that write the same
    file do not mix their contents.

    Args:
        path: the file; its folder must exist.

    Yields:
        The temporary path to write to. Its name starts with a dot, so that listings of the folder ignore it.

    Raises:
        OSError: the file cannot be written. Its `filename` is the path, not the temporary one.
    """
    path = Path(path)
    # Only the beginning of the name: file systems allow 255 bytes.
    unfinished = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        yield unfinished
        with unfinished.open("r+b") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(unfinished)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    flush_folder(path.parent)


def flush_folder(folder: str | os.PathLike) -> None:
    """Flush a folder to disk, so that a new or renamed file survives a power cut; some systems cannot."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file as UTF-8, with the escapes of `utf8`; its folder must exist."""
    with replace_file(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        file.write(utf8(text))


def write_json(path: str | os.PathLike, content: dict) -> None:
    """Write JSON to a file, creating its folder, or to standard output for "-"; NaN and infinities become null."""
    content = _to_json(content)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    if str(path) != "-":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text + "\n")
        return
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(content, indent=2, allow_nan=False)  # in ASCII, with JSON's own escapes
    print(text)


def write_csv(path: str | os.PathLike, rows: pd.DataFrame | Sequence[dict]) -> None:
    """Write a table as CSV, creating its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, csv_text(pd.DataFrame(rows)))


def csv_text(table: pd.DataFrame, header: bool = True) -> str:
    """Return a table as the text of a CSV file, without its index; missing values are empty."""
    lines: list[str] = []
    # The writer quotes only the characters of its own line end, but readers also break lines at a bare "\r". So it is
    # told to end lines with both.
    file = SimpleNamespace(write=lambda line: lines.append(line.removesuffix("\r\n") + "\n"))
    writer = csv.writer(file, lineterminator="\r\n")
    if header:
        writer.writerow(table.columns)
    writer.writerows(table.astype(object).where(table.notna(), None).itertuples(index=False, name=None))
    return "".join(lines)


def utf8(text: str) -> str:
    r"""Return text that UTF-8 can encode: a byte of a file name that is not UTF-8 becomes an escape, e.g. `\udce9`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def printable(text: object) -> str:
    r"""Return text for a terminal or a log, on one line.

    Newlines, terminal escapes, marks that turn the direction of writing, and bytes that are not UTF-8 become escapes
    such as `\n`, so that a file name cannot fake another line.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        sign.encode("unicode_escape").decode() if unicodedata.category(sign) in _UNSAFE else sign for sign in text
    )


def one_line(error: BaseException, max_length: int = 300) -> str:
    """Return an exception's message as one line: an OSError's `strerror`, or the type's name if there is no message."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= max_length else text[:max_length] + " ..."


def printable_lines(text: object) -> str:
    """Return text of several lines with each of them as `printable` writes it."""
    return "\n".join(map(printable, str(text).split("\n")))


def listing(names: Collection, shown: int = 10, max_length: int = 100) -> str:
    """Return the first few names for a message, each on one line and shortened to `max_length` characters."""
    parts = [name if len(name) <= max_length else name[:max_length] + "..." for name in map(str, list(names)[:shown])]
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(printable, parts)) + more


def natural_order(name: str) -> list:
    """Return a sort key that puts 2.jpg before 10.jpg."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def exclusive_lock(path: str | os.PathLike) -> IO:
    """Create or open a file and lock it until it is closed or this process ends, however it ends.

    Who holds the lock may delete the file.
    Processes that this one forks do not hold the lock. Nothing is locked on Windows and on file systems without locks.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: it cannot be created.
    """
    while True:
        file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ModuleNotFoundError:  # Windows
            return file
        except BlockingIOError:
            file.close()
            raise
        except PermissionError:  # the word of SMB shares for it
            file.close()
            raise BlockingIOError(errno.EWOULDBLOCK, "locked by another process", str(path)) from None
        except OSError:  # some network file systems cannot lock
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                os.register_at_fork(after_in_child=file.close)  # an orphaned data worker would hold it for seconds
                return file
        file.close()  # its owner deleted it before it was locked here


def file_sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _to_json(value: object) -> object:
    """Convert a value to what JSON can hold: no NaN, no infinities, no numpy types."""
    if isinstance(value, dict):
        return {str(key): _to_json(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_to_json(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
