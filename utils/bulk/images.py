"""The images that command-line arguments name: files, folders, patterns, and lists in tables."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from data.decode import EXTENSIONS
from data.files import natural_order, one_line
from utils.errors import RunError


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
            files = [str(file) for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS and file.is_file()]
            problem = f"no image in this folder ({', '.join(EXTENSIONS)})"
        elif lists and path.suffix.lower() in (".csv", ".parquet"):
            yield from read_list(path)
            continue
        elif not path.exists() and glob.has_magic(argument):
            files = [file for file in glob.glob(argument, recursive=True) if Path(file).is_file()]
            problem = "no file matches this pattern"
        else:
            files = [argument]
        if not files:
            raise RunError(f"{argument}: {problem}")
        yield from sorted(files, key=natural_order)


def read_list(path: str | os.PathLike) -> Iterator[str]:
    """Yield the images in the column `image` of a CSV or Parquet table or, if there is none, in `path`.

    Raises:
        RunError: the table cannot be read or is empty, has neither column, or a row without a name.
    """
    read = pd.read_parquet if Path(path).suffix.lower() == ".parquet" else pd.read_csv
    try:
        table = read(path)
    except FileNotFoundError:
        raise RunError(f"{path}: no such list of images") from None
    except (OSError, ValueError) as error:  # pandas' and pyarrow's own errors are ValueErrors
        raise RunError(f"{path}: cannot be read as a list of images: {one_line(error)}") from error
    column = next((name for name in ("image", "path") if name in table), None)
    if column is None:
        columns = ", ".join(map(str, table.columns[:10])) or "none"
        raise RunError(f"{path}: needs a column `image` or `path`; its columns: {columns}")
    unnamed = table[column].isna()
    if unnamed.any():
        raise RunError(f"{path}: row {int(unnamed.argmax()) + 1} has no image in column `{column}`")
    if table.empty:
        raise RunError(f"{path}: the list is empty")
    yield from table[column].astype(str)
