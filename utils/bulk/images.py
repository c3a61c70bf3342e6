"""The images that command-line arguments name: files, folders, patterns, and lists in tables."""

import glob
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from data.csv_files import read_csv_table
from data.decode import EXTENSIONS
from data.files import natural_order, one_line, utf8
from utils.errors import RunError

# Beginnings of names; the last is of the folders with the pictures of `predict.py --report`.
MACHINE_MADE = (".", "@eaDir", "$RECYCLE.BIN", "__MACOSX", "uiqa_report_")
# Images in a folder that are not read but counted, so that nobody takes them for scored.
IMAGE_EXTENSIONS = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".exr", ".gif", ".hdr", ".hif", ".ico", ".iiq", ".j2k", ".jp2"),
    *(".jpf", ".jpx", ".jxl", ".jxr", ".kdc", ".mef", ".mrw", ".nef", ".nrw", ".orf", ".pbm", ".pef", ".pgm", ".pnm"),
    *(".ppm", ".psb", ".psd", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".svg", ".tga", ".x3f", ".xcf"),
)


@dataclass
class FoundImages:
    """What command-line arguments name.

    Attributes:
        images: the images in order, each once; also what is none but has to be reported.
        problems: why an entry of `images` is no image to score, by entry: a folder or a pattern without images, a pipe,
            a name that cannot be told from another.
        skipped: how many images of other formats the folders have, by extension.
    """

    images: list[str]
    problems: dict[str, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)

    def skipped_text(self) -> str:
        """Return how many images were skipped as text, "" for none."""
        if not self.skipped:
            return ""
        counts = ", ".join(f"{count} {extension}" for extension, count in self.skipped.most_common())
        return f"skipped {self.skipped.total()} files that are not read: {counts}"


def find_images(arguments: Sequence[str], lists: bool = False) -> FoundImages:
    """Find the images that arguments name.

    Args:
        arguments: files, which need not exist, so that a missing one is reported with the others; folders, searched
            with their subfolders; glob patterns.
        lists: read CSV and Parquet files as lists of images.

    Raises:
        RunError: no argument has an image, an argument is empty, or a list cannot be used.
    """
    found = FoundImages([])
    images: dict[str, None] = {}
    for argument in arguments:
        if not argument:
            raise RunError("an argument is empty: give a file, a folder or a pattern")
        images.update(dict.fromkeys(_images_of(argument, lists, found)))
    found.images = _distinguishable(images, found)
    if len(found.problems) == len(images):
        more = len(found.problems) - 1
        skipped = found.skipped_text()
        raise RunError(
            next(iter(found.problems.values()), "no images")
            + (f"; {more} more arguments have none" if more > 0 else "")
            + (f" ({skipped})" if skipped else "")
        )
    return found


def _distinguishable(images: Iterable[str], found: FoundImages) -> list[str]:
    """Return the images, with a problem in place of each whose name in a table is that of an earlier one.

    Such are a name with the byte E9 and one with the escape `\\udce9`. The problem goes by the bytes of the name.
    """
    earlier: dict[str, str] = {}
    distinguishable = []
    for image in images:
        other = earlier.setdefault(utf8(image), image)
        if other != image:
            found.problems.pop(image, None)
            image, other = repr(os.fsencode(image)), repr(os.fsencode(other))
            found.problems[image] = f"{image}: its name cannot be told from {other} in a table; rename it"
        distinguishable.append(image)
    return distinguishable


def _images_of(argument: str, lists: bool, found: FoundImages) -> list[str]:
    """Return the images of one argument in natural order; record the problems and what was skipped."""
    # os.path takes a name that the system refuses for a missing file; decoding reports it.
    if os.path.isdir(argument):
        files = list(_images_below(argument, found))
        problem = f"{argument}: no image in this folder ({', '.join(EXTENSIONS)})"
    elif lists and argument.lower().endswith((".csv", ".parquet")):
        return list(read_list(argument))
    elif not os.path.lexists(argument) and glob.has_magic(argument):
        files = [file for file in _matches(Path(argument)) if _is_no_folder(file, found)]
        problem = f"{argument}: no file matches this pattern"
    else:
        return [argument]
    if not files:
        found.problems[argument] = problem
    return sorted(files, key=natural_order) or [argument]


def _images_below(folder: str, found: FoundImages) -> Iterator[str]:
    """Yield the images in a folder and its subfolders; linked folders are followed, each folder once.

    Hidden files and those that systems and programs leave behind (`._a.jpg`, `@eaDir`, `.ipynb_checkpoints`, trash
    bins) are skipped. A folder that cannot be read is yielded, too, with its problem.
    """
    unreadable: list[OSError] = []
    visited = set()
    for root, folders, names in os.walk(folder, onerror=unreadable.append, followlinks=True):
        if os.path.realpath(root) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(root))
        # In an order of our own: the first of two names of a linked folder counts.
        folders[:] = sorted((name for name in folders if not name.startswith(MACHINE_MADE)), key=natural_order)
        for name in sorted(names, key=natural_order):
            path, extension = str(Path(root, name)), Path(name).suffix.lower()
            if name.startswith(MACHINE_MADE):
                continue
            if extension in EXTENSIONS:
                if _is_no_folder(path, found):
                    yield path
            elif extension in IMAGE_EXTENSIONS:
                found.skipped[extension] += 1
    for error in unreadable:
        found.problems[error.filename] = f"{error.filename}: this folder cannot be read: {one_line(error)}"
        yield error.filename


def _is_no_folder(path: str, found: FoundImages) -> bool:
    """Return whether a path leads to something else than a folder; a pipe or a device is recorded, never opened."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # a dangling link, no permission, a fault of the disk: decoding reports it
        return True
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        found.problems[path] = f"{path}: not a file but a pipe, a socket or a device"
    return not stat.S_ISDIR(mode)


def _matches(pattern: Path) -> list[str]:
    """Return the files that match a pattern; brackets in the name of an existing folder are not part of the pattern."""
    folder = next((parent for parent in pattern.parents if os.path.isdir(parent)), Path())
    # Without "./", because a photograph that is also named or in "." would be scored twice.
    start = "" if folder == Path() else glob.escape(str(folder))
    return glob.glob(os.path.join(start, pattern.relative_to(folder)), recursive=True)


def read_list(path: str | os.PathLike) -> Iterator[str]:
    """Yield the images in the column `image` of a CSV or Parquet table or, if there is none, in `path`.

    A name that is not there from the working directory, but is from the table's folder, is completed by this folder.

    Raises:
        RunError: the table cannot be read or is empty, has neither column, or a row without a name.
    """
    try:
        if Path(path).suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
            columns = table.columns.intersection(["image", "path"])  # others may hold what no text can replace
            if len(table) and len(columns):
                table = table[columns].astype(object).where(table[columns].notna(), "").astype(str)
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
    folder = Path(path).parent
    for name in table[column]:  # label tables name images from their own folder
        is_beside = not os.path.exists(name) and os.path.exists(folder / name)
        yield str(folder / name) if is_beside else name
