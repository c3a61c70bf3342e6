"""How results reach the disk: every file is replaced whole or not at all."""

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd


@contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file so that its name always leads to the old content or to the complete new one.

        with replace_file("scores.csv") as unfinished:
            unfinished.write_text(...)

    The content goes to a temporary name in the same folder, is flushed to the disk and renamed. If the block raises,
    the temporary file is deleted and the old file stays.

    Args:
        path: of the file; its folder must exist.

    Yields:
        The temporary path to write to; it starts with a dot, so that readers of a folder pass over it.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        yield unfinished
        with unfinished.open("r+b") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    # The rename itself reaches the disk with its folder; some systems cannot open or flush a folder.
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: str | os.PathLike, content: dict) -> None:
    """Write JSON to a file, making its folder, or to standard output for "-"; non-finite numbers become null."""
    text = json.dumps(_to_json(content), indent=2, ensure_ascii=False, allow_nan=False)
    if str(path) == "-":
        print(text)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")


def write_csv(path: str | os.PathLike, rows: pd.DataFrame | Sequence[dict]) -> None:
    """Write a table as CSV, making its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as unfinished:
        pd.DataFrame(rows).to_csv(unfinished, index=False)


def one_line(error: BaseException, max_length: int = 300) -> str:
    """Return an exception's message as one line: the system's words for an OSError, the type's name if it has none."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= max_length else text[:max_length] + " ..."


def natural_order(name: str) -> list:
    """Return a sort key that puts 2.jpg before 10.jpg."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _to_json(value: object) -> object:
    """Return values that JSON can hold: no NaN, no infinities, no numpy types."""
    if isinstance(value, dict):
        return {str(key): _to_json(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_to_json(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
