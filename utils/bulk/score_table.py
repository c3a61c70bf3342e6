"""Scores on disk while photographs are being scored: a CSV that grows batch by batch, and from which a job resumes."""

import csv
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from data.files import csv_text, exclusive_lock, flush_folder, printable, utf8, write_csv, write_text
from utils.bulk.manifest import check_manifest, write_manifest
from utils.errors import RunError, cause_and_remedy

FLUSH_SECONDS = 1  # rows are on disk, and survive a power cut, after this time or after the next batch if that is later


class ScoreTable:
    """The rows of a job, one per image: in memory and, with a path, in a file as soon as they are added.

    Rows are appended to `<name>.partial` beside the CSV, each batch of them ended by an empty line; what a killed job
    leaves behind the last empty line is ignored. `finish` writes the CSV, so a CSV is always complete. Hidden manifests
    beside both files record the settings. Use it as a context manager: leaving it by an exception says what was saved.

    Args:
        path: of the CSV; None to keep rows in memory only.
        settings: plain values by name that the scores depend on.
        resume: keep the rows of an interrupted job or, if there is none, of the CSV; they must have the same settings.

    Raises:
        RunError: there are rows of an interrupted job but `resume` is False, rows of other settings, or a file that is
            not from this class; or another job is writing to this file.
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike | None, settings: dict, resume: bool = False):
        self.path = None if path is None else Path(path)
        self._columns: list[str] = []
        self._rows: dict[str, list] = {}  # by the image's name
        self._flushed = 0.0
        self._added = 0
        self._finished = False
        if self.path is None:
            return
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        if self.partial.is_symlink() or (self.partial.exists() and not self.partial.is_file()):
            raise RunError(f"{self.partial}: is not a file, but rows are written there; move it away")
        try:
            # Not of the partial file itself: on SMB shares a locked file cannot be read or written.
            self._lock = exclusive_lock(_lock_file(self.partial))
        except BlockingIOError:
            raise RunError(f"{self.partial}: another job is writing here; wait, or give another --csv") from None
        try:
            self._open(settings, resume)
        except BaseException:
            with suppress(OSError):  # it must not hide the error
                if self.partial.stat().st_size == 0:
                    self._remove_partial()
            self._lock.close()
            raise

    def __enter__(self) -> "ScoreTable":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        if self.path is not None:
            self._close()
        if kind is KeyboardInterrupt:
            raise KeyboardInterrupt(self._saved()) from None
        if kind is not None and kind is not RunError and self.path is not None and self._added:
            print(printable(self._saved()), file=sys.stderr)

    def remaining(self, images: Sequence[str]) -> list[str]:
        """Return, in order, the images that have no row; those that failed have one."""
        return [image for image in images if utf8(image) not in self._rows]

    def add(self, rows: pd.DataFrame) -> None:
        """Add the rows of a batch: `image`, as `data.files.utf8` writes it, numbers, and `error`, empty without one.

        Raises:
            RunError: they cannot be written.
        """
        if self._columns:
            rows = rows.reindex(columns=self._columns)
        try:
            if self.path is not None:
                self._append(csv_text(rows, header=not self._columns) + "\n")
            self._columns = list(rows)
            self._keep(rows.itertuples(index=False, name=None))
            self._added += len(rows)
            if self.path is not None and time.monotonic() - self._flushed >= FLUSH_SECONDS:
                os.fsync(self._file.fileno())
                self._flushed = time.monotonic()
        except OSError as error:
            raise RunError(f"{self.partial}: {cause_and_remedy(error)}. {self._saved()}") from error

    def finish(self, images: Sequence[str]) -> pd.DataFrame:
        """Return the rows in the order of the images, then rows of earlier jobs about others; write them to the CSV."""
        names = dict.fromkeys([*map(utf8, images), *self._rows])
        table = pd.DataFrame([self._rows[name] for name in names if name in self._rows], columns=self._columns)
        if self.path is not None:
            write_csv(self.path, table)
            write_text(_manifest(self.path), _manifest(self.partial).read_text(encoding="utf-8"))
            self._finished = True
            self._close()
        return table

    def _close(self) -> None:
        """Close the files, once; delete the partial one if nothing would be lost."""
        if self._lock.closed:
            return
        try:
            if self._finished or not (self._resumed or self._added):
                self._file.truncate(0)  # a file with rows but without its manifest would be refused
                if os.name == "nt":  # which deletes no open file
                    self._file.close()
                    self._lock.close()
                self._remove_partial()
        finally:
            self._file.close()
            self._lock.close()

    def _remove_partial(self) -> None:
        """Delete the partial file while it is locked: afterwards another job may have made a new one."""
        _manifest(self.partial).unlink(missing_ok=True)
        self.partial.unlink(missing_ok=True)
        _lock_file(self.partial).unlink(missing_ok=True)

    def _open(self, settings: dict, resume: bool) -> None:
        """Read the rows to go on with, and open the partial file behind them."""
        self.partial.touch()
        content = self.partial.read_bytes()
        columns, rows, end = _read_rows(content)
        manifest = _manifest(self.partial)
        if content and not manifest.exists():
            raise RunError(f"{self.partial}: there is no {manifest.name} about its origin; move it away")
        if rows and not resume:
            raise RunError(
                f"{self.partial}: has {len(rows)} rows of an interrupted job; go on with --resume, or delete "
                "the file to start anew"
            )
        self._resumed = bool(rows)  # otherwise nothing is lost if the partial file is deleted before a row is added
        is_finished = resume and not rows and self.path.exists()
        if rows:
            check_manifest(manifest, settings, self.partial, "delete it to start anew")
        else:
            if is_finished:
                remedy = "leave out --resume to replace the file"
                check_manifest(_manifest(self.path), settings, self.path, remedy)
                columns, rows = _read_finished(self.path, remedy)
            write_manifest(manifest, settings)
        self._file = self.partial.open("r+b", buffering=0)
        self._file.truncate(end if self._resumed else 0)
        self._file.seek(0, os.SEEK_END)
        flush_folder(self.partial.parent)
        if is_finished:
            self._append(csv_text(pd.DataFrame(rows, columns=columns)) + "\n")
        self._columns = columns
        self._keep(rows)

    def _keep(self, rows) -> None:
        column = self._columns.index("image") if self._columns else 0
        for row in rows:
            self._rows.setdefault(row[column], list(row))

    def _append(self, text: str) -> None:
        """Append to the file; if that fails, the file ends where it did."""
        start = self._file.tell()
        content = memoryview(text.encode())
        try:
            while content:
                content = content[self._file.write(content) :]
        except OSError as error:
            error.filename = str(self.partial)
            with suppress(OSError):
                self._file.truncate(start)
            raise

    def _saved(self) -> str:
        """Return what was saved, and how to go on."""
        if self.path is None:
            return "nothing was saved; give --csv FILE to have rows written as they are scored"
        if self._finished:
            return f"{len(self._rows)} rows are in {self.path}"
        if not self._rows:
            return "no image was scored yet"
        return f"{len(self._rows)} rows are in {self.partial}; the same command with --resume goes on"


def _lock_file(path: Path) -> Path:
    """Return the file that is locked while a file of rows is written."""
    return path.with_name(f".{path.name}.lock")


def _manifest(path: Path) -> Path:
    """Return where the settings behind a file of rows are recorded."""
    return path.with_name(f".{path.name}.json")


def _read_finished(path: Path, remedy: str) -> tuple[list[str], list[list]]:
    """Return the columns and all rows of a finished CSV, which people may have edited.

    Raises:
        RunError: a line is no row; what follows it must not be lost when the file is written again.
    """
    content = path.read_bytes()
    columns, rows, end = _read_rows(content, batches=False)
    if not columns:
        raise RunError(f"{path}: its first line is not the header that predict.py writes; {remedy}")
    if end < len(content):
        line = len(content[:end].splitlines()) + 1
        raise RunError(f"{path}: line {line} is not a row of predict.py; correct it, or {remedy}")
    return columns, rows


def _read_rows(content: bytes, batches: bool = True) -> tuple[list[str], list[list], int]:
    """Read the rows of a CSV up to the first that is damaged or cut off.

    Args:
        content: of the file.
        batches: only rows that are followed by an empty line are complete.

    Returns:
        The columns; the rows, with numbers where there are numbers and None for an empty `error`; and the length of the
        content that they take.
    """
    columns: list[str] = []
    complete, pending, end = [], [], 0
    for cells, position in _records(content):
        if not cells:
            complete += pending
            pending = []
        elif not columns:
            columns = cells
            if "image" not in columns or "error" not in columns:
                return [], [], 0
        elif (row := _parse(columns, cells)) is not None:
            pending.append(row)
        else:
            break
        if not cells or not batches:
            end = position
    if not batches:
        return columns, complete + pending, end
    return (columns, complete, end) if complete else ([], [], 0)


def _records(content: bytes) -> Iterator[tuple[list[str], int]]:
    """Yield the records of a CSV, [] for an empty line, with the position behind each, while they can be read."""
    position = 0

    def lines() -> Iterator[str]:
        nonlocal position
        for line in content.splitlines(keepends=True):
            position += len(line)
            yield line.decode("utf-8")

    with suppress(csv.Error, UnicodeDecodeError):
        for cells in csv.reader(lines(), strict=True):
            yield cells, position


def _parse(columns: Sequence[str], cells: Sequence[str]) -> list | None:
    """Return the values of a record, or None if it does not fit the columns."""
    if len(cells) != len(columns):
        return None
    try:
        return [
            (cell or None) if name == "error" else cell if name == "image" else float(cell or "nan")
            for name, cell in zip(columns, cells, strict=True)
        ]
    except ValueError:
        return None
