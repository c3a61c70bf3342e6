"""Label files: which photographs there are, what people thought of them, and which split each belongs to."""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data.files import one_line

DATABASES = ("UHD_IQA", "AVA", "csv")
SPLITS = ("train", "val", "test")

PUBLISHED_NAMES = {
    "UHD_IQA": ("uhd-iqa-metadata.csv", "uhd-iqa-training-metadata.csv"),
    "AVA": ("ground_truth_dataset.csv", "AVA.txt"),
    "csv": (),
}
_SPLIT_WORDS = {
    "training": "train",
    "train": "train",
    "validation": "val",
    "val": "val",
    "test": "test",
    "testing": "test",
}
FOLDER = "folder of the set"  # column: the split as the label file writes it, which names the images' folder
_SHOWN = 10  # entries of a list of faults that a message spells out
_SHOWN_LETTERS = 100  # of an entry
_MAX_COLUMNS = 10_000  # pandas takes minutes over a million


class TableError(ValueError):
    """A label file, or the images it names, cannot be used; the message says where, what and the remedy."""


@dataclass(frozen=True)
class LabelTable:
    """The photographs of a data set.

    Attributes:
        frame: one row an image, with columns `image` (name in the label file), `mos` (on the data set's scale), `split`
            ("train", "val" or "test"), `path` (of the splits that were asked for, else missing) and the label file's
            own columns. The index is the row's number in the label file: it names the sample, whatever is left out.
        source: the label file.
        split_rule: in words, how the splits came about.
        notes: what a user should know about the table, one sentence each.
    """

    frame: pd.DataFrame
    source: Path
    split_rule: str
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> pd.DataFrame:
        """Return the rows of one split, in the label file's order."""
        return self.frame[self.frame["split"] == name]


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
) -> LabelTable:
    """Read a data set's labels, decide the splits and find the images of the splits that a run reads.

    UHD-IQA's full label file decides the split by its `set` column. Where there is no such column, or none of its
    validation images is there, the training rows are divided 80 / 20 by
    `numpy.random.RandomState(random_seed).permutation`, the split of the published code.

    Args:
        database: one of DATABASES.
        database_dir: where the images are: in it, in `<dir>/<set>` or in `<dir>/../<set>`.
        splits: the splits this run reads; only their images are looked for.
        metadata: the label file; without it, it is looked for beside and above `database_dir` under its published name.
        random_seed: of the random split, 0 <= random_seed < 2**32.
        split_by: a column whose groups the random split keeps together. It replaces the label file's own validation
            set; a test set stays.
        skip_missing: leave out images that are not there and rows without a finite opinion, instead of stopping.
        image_column, mos_column, split_column: names in a csv label file; a column "split" need not be there, one of
            another name must.

    Raises:
        TableError: no label file, unknown columns or splits, duplicate names, opinions that are not finite, missing
            images, or a split that would be empty.
    """
    if database not in DATABASES:
        raise TableError(f"unknown database {database!r}: choose from {', '.join(DATABASES)}")
    source = Path(metadata) if metadata else _find_label_file(database, Path(database_dir))
    frame = _read_labels(database, source, image_column, mos_column, split_column)
    notes = []
    frame, dropped = _check_labels(frame, source, skip_missing)
    if dropped:
        notes.append(f"{dropped} rows without a finite opinion were left out")

    find = _image_finder(Path(database_dir))
    rule = "the label file's own split"
    has_validation = (frame["split"] == "val").any()
    if has_validation and split_by is None and {"train", "val"} & set(splits):
        validation = frame[frame["split"] == "val"]
        if not any(find(*names) for names in validation[["image", FOLDER]].itertuples(index=False)):
            notes.append(f"none of the {len(validation)} official validation images is in {database_dir}")
            has_validation = False
    if (not has_validation or split_by is not None) and (frame["split"] == "train").any():
        frame, rule = _random_split(frame, source, random_seed, split_by)

    frame, lacking = _with_paths(frame, splits, find)
    if len(lacking):
        if not skip_missing:
            raise TableError(
                f"{len(lacking)} of the {frame['split'].isin(splits).sum() + len(lacking)} images that {source} lists "
                f"for {_listing(splits)} are not in {database_dir} (nor in its folders training, validation, test, nor "
                f"in those beside it): {_listing(lacking)}. Check --database_dir, or go on without them with "
                "--skip_missing"
            )
        notes.append(f"{len(lacking)} missing images were left out: {_listing(lacking)}")
    for split in splits:
        if not (frame["split"] == split).any():
            raise TableError(
                f"the {split} split of {source} is empty ({rule}); give a label file that has one with --metadata FILE"
            )
    return LabelTable(frame.drop(columns=FOLDER), source, rule, tuple(notes))


def data_fingerprint(table: pd.DataFrame) -> str:
    """Return a short hash of which images there are and what people thought of them (sha256 of names and opinions)."""
    lines = [f"{name}\t{mos:.9g}\n" for name, mos in zip(table["image"], table["mos"], strict=True)]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()[:16]


def _with_paths(
    frame: pd.DataFrame, splits: Sequence[str], find: Callable[[str, str], str | None]
) -> tuple[pd.DataFrame, pd.Series]:
    """Find the images of some splits; return the rows but those whose image is not there, and the names of these."""
    wanted = frame["split"].isin(splits)
    frame["path"] = None
    frame.loc[wanted, "path"] = [find(*names) for names in frame.loc[wanted, ["image", FOLDER]].itertuples(index=False)]
    lacking = frame[wanted & frame["path"].isna()]
    return frame.drop(lacking.index), lacking["image"]


def _find_label_file(database: str, folder: Path) -> Path:
    """Return the label file beside or above the images; the error lists every place tried."""
    names = PUBLISHED_NAMES[database]
    if not names:
        raise TableError(f"--database {database} needs its label file: give it with --metadata FILE")
    absolute = folder.absolute()
    tried = [place / name for place in (absolute, *absolute.parents[:3]) for name in names]
    for path in tried:
        if path.is_file():
            return path
    raise TableError(
        f"no label file of {database}; tried\n  "
        + "\n  ".join(map(str, tried))
        + "\nGive its place with --metadata FILE"
    )


def _read_labels(database: str, source: Path, image_column: str, mos_column: str, split_column: str) -> pd.DataFrame:
    """Return the label file: image, mos, split ("train" without a split column), FOLDER, and its other columns."""
    if not source.is_file():
        raise TableError(f"{source}: no such label file")
    try:
        with source.open("rb") as file:
            columns = max(len(re.findall(rb"[,\s]", file.readline(2**20))) for _ in range(2))
        if columns > _MAX_COLUMNS:
            raise TableError(f"{source}: a line of {columns} separators; no label file has so many columns")
        frame = _read_ava(source) if database == "AVA" else pd.read_csv(source, index_col=False)
    except TableError:
        raise
    except Exception as error:  # pandas raises many types for damaged files
        cause = one_line(error)
        raise TableError(f"{source}: cannot be read as a label file: {cause}") from error

    if database == "UHD_IQA":
        image_column, mos_column, split_column = "image_name", "quality_mos", "set"
    if database == "AVA":
        image_column, mos_column, split_column = "image", "mos", ""
    needed = [image_column, mos_column] + ([split_column] if split_column not in ("split", "set", "") else [])
    absent = [name for name in needed if name not in frame]
    if absent:
        raise TableError(
            f"{source}: no column {_listing(absent)}; it has {_listing(frame.columns)}. "
            "For a label file of your own use --database csv with --image_column and --mos_column"
        )
    nameless = frame.index[frame[image_column].isna()]
    if len(nameless):
        raise TableError(f"{source}: {len(nameless)} rows name no image: rows {_listing(nameless + 1)}")
    has_split = split_column in frame
    words = frame[split_column].map(str).str.strip() if has_split else pd.Series("", frame.index)
    opinions = frame[mos_column]
    if opinions.dtype.kind not in "biuf":  # as text, for pandas stops at a whole number of 400 digits
        opinions = opinions.map(str)
    ours = {
        "image": frame[image_column].map(str),
        "mos": pd.to_numeric(opinions, errors="coerce").astype(float),
        "split": words.str.lower().map(_SPLIT_WORDS) if has_split else pd.Series("train", frame.index),
        FOLDER: words,
    }
    unknown = words[ours["split"].isna()].unique()
    if len(unknown):
        raise TableError(
            f"{source}: column {split_column!r} holds {_listing(unknown)}; known: {_listing(_SPLIT_WORDS)}"
        )
    rest = frame.drop(columns=[name for name in {*ours, "path", image_column, mos_column} if name in frame])
    return pd.DataFrame(ours).join(rest)


def _read_ava(source: Path) -> pd.DataFrame:
    """Return AVA's images with the mean of their votes, 1 to 10.

    Reads the table of vote columns (`image_num`, `vote_1` ... `vote_10`) and the original space-separated `AVA.txt`
    (index, image, ten vote counts, two tags, challenge; Murray et al., CVPR 2012).
    """
    with source.open(encoding="utf-8", errors="replace") as lines:
        comma_separated = "," in lines.readline()
    if comma_separated:
        frame = pd.read_csv(source, index_col=False)
        votes = [f"vote_{rating}" for rating in range(1, 11)]
        absent = [name for name in ("image_num", *votes) if name not in frame]
        if absent:
            raise TableError(f"{source}: no column {_listing(absent)}; AVA's table has image_num, vote_1 ... vote_10")
        images, counts = frame["image_num"], frame[votes]
    else:
        frame = pd.read_csv(source, sep=r"\s+", header=None)
        if frame.shape[1] < 12:
            raise TableError(f"{source}: {frame.shape[1]} columns; AVA.txt has index, image and ten vote counts first")
        images, counts = frame[1], frame.iloc[:, 2:12]
    counts = counts.to_numpy(float)
    with np.errstate(invalid="ignore"):
        mos = counts @ np.arange(1, 11) / counts.sum(1)  # no votes: NaN, which is reported
    names = images.astype(str)
    return pd.DataFrame({"image": names.where(names.str.contains(r"\."), names + ".jpg"), "mos": mos})


def _check_labels(frame: pd.DataFrame, source: Path, skip_missing: bool) -> tuple[pd.DataFrame, int]:
    """Return the frame without unusable rows and their number; stop on duplicates, or on such rows unless skipped."""
    if frame.empty:
        raise TableError(f"{source}: the label file has no rows")
    duplicates = frame.loc[frame["image"].duplicated(), "image"].unique()
    if len(duplicates):
        raise TableError(f"{source}: {len(duplicates)} images are listed more than once: {_listing(duplicates)}")
    unusable = ~np.isfinite(frame["mos"])
    if unusable.any() and not skip_missing:
        raise TableError(
            f"{source}: {unusable.sum()} opinions are not finite numbers: {_listing(frame.loc[unusable, 'image'])}. "
            "Mend them, or go on without these images with --skip_missing"
        )
    return frame[~unusable].copy(), int(unusable.sum())


def _random_split(
    frame: pd.DataFrame, source: Path, random_seed: int, split_by: str | None
) -> tuple[pd.DataFrame, str]:
    """Divide the training rows (with split_by, the validation rows, too) 80 / 20.

    Returns:
        The frame, and the rule in words.
    """
    divided = frame.index[frame["split"] != "test"] if split_by else frame.index[frame["split"] == "train"]
    shuffle = np.random.RandomState(random_seed).permutation
    if split_by is None:
        frame = frame[frame["split"] != "val"].copy()  # official validation rows, none of which is there
        order = shuffle(len(divided))
        validation = divided[order[int(len(divided) * 0.8) :]]
        rule = f"80 / 20 of {len(divided)} training rows by RandomState({random_seed}).permutation"
    else:
        if split_by not in frame:
            raise TableError(f"{source}: --split_by {split_by}: no such column; it has {_listing(frame.columns)}")
        groups = frame.loc[divided, split_by].map(str)  # rows without an entry are one group
        names = np.sort(groups.unique())
        sizes = groups.value_counts()
        # Whole groups in random order train until the next would pass 80 %; the rest validate.
        names = names[shuffle(len(names))]
        training = names[np.cumsum(sizes[names]) <= len(divided) * 0.8]
        validation = divided[~groups.isin(training)]
        rule = f"80 / 20 of {len(divided)} rows by whole groups of {split_by!r}, RandomState({random_seed})"
    frame.loc[divided, "split"] = "train"
    frame.loc[validation, "split"] = "val"
    return frame, rule


def _image_finder(folder: Path) -> Callable[[str, str], str | None]:
    """Return a function that finds an image in <dir>, <dir>/<set> or <dir>/../<set>, reading each folder once."""
    listings: dict[Path, set[str]] = {}

    def holds(place: Path, name: str) -> bool:
        if "/" in name:
            return os.path.isfile(place / name)  # unlike Path.is_file, False for a name too long for a file
        if place not in listings:
            listings[place] = set(os.listdir(place)) if place.is_dir() else set()
        return name in listings[place]

    def find(name: str, set_name: str) -> str | None:
        places = [folder] if not set_name else [folder, folder / set_name, folder.absolute().parent / set_name]
        return next((str(place / name) for place in places if holds(place, name)), None)

    return find


def _listing(names: Sequence) -> str:
    """Return names for a message, the first few spelt out."""
    more = len(names) - _SHOWN
    return ", ".join(map(_shown, list(names)[:_SHOWN])) + (f" and {more} more" if more > 0 else "")


def _shown(name: object) -> str:
    """Return a name for a message: in one line, and not endless."""
    name = str(name)
    name = name if len(name) <= _SHOWN_LETTERS else name[:_SHOWN_LETTERS] + "..."
    return name if name.isprintable() else repr(name)
