"""Scores in bulk on disk: Parquet parts, and the manifest by which a job that was stopped goes on."""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from data.files import one_line, replace_file, write_json
from utils.command_line import make_folder
from utils.errors import RunError

MANIFEST = "scoring.json"
KINDS = ("scores", "failures")
PART_ROWS = 10_000  # a part is written when it has so many rows,
PART_SECONDS = 60  # or when its first row is so old: what a killed job can lose


class ScoreFolder:
    """A folder that a job fills with `scores/part-*.parquet` and `failures/part-*.parquet`, a row an image.

    A part is written under another name and renamed, so every part is whole and none is ever changed. A context: rows
    that are not written yet are written when it ends, also by an error. One job at a time writes into a folder.

    Args:
        path: made if it is missing.
        settings: plain values that the scores depend on, by name. Those of the job that began the folder are in its
            manifest.
        environment: the command and the versions, written down when the folder is begun.

    Raises:
        RunError: the folder cannot be written to, another job is writing into it, it was begun with other settings, or
            its manifest is damaged.
    """

    def __init__(self, path: str | os.PathLike, settings: dict, environment: dict | None = None):
        self.path = make_folder(path)
        for kind in KINDS:
            make_folder(self.path / kind)
        self._lock = (self.path / ".lock").open("w")  # the system gives the lock back, however this process ends
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise RunError(f"{path}: another job is writing into this folder; wait for it, or give another") from None
        try:
            self._check(settings, environment)
        except RunError:
            self._lock.close()
            raise
        self._rows: dict[str, list[pd.DataFrame]] = {kind: [] for kind in KINDS}
        self._oldest: float | None = None

    def __enter__(self) -> "ScoreFolder":
        return self

    def __exit__(self, *_) -> None:
        try:
            self.flush()
        finally:
            self._lock.close()

    def images(self, kind: str) -> set[str]:
        """Return the images that are in the parts of a kind, "scores" or "failures".

        Raises:
            RunError: a part cannot be read.
        """
        found: set[str] = set()
        for part in self._parts(kind):
            try:
                found.update(pd.read_parquet(part, columns=["image"])["image"])
            except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors
                raise RunError(f"{part}: cannot be read; delete it, and its images are done again") from error
        return found

    def add(self, kind: str, rows: pd.DataFrame) -> None:
        """Take rows, `image` among their columns, into the part that is being filled; write it if it is full or old."""
        if rows.empty:
            return
        self._rows[kind].append(rows)
        self._oldest = self._oldest or time.monotonic()
        if sum(map(len, self._rows[kind])) >= PART_ROWS or time.monotonic() - self._oldest > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are not written yet, as a part of each kind there is."""
        for kind, tables in self._rows.items():
            if tables:
                self._write(kind, pd.concat(tables, ignore_index=True))
                tables.clear()
        self._oldest = None

    def _parts(self, kind: str) -> list[Path]:
        return sorted((self.path / kind).glob("part-*.parquet"))

    def _write(self, kind: str, rows: pd.DataFrame) -> None:
        last = max((int(part.stem.removeprefix("part-")) for part in self._parts(kind)), default=-1)
        part = self.path / kind / f"part-{last + 1:06d}.parquet"
        with replace_file(part) as unfinished:
            rows.to_parquet(unfinished, index=False)

    def _check(self, settings: dict, environment: dict | None) -> None:
        """Compare the settings with the manifest's; write a manifest where there is none."""
        manifest = self.path / MANIFEST
        if not manifest.exists():
            if any(self._parts(kind) for kind in KINDS):
                raise RunError(f"{self.path}: holds scores but no {MANIFEST}, which tells whose; give another folder")
            write_json(manifest, {"settings": settings, "environment": environment})
            return
        try:
            begun = dict(json.loads(manifest.read_text(encoding="utf-8"))["settings"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{manifest}: damaged, or not from this project; give another folder") from error
        now = json.loads(json.dumps(settings))  # as they would be read
        for name in [*now, *(name for name in begun if name not in now)]:
            if begun.get(name) != now.get(name):
                raise RunError(
                    f"{self.path}: its scores were begun with {name} {begun.get(name)}, and now it is {now.get(name)}; "
                    "give what it was begun with, or another folder"
                )


def file_sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_list(argument: str) -> bool:
    """Return whether an argument is a table of images instead of one."""
    return Path(argument).suffix.lower() in (".csv", ".parquet") and not Path(argument).is_dir()


def read_list(path: str | os.PathLike) -> Iterator[str]:
    """Yield the images that a CSV or Parquet table names in its column `image` or, without one, `path`.

    Raises:
        RunError: the table cannot be read, has no such column, or a row of it has no name.
    """
    read = pd.read_parquet if Path(path).suffix.lower() == ".parquet" else pd.read_csv
    try:
        table = read(path)
    except FileNotFoundError:
        raise RunError(f"{path}: no such list of images") from None
    except (OSError, ValueError) as error:  # the errors of pandas' and pyarrow's readers are ValueErrors
        raise RunError(f"{path}: cannot be read as a list of images: {one_line(error)}") from error
    column = next((name for name in ("image", "path") if name in table), None)
    if column is None:
        names = ", ".join(map(str, table.columns[:10])) or "none"
        raise RunError(f"{path}: no column `image` or `path`; there are {names}")
    unnamed = table[column].isna()
    if unnamed.any():
        raise RunError(f"{path}: row {int(unnamed.argmax()) + 1} names no image in column `{column}`")
    if table.empty:
        raise RunError(f"{path}: an empty list")
    yield from table[column].astype(str)


def missing(images: Sequence[str], folder: ScoreFolder) -> list[str]:
    """Return the images, in order, that a folder has neither a score nor a failure of."""
    done = folder.images("scores") | folder.images("failures")
    return [image for image in images if image not in done]
