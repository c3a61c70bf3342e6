"""Write files whole or not at all, and format names and errors for messages."""

import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd


@contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[Path]:
    """Replace a file atomically: readers see the old content or the complete new one, also after a crash.

        with replace_file("scores.csv") as unfinished:
            unfinished.write_text(...)

    The content is written to a temporary file in the same folder, flushed to disk and renamed. If the block raises, the
    temporary file is deleted and the old file stays.

    Args:
        path: the file; its folder must exist.

    Yields:
        The temporary path to write to. Its name starts with a dot, so that listings of the folder ignore it.

    Raises:
        OSError: the file cannot be written.
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
    # Flush the folder, too, so that the rename survives a power cut; some systems cannot flush a folder.
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file as UTF-8; its folder must exist."""
    with replace_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: dict) -> None:
    """Write JSON to a file, creating its folder, or to standard output for "-"; NaN and infinities become null."""
    text = json.dumps(_to_json(content), indent=2, ensure_ascii=False, allow_nan=False)
    if str(path) == "-":
        print(text)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text + "\n")


def write_csv(path: str | os.PathLike, rows: pd.DataFrame | Sequence[dict]) -> None:
    """Write a table as CSV, creating its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as unfinished:
        pd.DataFrame(rows).to_csv(unfinished, index=False)


def one_line(error: BaseException, max_length: int = 300) -> str:
    """Return an exception's message as one line: an OSError's `strerror`, or the type's name if there is no message."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= max_length else text[:max_length] + " ..."


def listing(names: Collection, shown: int = 10, max_length: int = 100) -> str:
    """Return the first few names for a message, each on one line and shortened to `max_length` characters."""
    parts = [name if len(name) <= max_length else name[:max_length] + "..." for name in map(str, list(names)[:shown])]
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(part if part.isprintable() else repr(part) for part in parts) + more


def natural_order(name: str) -> list:
    """Return a sort key that puts 2.jpg before 10.jpg."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


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


def exclusive_lock(path: str | os.PathLike) -> IO:
    """Create or open a file and lock it until it is closed or this process ends, however it ends.

    Processes that this one forks do not hold the lock. Nothing is locked on Windows and on file systems without locks.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: it cannot be created.
    """
    file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.register_at_fork(after_in_child=file.close)  # an orphaned data worker would hold it for seconds
    except ModuleNotFoundError:  # Windows
        pass
    except BlockingIOError:
        file.close()
        raise
    except OSError:  # some network file systems cannot lock
        pass
    return file


def file_sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
