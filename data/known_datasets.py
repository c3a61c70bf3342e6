"""The published label files of known data sets, each read into one table of the same columns."""

import errno
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data.csv_files import to_numbers
from data.files import listing, one_line
from data.label_files import TableError, read_labels

COLUMNS = ("image", "mos", "split", "source", "group", "fold")
TEST_FRACTION, VAL_FRACTION = 0.2, 0.05
# Four folds of SR4KIQA's 24 contents, each with some of its faces, buildings, animals, landscapes and texts
SR4KIQA_FOLDS = (
    ("Animal2", "Face3", "Face5", "Nature9", "TextCompOut1", "TextSimpIn2"),
    ("CityStreetDay1", "CityStreetNight", "Nature6", "People4", "People5", "TextSimpOut2"),
    ("Animal3", "Building2", "Building5", "CityStreetDay2", "Face1", "TextCompIn1"),
    ("Animal1", "Building1", "Nature4", "People1", "TextCompIn3", "TextCompOut3"),
)
SR4KIQA_TEST_FOLD = 3
_Paths = Mapping[str, Path]  # of the images that are there, by `_key` of their names
_Reader = Callable[[Path, _Paths], pd.DataFrame]


@dataclass(frozen=True)
class KnownDataset:
    """A data set as its authors publish it.

    Attributes:
        read: given the folder and the paths of the images in it, returns `image` (the published name), `mos` and, where
            they are published, `split` ("train", "val", "test"), `group` and `fold`; higher `mos` are better.
        folders: where the images are, inside the data set's folder, in the order in which they are searched; patterns
            are allowed.
        group_is_unit: whether images of one group are alike, so that a random split must not divide them.
        terms: where its terms of use are stated.
    """

    read: _Reader
    folders: tuple[str, ...]
    group_is_unit: bool
    terms: str


def load_known_dataset(name: str, folder: str | os.PathLike, seed: int = 0) -> tuple[pd.DataFrame, list[str]]:
    """Read a data set's published labels and find its images.

    Where there is no official test split, 20 % of the images are the test split, and where there is no official
    validation split, 5 % of the training images are; at least two whole groups where images of a group are alike.
    Missing images take part in the draw, so that a partial download has the same splits; not those of SR4KIQA, whose
    content is unknown without the image.

    Args:
        name: a key of KNOWN_DATASETS.
        folder: as its authors ship it.
        seed: of the random splits.

    Returns:
        The rows whose image is there: `path`, and COLUMNS (`group` and `fold` are "" where there is none). And the
        published names of the images that are missing.

    Raises:
        TableError: the label file is missing or has another format, or none of its images is there.
    """
    dataset, folder = KNOWN_DATASETS[name], Path(folder)
    if not folder.is_dir():
        raise TableError(f"{name}: {folder} is not a folder")
    paths = find_images(folder, dataset.folders)
    try:
        table = dataset.read(folder, paths)
    except TableError:
        raise
    except FileNotFoundError as error:
        raise TableError(f"{name}: there is no {error.filename}; give the folder as its authors ship it") from error
    except (KeyError, ValueError, OSError, ImportError) as error:  # pandas raises several for another format
        raise TableError(f"{name}: the label file in {folder} cannot be read: {one_line(error)}") from error
    texts = {name: table[name].fillna("") if name in table else "" for name in ("split", "group", "fold")}
    table = table[["image", "mos"]].assign(**texts)
    unrated = table.loc[~np.isfinite(table["mos"]), "image"]
    if len(unrated):
        raise TableError(f"{name}: {len(unrated)} images have no opinion: {listing(unrated)}")
    table = _with_splits(table.assign(source=name), dataset.group_is_unit, seed)
    table["path"] = table["image"].map(lambda image: paths.get(_key(image)))
    missing = table.loc[table["path"].isna(), "image"].tolist()
    table = table.dropna(subset="path").reset_index(drop=True)
    if table.empty:
        raise TableError(
            f"{name}: none of the {len(missing)} images is in "
            + ", ".join(str(folder / part) for part in dataset.folders)
        )
    return table, missing


def find_images(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    """Return the files in folders by their names in lower case; an earlier folder takes precedence."""
    paths: dict[str, Path] = {}
    for pattern in patterns:
        for part in [folder] if pattern == "." else sorted(folder.glob(pattern)):
            if part.is_dir():
                for name in sorted(os.listdir(part)):
                    paths.setdefault(_key(name), part / name)
    return paths


def _key(image: str) -> str:
    return image.replace("\\", "/").rpartition("/")[2].strip().casefold()


def _with_splits(table: pd.DataFrame, group_is_unit: bool, seed: int) -> pd.DataFrame:
    """Fill in the splits that are not published."""
    units = table["group"].where(group_is_unit & (table["group"] != ""), table["image"])
    if (table["split"] == "").all():
        table["split"] = "train"
        table.loc[_drawn(units, TEST_FRACTION, seed), "split"] = "test"
    if not (table["split"] == "val").any():
        training = table["split"] == "train"
        table.loc[_drawn(units[training], VAL_FRACTION, seed), "split"] = "val"
    return table


def _drawn(units: pd.Series, fraction: float, seed: int) -> pd.Index:
    """Return the rows of randomly drawn units, at least two, which are about a fraction of all rows."""
    names = np.sort(units.unique())
    names = names[np.random.RandomState(seed).permutation(len(names))]
    counts = units.value_counts()[names].to_numpy()
    drawn = names[: max(2, int(np.searchsorted(np.cumsum(counts), fraction * len(units), side="right")))]
    return units.index[units.isin(drawn)]


def _read_biq2021(folder: Path, paths: _Paths) -> pd.DataFrame:
    """Read "Train (Images and MOS).csv" and "Test (Images and MOS).csv", MOS from 0 to 1; groups are the subsets."""
    parts = []
    for split, name in (("train", "Train (Images and MOS).csv"), ("test", "Test (Images and MOS).csv")):
        frame = _read_csv(folder / name)
        parts.append(pd.DataFrame({"image": frame["Image Name"], "mos": to_numbers(frame["MOS"]), "split": split}))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(group=table["image"].str.extract(r"^(ss\d+)", flags=re.IGNORECASE)[0].str.lower())


def _read_sr4kiqa(folder: Path, paths: _Paths) -> pd.DataFrame:
    """Read MOS.csv, which has no header: image, MOS from 0 to 1, MOS from 1 to 5.

    The content of an image is the folder that it is in; that of a missing image is not known.
    """
    frame = pd.read_csv(folder / "MOS.csv", header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    contents = frame[0].map(lambda image: paths[_key(image)].parent.name if _key(image) in paths else None)
    fold_of = {content: number for number, contents in enumerate(SR4KIQA_FOLDS) for content in contents}
    unknown = set(contents.dropna()) - set(fold_of)
    if unknown:
        raise TableError(
            f"SR4KIQA: {folder} has contents that are not in the published set: {listing(sorted(unknown))}"
        )
    folds = contents.map(fold_of).astype("Int64")
    splits = folds.map(lambda fold: "test" if fold == SR4KIQA_TEST_FOLD else "train", na_action="ignore")
    columns = {"split": splits, "group": contents, "fold": folds.astype("string")}
    return pd.DataFrame({"image": frame[0], "mos": to_numbers(frame[2])}).assign(**columns)


def _read_published(database: str, path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such label file", str(path))
    return read_labels(database, path, "", "", "")


def _read_uhd_iqa(folder: Path, paths: _Paths) -> pd.DataFrame:
    """Read uhd-iqa-metadata.csv (Hosu et al., ECCV 2024 Workshops)."""
    table = _read_published("UHD_IQA", folder / "uhd-iqa-metadata.csv")
    return table.assign(group=table["user_name"])


def _read_simulated(folder: Path, paths: _Paths) -> pd.DataFrame:
    """Read what `prepare.py synthetic` wrote, in UHD-IQA's format; groups are the faults."""
    table = _read_published("UHD_IQA", folder / "uhd-iqa-metadata.csv")
    return table.assign(group=table["degradation"])


def _read_ava(folder: Path, paths: _Paths) -> pd.DataFrame:
    """Read AVA.txt (Murray et al., CVPR 2012)."""
    return _read_published("AVA", folder / "AVA.txt")[["image", "mos"]]


def _read_koniq(folder: Path, paths: _Paths) -> pd.DataFrame:
    """Read koniq10k_distributions_sets.csv: MOS from 1 to 100 and the official split (Hosu et al., IEEE TIP 2020)."""
    frame = _read_csv(folder / "koniq10k_distributions_sets.csv")
    splits = frame["set"].map({"training": "train", "validation": "val", "test": "test"})
    if splits.isna().any():
        raise TableError(f"KonIQ-10k: column 'set' holds {listing(frame.loc[splits.isna(), 'set'].unique())}")
    return pd.DataFrame({"image": frame["image_name"], "mos": to_numbers(frame["MOS"]), "split": splits})


def _read_spaq(folder: Path, paths: _Paths) -> pd.DataFrame:
    """Read "MOS and Image attribute scores.xlsx", MOS from 0 to 100 (Fang et al., CVPR 2020); it needs openpyxl."""
    name = "MOS and Image attribute scores.xlsx"
    path = next((path for path in (folder / "Annotations" / name, folder / name) if path.is_file()), None)
    if path is None:
        raise TableError(f"SPAQ: {folder} has no Annotations/{name}")
    frame = pd.read_excel(path, dtype=str, keep_default_na=False)
    return pd.DataFrame({"image": frame["Image name"], "mos": to_numbers(frame["MOS"])})


def _read_kadid(folder: Path, paths: _Paths) -> pd.DataFrame:
    """Read dmos.csv, whose opinions rise with quality from 1 to 5 despite their name (Lin et al., QoMEX 2019)."""
    frame = _read_csv(folder / "dmos.csv")
    return pd.DataFrame({"image": frame["dist_img"], "mos": to_numbers(frame["dmos"]), "group": frame["ref_img"]})


def _read_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")


KNOWN_DATASETS: Mapping[str, KnownDataset] = {
    "BIQ2021": KnownDataset(_read_biq2021, ("Images",), False, "https://github.com/nisarahmedrana/BIQ2021"),
    "SR4KIQA": KnownDataset(_read_sr4kiqa, ("*",), True, "https://github.com/mb21100/SR4KIQA"),
    "UHD_IQA": KnownDataset(
        _read_uhd_iqa,
        (".", "training", "validation", "test", "challenge/training", "challenge/validation", "challenge/test"),
        True,
        "https://database.mmsp-kn.de/uhd-iqa-benchmark-database.html",
    ),
    "simulated": KnownDataset(
        _read_simulated, ("training", "validation", "test"), True, "those of the photographs that were degraded"
    ),
    "AVA": KnownDataset(_read_ava, ("images", "image", "."), False, "https://github.com/imfing/ava_downloader"),
    "KonIQ-10k": KnownDataset(
        _read_koniq, ("1024x768", "512x384"), False, "https://database.mmsp-kn.de/koniq-10k-database.html"
    ),
    "SPAQ": KnownDataset(_read_spaq, ("TestImage",), False, "https://github.com/h4nwei/SPAQ"),
    "KADID-10k": KnownDataset(_read_kadid, ("images",), True, "https://database.mmsp-kn.de/kadid-10k-database.html"),
}
