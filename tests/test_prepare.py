"""prepare.py: making the demo set and label tables. Packing is tested end to end with the packs."""

import pandas as pd
import pytest
from PIL import Image

import prepare
from data.decode import decode_rgb
from data.known_datasets import SR4KIQA_FOLDS
from data.seeding import Purpose, derive_generator
from data.synthetic import render_scene
from data.tables import load_table
from utils.errors import EXIT_INTERRUPTED, EXIT_UNUSABLE_INPUT

SMALL = ["--scenes=3", "--height=96", "--width=128", "--num_workers=1"]


def interrupt(*words, **more) -> None:
    raise KeyboardInterrupt


def test_a_data_set_is_made_and_replaced_only_with_overwrite(tmp_path, capsys, monkeypatch):
    out = ["synthetic", f"--out={tmp_path}", *SMALL]
    assert prepare.main(out) == 0
    labels = tmp_path / "uhd-iqa-metadata.csv"
    before = labels.read_bytes()
    assert prepare.main([*out, "--seed=5"]) == EXIT_UNUSABLE_INPUT
    assert "--overwrite" in capsys.readouterr().err
    assert labels.read_bytes() == before
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "make_synthetic_dataset", interrupt)
        assert prepare.main([*out, "--seed=5", "--overwrite"]) == EXIT_INTERRUPTED
    assert not (tmp_path / prepare.LABEL_FILE).exists(), "old opinions beside new images"
    assert prepare.main([*out, "--seed=5", "--overwrite"]) == 0
    assert labels.read_bytes() != before


def test_a_disk_without_space_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    assert prepare.main(["synthetic", f"--out={tmp_path}", *SMALL]) == EXIT_UNUSABLE_INPUT
    assert "free" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.jpg"))


def test_a_folder_that_cannot_be_created_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert prepare.main(["synthetic", f"--out={tmp_path}/file/below", *SMALL]) == EXIT_UNUSABLE_INPUT
    assert "file" in capsys.readouterr().err


@pytest.fixture
def opinion_sets(tmp_path):
    """Return arguments for two small data sets in their published formats, one with a look-alike of a test image."""
    rows = {"Train": [], "Test": []}
    (tmp_path / "BIQ2021" / "Images").mkdir(parents=True)
    for number in range(6):
        scene = render_scene(derive_generator(Purpose.SCENE, number % 5), 64, 64)  # the last is the first again
        name = f"ss0{number % 3 + 1} ({number}).jpg"
        Image.fromarray(scene).save(tmp_path / "BIQ2021" / "Images" / name, quality=95)
        rows["Train" if number else "Test"].append(f"{name},0.{number + 1}")
    for split, lines in rows.items():
        path = tmp_path / "BIQ2021" / f"{split} (Images and MOS).csv"
        path.write_text("\n".join(["Image Name,MOS", *lines]) + "\n")
    (tmp_path / "SR4KIQA").mkdir()
    contents = [content for fold in SR4KIQA_FOLDS for content in fold]
    lines = [f"{content}_NN_x2.jpg,0.5,{3 + number / 30}" for number, content in enumerate(contents)]
    (tmp_path / "SR4KIQA" / "MOS.csv").write_text("\n".join([*lines, "Face3_Gone_x8.jpg,0.1,1.4"]) + "\n")
    for content in contents:
        (tmp_path / "SR4KIQA" / content).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / "SR4KIQA" / content / f"{content}_NN_x2.jpg")
    return [
        "labels",
        f"BIQ2021={tmp_path}/BIQ2021",
        f"SR4KIQA={tmp_path}/SR4KIQA",
        "--out",
        f"{tmp_path}/out/opinions.csv",
    ]


def test_labels_of_several_data_sets_are_one_table_that_finds_its_images(opinion_sets, tmp_path, capsys):
    assert prepare.main(opinion_sets) == 0
    printed = capsys.readouterr().out
    assert "SR4KIQA: 1 labelled images are missing" in printed
    assert "Face3_Gone_x8.jpg" in printed
    assert "https://github.com/mb21100/SR4KIQA" in printed
    table = load_table(
        "csv", tmp_path / "out", metadata=tmp_path / "out" / "opinions.csv", source_column="source"
    ).frame
    assert table["source"].value_counts().to_dict() == {"SR4KIQA": 24, "BIQ2021": 6}
    assert not table["path"].isna().any()
    assert not table["image"].str.startswith("/").any()


def test_look_alikes_of_test_images_are_left_out_by_request(opinion_sets, tmp_path, capsys):
    assert prepare.main([opinion_sets[0], "--drop_look_alikes", *opinion_sets[1:]]) == 0
    printed = capsys.readouterr().out
    assert "1 training and validation images look like a test image and are left out: ss03 (5).jpg" in printed
    images = pd.read_csv(tmp_path / "out" / "opinions.csv")["image"]
    assert not images.str.contains("ss03 \\(5\\)").any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["TID2013=folder"], "TID2013=folder' is not NAME=FOLDER"),
        (["BIQ2021"], "is not NAME=FOLDER"),
        (["BIQ2021=missing_folder"], "missing_folder is not a folder"),
        (["SPAQ=.", "SPAQ=."], "given twice"),
        (["SPAQ=.", "--out=photo.jpg"], "photo.jpg has the extension of a photograph"),
    ],
)
def test_data_sets_that_cannot_be_read_are_named(words, message, tmp_path, capsys):
    try:
        code = prepare.main(["labels", "--out", f"{tmp_path}/out.csv", *words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_photographs_are_degraded_in_place_of_rendered_scenes(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for number in range(5):
        scene = render_scene(derive_generator(Purpose.SCENE, number), 96, 128 + 16 * number)
        Image.fromarray(scene).save(tmp_path / "photos" / f"{number}.png")
    words = ["synthetic", "--out", f"{tmp_path}/out", "--photographs", f"{tmp_path}/photos", "--num_workers", "1"]
    assert prepare.main([*words, "--scenes", "4"]) == 0
    assert "24 images of 4 photographs with simulated opinions" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out" / "uhd-iqa-metadata.csv")
    assert table["user_name"].nunique() == 4
    for name, versions in table.groupby("user_name"):
        width, height = Image.open(tmp_path / "photos" / name).size
        assert (versions["orig_width"] == width).all()
        assert (versions["orig_height"] == height).all()
        assert versions["set"].nunique() == 1
    sharp = table[table["degradation"] == "none"].iloc[0]
    written = decode_rgb(tmp_path / "out" / sharp["set"] / sharp["image_name"]).astype(int)
    assert abs(written - decode_rgb(tmp_path / "photos" / sharp["user_name"])).mean() < 3


def test_too_few_photographs_are_refused(tmp_path, capsys):
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    assert (
        prepare.main(["synthetic", "--out", f"{tmp_path}/out", "--photographs", str(tmp_path)]) == EXIT_UNUSABLE_INPUT
    )
    assert "has 1 photographs" in capsys.readouterr().err
