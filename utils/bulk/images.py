"""The images that command-line arguments name: files, folders, patterns, and lists in tables."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from data.csv_files import read_csv_table
from data.decode import EXTENSIONS
from data.files import natural_order, one_line
from utils.errors import RunError

MACHINE_MADE = (".", "@eaDir", "$RECYCLE.BIN", "__MACOSX")  # beginnings of names


def find_images(arguments: Sequence[str], lists: bool = False) -> Iterator[str]:
    """Yield the images that arguments name, in order, some perhaps more than once.

    Args:
        arguments: files, which need not exist, so that a missing one is reported with the others; folders, searched
            with their subfolders; glob patterns.
        lists: read CSV and Parquet files as lists of images.

    Raises:
        RunError: a folder or a pattern without images, or a list that cannot be used.
    """
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            files = list(_images_below(path))
            problem = f"no image in this folder ({', '.join(EXTENSIONS)})"
        elif lists and path.suffix.lower() in (".csv", ".parquet"):
            yield from read_list(path)
            continue
        elif not path.exists() and glob.has_magic(argument):
            files = [file for file in _matches(path) if Path(file).is_file()]
            problem = "no file matches this pattern"
        else:
            files = [argument]
        if not files:
            raise RunError(f"{argument}: {problem}")
        yield from sorted(files, key=natural_order)


def _images_below(folder: Path) -> Iterator[str]:
    """Yield the images in a folder and its subfolders; linked folders are followed, each folder once.

    Hidden files and those that systems and programs leave behind (`._a.jpg`, `@eaDir`, `.ipynb_checkpoints`, trash
    bins) are skipped.
    """
    visited = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(root) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(root))
        folders[:] = [name for name in folders if not name.startswith(MACHINE_MADE)]
        for name in names:
            path = Path(root, name)
            if path.suffix.lower() in EXTENSIONS and not name.startswith(MACHINE_MADE) and path.is_file():
                yield str(path)


def _matches(pattern: Path) -> list[str]:
    """Return the files that match a pattern; brackets in the name of an existing folder are not part of the pattern."""
    folder = next((parent for parent in pattern.parents if parent.is_dir()), Path())
    return glob.glob(os.path.join(glob.escape(str(folder)), pattern.relative_to(folder)), recursive=True)


def read_list(path: str | os.PathLike) -> Iterator[str]:
    """Yield the images in the column `image` of a CSV or Parquet table or, if there is none, in `path`.

    Raises:
        RunError: the table cannot be read or is empty, has neither column, or a row without a name.
    """
    try:
        if Path(path).suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
            table = table.fillna("").astype(str) if len(table) else table
        else:
            table = read_csv_table(path)
    except FileNotFoundError:
        raise RunError(f"{path}: no such list of images") from None
    except (OSError, ValueError) as error:  # CsvError and pyarrow's own errors are ValueErrors
        raise RunError(f"{path}: cannot be read as a list of images: {one_line(error)}") from error
    column = next((name for name in ("image", "path") if name in table), None)
    if column is None:
        columns = ", ".join(map(str, table.columns[:10])) or "none"
        raise RunError(f"{path}: needs a column `image` or `path`; its columns: {columns}")
    if table.empty:
        raise RunError(f"{path}: the list is empty")
    unnamed = table[column] == ""
    if unnamed.any():
        raise RunError(f"{path}: row {int(unnamed.argmax()) + 1} has no image in column `{column}`")
    yield from table[column]
