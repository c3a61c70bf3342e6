"""Find and read label files: UHD-IQA's, AVA's in both formats, and your own CSV files."""

from pathlib import Path

import numpy as np
import pandas as pd

from data.csv_files import match_column, read_csv_table, to_numbers
from data.decode import EXTENSIONS
from data.files import listing, one_line

DATABASES = ("UHD_IQA", "AVA", "csv")
SET = "folder of the set"  # column: the split as the label file spells it, which is also the name of its image folder

_PUBLISHED_NAMES = {
    "UHD_IQA": ("uhd-iqa-metadata.csv", "uhd-iqa-training-metadata.csv"),
    "AVA": ("ground_truth_dataset.csv", "AVA.txt"),
}
_COLUMNS = {"UHD_IQA": ("image_name", "quality_mos", "set"), "AVA": ("image", "mos", "")}  # image, mos, split
_SPLIT_NAMES = {
    **dict.fromkeys(("training", "train"), "train"),
    **dict.fromkeys(("validation", "val", "valid"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Headers under which tables have their splits. Such a column is never ignored unasked, whatever its words.
_CALLED_SPLIT = ("split", "splits", "set", "partition", "phase", "fold", "usage", "test", "is_test", "istest")
_MAX_COLUMNS = 10_000  # of AVA.txt: pandas takes minutes to parse a million


class TableError(ValueError):
    """A label file, or the images it names, cannot be used; the message gives the file, the cause and the remedy."""


def find_label_file(database: str, folder: Path) -> Path:
    """Return the label file with a published name in the image folder or up to three folders above it.

    Raises:
        TableError: there is none; the message lists every path tried.
    """
    if database not in _PUBLISHED_NAMES:
        raise TableError(f"--database {database} needs its label file: give it with --metadata FILE")
    # A folder may be a link, or end in "..": also look above the folder that it leads to.
    folders = [path for start in (folder.absolute(), folder.resolve()) for path in (start, *start.parents[:3])]
    candidates = [parent / name for parent in dict.fromkeys(folders) for name in _PUBLISHED_NAMES[database]]
    for path in candidates:
        if path.is_file():
            return path
    tried = "\n  ".join(map(str, candidates))
    raise TableError(f"no label file of {database}; tried\n  {tried}\nGive its path with --metadata FILE")


def read_labels(
    database: str, source: Path, image_column: str, mos_column: str, split_column: str, needs_split: bool = True
) -> pd.DataFrame:
    """Read a label file.

    Args:
        database: one of DATABASES.
        source: the label file.
        image_column, mos_column, split_column: column names of a "csv" label file; a column "split" is optional, one of
            another name is not.
        needs_split: False if splits do not matter: then any column may be missing, and hold anything.

    Returns:
        One row an image, with columns `image`, `mos` (NaN if it is not a number), `split` ("train" for every row if the
        file has no such column), SET, and the file's other columns. The index is the row's number in the file.

    Raises:
        TableError: the file is missing or damaged, lacks a column, or has rows without an image name, unknown split
            names or duplicate images.
    """
    frame = _read_frame(database, source)
    columns = image_column, mos_column, split_column
    image_column, mos_column, split_column = _COLUMNS.get(database, columns)
    for name in filter(None, (image_column, mos_column, split_column)):
        frame = match_column(frame, name)
    is_split_required = needs_split and split_column not in ("split", "set", "")
    required = [image_column, mos_column, *([split_column] if is_split_required else [])]
    missing = [name for name in required if name not in frame]
    if missing:
        raise TableError(
            f"{source}: no column {listing(missing)}; it has {listing(frame.columns)}. {_header_hint(frame.columns)}"
        )
    if frame.empty:
        raise TableError(f"{source}: the label file has no rows")
    if needs_split:
        _check_split_is_used(database, frame, source, split_column)
    nameless = frame.index[frame[image_column] == ""]
    if len(nameless):
        raise TableError(f"{source}: {len(nameless)} rows have no image name: rows {listing(nameless + 1)}")
    images = frame[image_column]
    duplicates = images[images.duplicated()].unique()
    if len(duplicates):
        raise TableError(f"{source}: {len(duplicates)} images are listed more than once: {listing(duplicates)}")

    mos = frame[mos_column] if database == "AVA" else to_numbers(frame[mos_column])
    commas = frame.loc[mos.isna(), mos_column].astype(str).str.fullmatch(r"[+-]?\d+,\d+")
    if commas.any():
        example = frame.loc[commas.idxmax(), mos_column]
        raise TableError(
            f"{source}: column {mos_column!r} has decimal commas ({example}): write {example.replace(',', '.')}"
        )
    table = pd.DataFrame({"image": images, "mos": mos, "split": "train", SET: ""})
    if split_column in frame:
        table[SET] = frame[split_column]
        table["split"] = table[SET].str.lower().map(_SPLIT_NAMES)
        unknown = table.loc[table["split"].isna(), SET].replace("", "empty cells").unique()
        if len(unknown) and needs_split:
            known = listing(_SPLIT_NAMES)
            raise TableError(f"{source}: column {split_column!r} holds {listing(unknown)}; known: {known}")
        table["split"] = table["split"].fillna("train")
    others = frame.drop(columns=[*table, "path", image_column, mos_column], errors="ignore")
    return table.join(others.replace("", None))


def _header_hint(columns: pd.Index) -> str:
    """Say what to do about a header without the expected columns."""
    if (
        any(Path(name).suffix.lower() in EXTENSIONS for name in columns)
        or to_numbers(columns.to_series()).notna().any()
    ):
        return "The first line must be a header, such as image,mos,split"
    return (
        "For a label file of your own use --database csv, --image_column and --mos_column (--lower_is_better for DMOS)"
    )


def _check_split_is_used(database: str, frame: pd.DataFrame, source: Path, split_column: str) -> None:
    """Refuse a table whose split is in another column than the one that is read: its test rows would be trained on."""
    if split_column in frame or not split_column:
        return
    for name in frame:
        words = set(frame[name].astype(str).str.lower()) - {""}
        splits = {_SPLIT_NAMES[word] for word in words & _SPLIT_NAMES.keys()}
        is_called_split = database == "csv" and name.casefold().replace(" ", "_") in _CALLED_SPLIT
        if is_called_split or len(splits) > 1 or (words and words <= _SPLIT_NAMES.keys()):
            remedy = f"give it with --split_column {name}" if database == "csv" else f"call it {split_column}"
            raise TableError(
                f"{source}: its column {name!r} {'seems to hold' if is_called_split else 'holds'} splits: {remedy}"
                + (", or give --split_column '' to ignore it" if database == "csv" else "")
            )


def _read_frame(database: str, source: Path) -> pd.DataFrame:
    """Return a label file's own columns, for AVA `image` and `mos`."""
    if not source.is_file():
        raise TableError(f"{source}: no such label file; give one with --metadata FILE")
    try:
        return _read_ava(source) if database == "AVA" else read_csv_table(source)
    except TableError:
        raise
    except Exception as error:  # CsvError, OSError, and the many types that pandas raises for a damaged AVA.txt
        raise TableError(f"{source}: cannot be read as a label file: {one_line(error)}") from error


def _read_ava(source: Path) -> pd.DataFrame:
    """Return AVA's images with the mean of their votes, 1 to 10.

    Reads the table of vote columns (`image_num`, `vote_1` ... `vote_10`) and the original space-separated `AVA.txt`
    (index, image, ten vote counts, two tags, challenge; Murray et al., CVPR 2012).

    Differs from the paper: the published code's target is the sum of rating times votes, which also grows with the
    number of votes.
    """
    with source.open("rb") as file:
        start = file.readline(2**20) + file.readline(2**20)
    if b"," in start:
        frame = read_csv_table(source)
        votes = [f"vote_{rating}" for rating in range(1, 11)]
        missing = [name for name in ("image_num", *votes) if name not in frame]
        if missing:
            raise TableError(f"{source}: no column {listing(missing)}; AVA's table has image_num, vote_1 ... vote_10")
        images, counts = frame["image_num"], frame[votes].apply(to_numbers)
    else:
        if len(start.split()) > _MAX_COLUMNS:
            raise TableError(f"{source}: a line of {len(start.split())} fields; AVA.txt has 15")
        frame = pd.read_csv(source, sep=r"\s+", header=None, dtype={1: str}, keep_default_na=False, na_values=[""])
        if frame.shape[1] < 12:
            raise TableError(f"{source}: {frame.shape[1]} columns; AVA.txt has index, image and ten vote counts first")
        images, counts = frame[1], frame.iloc[:, 2:12]
    counts = counts.to_numpy(float)
    with np.errstate(invalid="ignore"):
        mos = counts @ np.arange(1, 11) / counts.sum(1)  # NaN without votes; load_table reports it
    names = images.astype(str)
    return pd.DataFrame({"image": names.where(names.str.contains(r"\."), names + ".jpg"), "mos": mos})
