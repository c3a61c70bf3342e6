"""Label files of known data sets: each published format gives one table of the same columns."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import prepare
from data.known_datasets import COLUMNS, KNOWN_DATASETS, SR4KIQA_FOLDS, SR4KIQA_TEST_FOLD, load_known_dataset
from data.label_files import TableError


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def biq2021(folder: Path) -> None:
    write(
        folder / "Train (Images and MOS).csv",
        "Image Name,MOS,,\nss03 (1).jpg,0.8471,,\nss01 (2).jpg,0.2,,\nss02 (3).jpg,0.5,,\n",
    )
    write(folder / "Test (Images and MOS).csv", "Image Name,MOS\nss03 (4).jpg,0.7321\n")
    for name in ("ss03 (1)", "ss01 (2)", "SS02 (3)", "ss03 (4)"):  # one name has another case than its label
        image(folder / "Images" / f"{name}.jpg")


def sr4kiqa(folder: Path) -> None:
    contents = [content for contents in SR4KIQA_FOLDS for content in contents]
    names = {content: f"{content}_Bicubic_x2.jpg" for content in contents} | {"Animal1": "DPSR_Animal1_x2.jpg"}
    write(folder / "MOS.csv", "".join(f"{name},0.5,3.{number % 9}\n" for number, name in enumerate(names.values())))
    for content, name in names.items():
        image(folder / content / name)


def uhd_iqa(folder: Path) -> None:
    rows = [
        (f"{number}.jpg", 0.5 + number / 100, split, f"person{number}")
        for number, split in enumerate(["training", "training", "validation", "test"])
    ]
    text = "".join(f'"{name}",{mos},"{split}","{person}"\n' for name, mos, split, person in rows)
    write(folder / "uhd-iqa-metadata.csv", '"image_name","quality_mos","set","user_name"\n' + text)
    for name, _, split, _ in rows:
        image(folder / "challenge" / split / name)


def ava(folder: Path) -> None:
    votes = "0 1 5 17 38 36 15 6 5 1"
    write(folder / "AVA.txt", "".join(f"{n} {1000 + n} {votes} 1 22 1396 \n" for n in range(1, 41)))
    for number in range(1, 41):
        image(folder / "images" / f"{1000 + number}.jpg")


def koniq(folder: Path) -> None:
    rows = "".join(
        f"{n}.jpg,0,0,25,73,7,105,{60 + n}.5,0.6,{split}\n"
        for n, split in enumerate(["training", "validation", "test"])
    )
    write(folder / "koniq10k_distributions_sets.csv", "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set\n" + rows)
    for number in range(3):
        image(folder / "1024x768" / f"{number}.jpg")
        image(folder / "512x384" / f"{number}.jpg")


def spaq(folder: Path) -> None:
    pytest.importorskip("openpyxl")
    frame = pd.DataFrame(
        {"Image name": [f"{n:05}.jpg" for n in range(1, 41)], "MOS": np.linspace(10, 90, 40), "Brightness": 50}
    )
    (folder / "Annotations").mkdir(parents=True)
    frame.to_excel(folder / "Annotations" / "MOS and Image attribute scores.xlsx", index=False)
    for name in frame["Image name"]:
        image(folder / "TestImage" / name)


def kadid(folder: Path) -> None:
    names = [(f"I{ref:02}_{kind:02}_01.png", f"I{ref:02}.png") for ref in range(1, 21) for kind in (1, 2)]
    write(
        folder / "dmos.csv",
        "dist_img,ref_img,dmos,var\n" + "".join(f"{name},{ref},4.57,0.496\n" for name, ref in names),
    )
    for name, _ in names:
        image(folder / "images" / name)


def simulated(folder: Path) -> None:
    arguments = ["synthetic", "--scenes", "5", "--height", "64", "--width", "64", "--num_workers", "1", "--overwrite"]
    assert prepare.main([*arguments, "--out", str(folder)]) == 0


MAKERS = {
    "simulated": simulated,
    "BIQ2021": biq2021,
    "SR4KIQA": sr4kiqa,
    "UHD_IQA": uhd_iqa,
    "AVA": ava,
    "KonIQ-10k": koniq,
    "SPAQ": spaq,
    "KADID-10k": kadid,
}


@pytest.fixture
def make(tmp_path):
    def make(name: str) -> Path:
        MAKERS[name](tmp_path / name)
        return tmp_path / name

    return make


def test_every_known_data_set_is_tried():
    assert MAKERS.keys() == KNOWN_DATASETS.keys()


@pytest.mark.parametrize("name", MAKERS)
def test_every_image_has_an_opinion_a_split_and_a_file(name, make):
    table, missing = load_known_dataset(name, make(name))
    assert not missing
    assert set(COLUMNS) <= set(table)
    assert all(Path(path).is_file() for path in table["path"])
    assert set(table["split"]) == {"train", "val", "test"}
    assert set(table["source"]) == {name}
    assert np.isfinite(table["mos"]).all()


@pytest.mark.parametrize(
    ("name", "column", "expected"),
    [
        ("BIQ2021", "mos", {"ss03 (1).jpg": 0.8471, "ss03 (4).jpg": 0.7321}),
        ("BIQ2021", "group", {"ss03 (1).jpg": "ss03", "ss02 (3).jpg": "ss02"}),
        ("BIQ2021", "split", {"ss03 (4).jpg": "test"}),
        ("SR4KIQA", "group", {"DPSR_Animal1_x2.jpg": "Animal1"}),
        ("SR4KIQA", "fold", {"DPSR_Animal1_x2.jpg": "3", "Face3_Bicubic_x2.jpg": "0"}),
        ("UHD_IQA", "split", {"0.jpg": "train", "2.jpg": "val", "3.jpg": "test"}),
        ("UHD_IQA", "group", {"2.jpg": "person2"}),
        ("AVA", "mos", {"1001.jpg": 699 / 124}),
        ("KonIQ-10k", "mos", {"2.jpg": 62.5}),
        ("KonIQ-10k", "split", {"0.jpg": "train", "1.jpg": "val", "2.jpg": "test"}),
        ("SPAQ", "mos", {"00001.jpg": 10.0, "00040.jpg": 90.0}),
        ("KADID-10k", "group", {"I03_02_01.png": "I03.png"}),
    ],
)
def test_labels_are_the_published_ones(name, column, expected, make):
    table = load_known_dataset(name, make(name))[0].set_index("image")
    for image_name, value in expected.items():
        assert table.loc[image_name, column] == (pytest.approx(value, abs=1e-3) if column == "mos" else value)


def test_koniqs_larger_images_are_preferred(make):
    table, _ = load_known_dataset("KonIQ-10k", make("KonIQ-10k"))
    assert {Path(path).parent.name for path in table["path"]} == {"1024x768"}


@pytest.mark.parametrize("name", ["SR4KIQA", "KADID-10k"])
def test_images_of_one_content_are_in_one_split(name, make):
    table, _ = load_known_dataset(name, make(name), seed=3)
    assert (table.groupby("group")["split"].nunique() == 1).all()


def test_the_last_fold_is_the_test_split(make):
    table, _ = load_known_dataset("SR4KIQA", make("SR4KIQA"))
    assert ((table["split"] == "test") == (table["fold"] == str(SR4KIQA_TEST_FOLD))).all()


def test_the_seed_decides_the_splits_that_are_not_published(make):
    folder = make("KADID-10k")
    first, again, other = (load_known_dataset("KADID-10k", folder, seed)[0]["split"] for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)


def test_an_unknown_split_is_refused_instead_of_drawn(make):
    folder = make("KonIQ-10k")
    path = folder / "koniq10k_distributions_sets.csv"
    path.write_text(path.read_text().replace("validation", "holdout"))
    with pytest.raises(TableError, match="column 'set' holds holdout"):
        load_known_dataset("KonIQ-10k", folder)


def test_missing_images_are_listed_and_the_others_kept(make):
    folder = make("BIQ2021")
    (folder / "Images" / "ss03 (1).jpg").unlink()
    table, missing = load_known_dataset("BIQ2021", folder)
    assert missing == ["ss03 (1).jpg"]
    assert len(table) == 3


@pytest.mark.parametrize("name", MAKERS)
def test_a_folder_without_the_label_file_is_refused_by_name(name, tmp_path):
    with pytest.raises(TableError, match=str(tmp_path)):
        load_known_dataset(name, tmp_path)


def test_a_data_set_without_any_image_is_refused(make):
    folder = make("BIQ2021")
    (folder / "Images").rename(folder / "elsewhere")
    with pytest.raises(TableError, match="none of the 4 images is in"):
        load_known_dataset("BIQ2021", folder)


def test_an_opinion_that_is_no_number_is_refused(make):
    folder = make("KADID-10k")
    (folder / "dmos.csv").write_text("dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,bad,1\n")
    with pytest.raises(TableError, match=r"no opinion: I01_01_01\.png"):
        load_known_dataset("KADID-10k", folder)


@pytest.mark.parametrize("line", ["Animal1_GT.jpg,0.4,", ",,"])
def test_an_empty_cell_is_an_image_without_an_opinion(make, line):
    folder = make("SR4KIQA")
    with (folder / "MOS.csv").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(TableError, match="1 images have no opinion"):
        load_known_dataset("SR4KIQA", folder)


@pytest.mark.parametrize(
    ("name", "file"),
    [("SR4KIQA", "MOS.csv"), ("AVA", "AVA.txt"), ("UHD_IQA", "uhd-iqa-metadata.csv")],
)
def test_a_missing_label_file_is_named(name, file, tmp_path):
    with pytest.raises(TableError, match=rf"{name}: there is no .*{file}.*; give the folder as its authors ship it"):
        load_known_dataset(name, tmp_path)
