"""Scores on disk for large jobs: Parquet parts, and the manifest by which an interrupted job resumes."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from data.files import exclusive_lock, replace_file
from utils.bulk.manifest import check_manifest, write_manifest
from utils.command_line import make_folder
from utils.errors import RunError

MANIFEST = "scoring.json"
KINDS = ("scores", "failures")
PART_ROWS = 10_000  # a part is written when it has this many rows,
PART_SECONDS = 60  # or when its first row is this old, which is the most that a killed job loses


@dataclass
class _Part:
    """Rows for a file whose name stays theirs, so that writing them again after an interruption repeats none."""

    tables: list[pd.DataFrame] = field(default_factory=list)
    path: Path | None = None


class ScoreFolder:
    """A folder that a job fills with `scores/part-*.parquet` and `failures/part-*.parquet`, one row per image.

    Parts are written under a temporary name and renamed, so every part is complete, and none is changed later. Use it
    as a context manager: leaving it, also by an exception, writes the remaining rows. Only one job at a time can write
    into a folder.

    Args:
        path: created if it does not exist.
        settings: plain values by name that the scores depend on. They must equal those in the manifest.

    Raises:
        RunError: the folder cannot be written to, is in use by another job or was started with other settings, or its
            manifest is damaged.
    """

    def __init__(self, path: str | os.PathLike, settings: dict):
        self.path = make_folder(path)
        for kind in KINDS:
            make_folder(self.path / kind)
        try:
            self._lock = exclusive_lock(self.path / ".lock")
        except BlockingIOError:
            raise RunError(f"{path}: another job is writing into this folder; wait, or give another folder") from None
        try:
            self._check_manifest(settings)
        except RunError:
            self._lock.close()
            raise
        self._current = {kind: _Part() for kind in KINDS}
        self._oldest: float | None = None

    def __enter__(self) -> "ScoreFolder":
        return self

    def __exit__(self, *_) -> None:
        try:
            self.flush()
        finally:
            self._lock.close()

    def images(self, kind: str) -> set[str]:
        """Return the images in the parts of a kind, "scores" or "failures".

        Raises:
            RunError: a part cannot be read.
        """
        images: set[str] = set()
        for part in self._parts(kind):
            try:
                images.update(pd.read_parquet(part, columns=["image"])["image"])
            except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors
                raise RunError(f"{part}: cannot be read; delete it to have its images scored again") from error
        return images

    def remaining(self, images: Sequence[str]) -> list[str]:
        """Return, in order, the images for which the folder has neither a score nor a failure."""
        done = self.images("scores") | self.images("failures")
        return [image for image in images if image not in done]

    def add(self, kind: str, rows: pd.DataFrame) -> None:
        """Add rows, which have a column `image`, to the current part; write the part if it is full or old."""
        if rows.empty:
            return
        tables = self._current[kind].tables
        tables.append(rows)
        self._oldest = self._oldest or time.monotonic()
        if sum(map(len, tables)) >= PART_ROWS or time.monotonic() - self._oldest > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are still in memory, as one part per kind."""
        for kind, part in self._current.items():
            if not part.tables:
                continue
            if part.path is None:
                last = max((int(path.stem.removeprefix("part-")) for path in self._parts(kind)), default=-1)
                part.path = self.path / kind / f"part-{last + 1:06d}.parquet"
            with replace_file(part.path) as unfinished:
                pd.concat(part.tables, ignore_index=True).to_parquet(unfinished, index=False)
            self._current[kind] = _Part()
        self._oldest = None

    def _parts(self, kind: str) -> list[Path]:
        return sorted((self.path / kind).glob("part-*.parquet"))

    def _check_manifest(self, settings: dict) -> None:
        """Compare the settings with the manifest's; write the manifest if the folder is new."""
        manifest = self.path / MANIFEST
        if manifest.exists() or any(self._parts(kind) for kind in KINDS):
            check_manifest(manifest, settings, self.path, "give another folder")
        else:
            write_manifest(manifest, settings)
