"""Cutting a pack's records: what they depend on, and images that cannot be used."""

import os
from pathlib import Path

from PIL import Image

import prepare
from data.pack_format import partial_folder
from data.packing import plan_pack
from data.tables import load_table
from data.unfinished_pack import UnfinishedPack
from data.views import ViewSpec
from utils.errors import EXIT_FAILED_IMAGES, EXIT_UNUSABLE_INPUT

SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=2, salient_patch_dimension=64)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_number_of_workers_does_not_change_the_pack(reference, command, tmp_path):
    assert prepare.main(command("--num_workers=2")) == 0
    assert content(tmp_path / "pack") == reference


def test_the_options_may_come_from_a_training_config(reference, command, tmp_path, images):
    config = tmp_path / "run.yaml"
    config.write_text(
        "n_fragment: 2\nresize: 72\ncrop_size: 64\nsalient_patch_dimension: 64\nlr: 0.1\nbackbone: swin_s\n"
    )
    words = ["pack", f"--config={config}", f"--database_dir={images}", f"--out={tmp_path}/pack", "--num_workers=0"]
    assert prepare.main(words) == 0
    assert content(tmp_path / "pack") == reference


def test_an_image_that_cannot_be_decoded_is_reported_and_the_rest_packed(reference, command, images, tmp_path, capsys):
    """Once it is repaired, only that image is packed."""
    broken = sorted((images / "training").iterdir())[2]
    whole, stat = broken.read_bytes(), broken.stat()
    broken.write_bytes(whole[: len(whole) // 2])
    assert prepare.main(command()) == EXIT_FAILED_IMAGES
    message = capsys.readouterr().err
    assert message.count(str(broken)) == 1
    assert "unfinished" in message
    assert not (tmp_path / "pack").exists()
    broken.write_bytes(whole)
    os.utime(broken, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert prepare.main(command()) == 0
    assert "1 to do" in capsys.readouterr().out
    assert content(tmp_path / "pack") == reference


def test_unreadable_headers_are_listed_before_the_work(command, images, tmp_path, capsys):
    broken = sorted((images / "training").iterdir())[:2]
    for path in broken:
        path.write_text("no image")
    assert prepare.main(command()) == EXIT_UNUSABLE_INPUT
    message = capsys.readouterr().err
    assert all(str(path) in message for path in broken)
    assert not partial_folder(tmp_path / "pack").exists()


def test_an_image_that_is_too_long_and_thin_is_named_before_the_work(command, images, tmp_path, capsys):
    """Its record would be larger than all others combined."""
    path = next((images / "training").iterdir())
    Image.new("L", (1, 60_000)).save(path, format="PNG")
    assert prepare.main(command("--max_pixels=80000")) == EXIT_UNUSABLE_INPUT
    message = capsys.readouterr().err
    assert str(path) in message
    assert "--max_pixels 80000" in message
    assert not partial_folder(tmp_path / "pack").exists()


def test_an_image_whose_size_has_changed_since_the_plan_is_a_failure(images, tmp_path):
    rows = load_table("UHD_IQA", images, ("train",)).split("train")
    pack = UnfinishedPack(tmp_path / "pack", plan_pack(rows, SPEC, 0, 1))
    writer = pack.begin()
    Image.new("RGB", (500, 40)).save(rows["path"].iloc[1])
    assert writer[0][2] is None
    assert rows["path"].iloc[1] in writer[1][2]
