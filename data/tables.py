"""Label tables: which photographs a data set has, their opinions, their splits and where their files are."""

import hashlib
import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from data.files import listing
from data.label_files import DATABASES, SET, TableError, find_label_file, read_labels

SPLITS = ("train", "val", "test")
ALL = "all"  # in place of a split: every row, whether or not the label file has splits
OFFICIAL_SPLIT = "the label file's own split"
_FindImage = Callable[[str, str], str | None]  # (image, set) -> path


@dataclass(frozen=True)
class LabelTable:
    """The photographs of a data set.

    Attributes:
        frame: one row an image, with columns `image` (name in the label file), `mos` (on the data set's scale), `split`
            ("train", "val" or "test"), `path` (missing in splits that were not requested) and the label file's other
            columns. The index is the row's number in the label file; it identifies the sample, also when other rows
            are left out.
        source: the label file.
        split_rule: how the splits were made, for reports.
        notes: what a user should know about the table, one sentence each.
    """

    frame: pd.DataFrame
    source: Path
    split_rule: str
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> pd.DataFrame:
        """Return the rows of one split, or of ALL, in the label file's order."""
        return self.frame if name == ALL else self.frame[self.frame["split"] == name]


def load_table(
    database: str,
    database_dir: str | os.PathLike,
    splits: Sequence[str] = SPLITS,
    metadata: str | os.PathLike | None = None,
    random_seed: int = 0,
    split_by: str | None = None,
    skip_missing: bool = False,
    image_column: str = "image",
    mos_column: str = "mos",
    split_column: str = "split",
    lower_is_better: bool = False,
    source_column: str | None = None,
) -> LabelTable:
    """Read a data set's labels, decide the splits and find the images of the requested splits.

    UHD-IQA's full label file has the official split in its column `set`. If there is no such column, or no official
    validation image, the training rows are divided 80 / 20 by `numpy.random.RandomState(random_seed).permutation`, as
    in the published code. There are twelve parameters because each is one option of the command line.

    Args:
        database: one of DATABASES.
        database_dir: folder of the images, which may also be in `<dir>/<set>` or `<dir>/../<set>`.
        splits: the splits that this run reads; only their images need to be there. With (ALL,) no split is made.
        metadata: the label file; by default its published name is searched in and above `database_dir`.
        random_seed: seed of the random split, 0 <= random_seed < 2**32.
        split_by: a column whose groups are not divided by the random split, which then replaces an official validation
            set, too; the test set stays.
        skip_missing: leave out images that are missing or have no finite opinion, instead of raising.
        image_column, mos_column, split_column: as in `read_labels`.
        lower_is_better: the opinions of a "csv" label file fall with quality, as DMOS do: `mos` is their negative,
            which leaves differences between opinions, and so RMSE and MAE, as they are.
        source_column: a column that says which data set each image is from; every row must have an entry.

    Raises:
        TableError: the label file is missing or unusable, opinions are not finite, images are missing, a requested
            split is empty, the groups of `split_by` cannot be divided, or a column has the name of one of ours.
    """
    if database not in DATABASES:
        raise TableError(f"unknown database {database!r}: choose from {', '.join(DATABASES)}")
    if lower_is_better and database != "csv":
        raise TableError(
            f"--lower_is_better is for label files of --database csv: the MOS of {database} rise with quality"
        )
    folder, notes = Path(database_dir), []
    source = Path(metadata) if metadata else find_label_file(database, folder)
    frame = read_labels(database, source, image_column, mos_column, split_column, needs_split=ALL not in splits)
    if source_column is not None:
        _check_column(frame, source, source_column)
    for option, column in (("--split_by", split_by), ("--source_column", source_column)):
        if column in ("image", "mos", SET, "path"):
            raise TableError(f"{source}: {option} {column}: this name is taken; rename the column in the file")
    if lower_is_better:
        frame["mos"] = 0 - frame["mos"]
        notes.append(
            f"--lower_is_better: MOS and scores are the negatives of {source}'s scale, higher for better images"
        )
    unrated = frame.loc[~np.isfinite(frame["mos"]), "image"]
    frame = _leave_out(frame, unrated, f"{source}: {len(unrated)} opinions are not finite", skip_missing, notes)
    find_image, rule = _image_finder(folder), OFFICIAL_SPLIT
    _check_listed_once(frame, source, find_image)
    if ALL in splits:
        rule = "all rows"
    elif split_by is not None or _lacks_validation(frame, splits, folder, find_image, notes):
        frame, rule = _random_split(frame, source, random_seed, split_by, rule)
    frame = _find_paths(frame, source, folder, splits, find_image, skip_missing, notes)
    table = LabelTable(frame.drop(columns=SET), source, rule, tuple(notes))
    _check_not_empty(table, splits, database)
    return table


def _check_not_empty(table: LabelTable, splits: Sequence[str], database: str) -> None:
    """Raise if a requested split has no rows."""
    for split in splits:
        if table.split(split).empty:
            remedy = ", or evaluate all rows with --split all" if split == "test" and database == "csv" else ""
            raise TableError(
                f"the {split} split of {table.source} is empty ({table.split_rule}); give another file with --metadata "
                f"FILE{remedy}"
            )


def _find_paths(
    frame: pd.DataFrame,
    source: Path,
    folder: Path,
    splits: Sequence[str],
    find_image: _FindImage,
    skip_missing: bool,
    notes: list[str],
) -> pd.DataFrame:
    """Return the frame with a column `path`, filled in for the requested splits.

    Raises:
        TableError: images are missing, and `skip_missing` is False.
    """
    requested = frame["split"].isin(SPLITS if ALL in splits else splits)
    paths = map(find_image, frame.loc[requested, "image"], frame.loc[requested, SET])
    frame["path"] = pd.Series(list(paths), frame.index[requested], object)
    missing = frame.loc[requested & frame["path"].isna(), "image"]
    problem = (
        f"{len(missing)} of the {requested.sum()} images that {source} lists for {listing(splits)} are not in {folder} "
        "(--database_dir), in its folders training, validation, test or in those beside it" + _hint(missing, folder)
    )
    return _leave_out(frame, missing, problem, skip_missing, notes)


def _check_column(frame: pd.DataFrame, source: Path, column: str) -> None:
    """Raise unless a label file has this column, with an entry in every row."""
    if column not in frame:
        raise TableError(f"{source}: --source_column {column}: no such column; it has {listing(frame.columns)}")
    empty = frame.loc[frame[column].isna(), "image"]
    if len(empty):
        raise TableError(f"{source}: {len(empty)} rows have no entry in column {column!r}: {listing(empty)}")


def _check_listed_once(frame: pd.DataFrame, source: Path, find_image: _FindImage) -> None:
    """Raise if two names of a label file, such as `1.jpg` and `./1.jpg`, are of one image, also in different splits."""
    last_parts = frame["image"].map(lambda name: _fold(name.replace("\\", "/").rpartition("/")[2]))
    alike = frame[last_parts.duplicated(keep=False)]
    paths = pd.Series(list(map(find_image, alike["image"], alike[SET])), alike.index, object).dropna()
    twice = alike.loc[paths.index[paths.map(os.path.normpath).duplicated()], "image"]
    if len(twice):
        raise TableError(f"{source}: {len(twice)} images are listed more than once by other names: {listing(twice)}")


def _hint(missing: pd.Series, folder: Path) -> str:
    """Say which other names the missing images have in the folder, if there are such."""
    if missing.empty or not folder.is_dir():
        return ""
    first = missing.iloc[0].replace("\\", "/").rpartition("/")[2]
    for name in os.listdir(folder):
        if _fold(name) == _fold(first) or _fold(Path(name).stem) == _fold(first):
            return f", but {name} is there: write the names as they are in that folder"
    return ""


def data_fingerprint(table: pd.DataFrame, source_column: str | None = None) -> str:
    """Return a short hash of the images' names, opinions and, with a column, sources (sha256), in any order of rows."""
    sources = [f"\t{source}" for source in table[source_column]] if source_column else [""] * len(table)
    rows = zip(table["image"], table["mos"], sources, strict=True)
    lines = [f"{name}\t{mos:.9g}{source}\n" for name, mos, source in rows]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()[:16]


def order_fingerprint(table: pd.DataFrame) -> str:
    """Return a short hash of the images' names in the order of rows, and of `teacher` if the table has it (sha256).

    The random draws of a photograph depend on its row.
    """
    teacher = table["teacher"] if "teacher" in table else [0.0] * len(table)
    lines = [f"{name}\t{score:.9g}\n" for name, score in zip(table["image"], teacher, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _leave_out(
    frame: pd.DataFrame, images: pd.Series, problem: str, skip_missing: bool, notes: list[str]
) -> pd.DataFrame:
    """Drop the rows of unusable images and note the problem; raise unless they may be skipped."""
    if len(images) and not skip_missing:
        raise TableError(f"{problem}: {listing(images)}. Correct this, or leave these images out with --skip_missing")
    if len(images):
        notes.append(f"{problem}: {listing(images)}. They are left out")
    return frame.drop(images.index)


def _lacks_validation(
    frame: pd.DataFrame, splits: Sequence[str], folder: Path, find_image: _FindImage, notes: list[str]
) -> bool:
    """Return whether the label file has no validation set, or the folder none of its images, which is noted."""
    validation = frame[frame["split"] == "val"]
    if validation.empty or not {"train", "val"} & set(splits):
        return validation.empty
    if any(map(find_image, validation["image"], validation[SET])):
        return False
    notes.append(f"none of the {len(validation)} official validation images is in {folder}")
    return True


def _random_split(
    frame: pd.DataFrame, source: Path, random_seed: int, split_by: str | None, official_rule: str
) -> tuple[pd.DataFrame, str]:
    """Divide the training rows 80 / 20; with split_by the training and validation rows, by whole groups.

    Returns:
        The frame, without validation rows whose images are all missing, and the rule for reports.
    """
    if not (frame["split"] == "train").any():
        return frame, official_rule
    permutation = np.random.RandomState(random_seed).permutation  # as in the published code
    if split_by is None:
        frame = frame[frame["split"] != "val"].copy()
        rows = frame.index[frame["split"] == "train"]
        validation = rows[permutation(len(rows))[int(len(rows) * 0.8) :]]
        rule = f"80 / 20 of {len(rows)} training rows by RandomState({random_seed}).permutation"
    else:
        if split_by not in frame:
            raise TableError(f"{source}: --split_by {split_by}: no such column; it has {listing(frame.columns)}")
        rows = frame.index[frame["split"] != "test"]
        groups = frame.loc[rows, split_by].fillna("").map(str)  # rows without an entry are one group
        names = np.sort(groups.unique())
        names = names[permutation(len(names))]
        # Groups go to training, in random order, until the next would exceed 80 %; the rest go to validation.
        training = names[np.cumsum(groups.value_counts()[names]) <= len(rows) * 0.8]
        validation = rows[~groups.isin(training)]
        if 2 * len(validation) > len(rows):
            sizes = groups.value_counts(normalize=True)
            raise TableError(
                f"{source}: --split_by {split_by}: its groups cannot be divided 80 / 20 by --random_seed "
                f"{random_seed}: {sizes.index[0] or 'no entry'!r} has {sizes.iloc[0]:.0%} of the rows. Choose another "
                "column or seed, or give a split"
            )
        rule = f"80 / 20 of {len(rows)} rows by whole groups of {split_by!r}, RandomState({random_seed})"
    frame.loc[rows, "split"] = "train"
    frame.loc[validation, "split"] = "val"
    return frame, rule


def _fold(name: str) -> str:
    """Return a name in a form that is the same in any case, any Unicode normalisation and with spaces around it."""
    return unicodedata.normalize("NFC", name).casefold().strip()


def _image_finder(folder: Path) -> _FindImage:
    """Return a function that finds an image in <dir>, <dir>/<set> or <dir>/../<set> and lists each folder only once."""

    @cache
    def names_in(folder: Path) -> set[str]:
        return set(os.listdir(folder)) if folder.is_dir() else set()

    @cache
    def files_in(folder: Path) -> set[str]:
        """Return the names of files, and of links to files."""
        return {entry.name for entry in os.scandir(folder) if entry.is_file()} if folder.is_dir() else set()

    @cache
    def similar_names(folder: Path) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for name in names_in(folder):
            names.setdefault(_fold(name), []).append(name)
        return names

    def find_similar(path: Path, name: Path) -> Path | None:
        parents = name.parent.parts
        if name.is_absolute() or ".." in parents:
            path, parents = path / name.parent, ()
        for part in (*parents, name.name):
            same = part in names_in(path) and (path / part).is_dir()
            names = [part] if same else similar_names(path).get(_fold(part), [])
            if len(names) != 1:
                return None
            path = path / names[0]
        return path if path.is_file() else None

    def find_image(name: str, set_name: str) -> str | None:
        folders = [folder]
        if set_name:  # `folder` may be a link, or end in ".."
            folders += [path / set_name for path in (folder, folder.absolute().parent, folder.resolve().parent)]
        for candidate in folders:
            # os.path.isfile, unlike Path.is_file, returns False for a name that is too long for the file system.
            if os.path.isfile(candidate / name) if "/" in name else name in files_in(candidate):
                return str(candidate / name)
        # Labels made on Windows or macOS may differ in slashes, case or Unicode form, of folders as well; and spaces
        # around a name are stripped when the label file is read.
        for candidate in folders:
            if path := find_similar(candidate, Path(name.replace("\\", "/"))):
                return str(path)
        return None

    return find_image
