"""Making packs: interrupted or not, the bytes are the same, and no record is made twice."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import prepare
from data.pack_format import JOURNAL, VIEWS, PackError, partial_folder
from data.packing import UnfinishedPack, plan_pack, remove_pack
from data.synthetic import make_synthetic_dataset
from data.tables import load_table
from data.views import ViewSpec
from utils.errors import EXIT_FAILED_IMAGES, EXIT_UNUSABLE_INPUT

ROOT = Path(__file__).parents[2]
CUT = ["--n_fragment=2", "--resize=72", "--crop_size=64", "--salient_patch_dimension=64"]
SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=2, salient_patch_dimension=64)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def images(tiny_dataset, tmp_path) -> Path:
    """A copy of the tiny data set that a test may damage."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "images"))


@pytest.fixture
def command(images, tmp_path):
    def make(*more: str) -> list[str]:
        return ["pack", f"--database_dir={images}", f"--out={tmp_path}/pack", *CUT, "--num_workers=0", *more]

    return make


@pytest.fixture
def reference(command, tmp_path) -> dict[str, bytes]:
    """The files of a pack made without interruption."""
    assert prepare.main(command(f"--out={tmp_path}/reference")) == 0
    return content(tmp_path / "reference")


def test_a_pack_is_a_file_of_views_and_a_manifest_and_has_no_test_image(reference, images):
    assert set(reference) == {VIEWS, "manifest.json"}
    labels = pd.read_csv(images / "uhd-iqa-metadata.csv")
    names = labels.loc[labels["set"] == "test", "image_name"]
    assert not any(f'"{name}"'.encode() in reference["manifest.json"] for name in names)


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


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_the_pack_is_the_same(reference, command, tmp_path):
    """The data set is small, so the process is killed once the journal has a given number of records."""
    words = [sys.executable, str(ROOT / "prepare.py"), *command("--num_workers=1")]
    journal = partial_folder(tmp_path / "pack") / JOURNAL
    moments = sorted(random.Random(time.time()).sample(range(1, 13), 5))
    for moment in moments:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        while process.poll() is None and (not journal.exists() or journal.read_text().count("\n") <= moment):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "pack").exists()
    assert subprocess.run(words, stdout=subprocess.DEVNULL, cwd=ROOT, check=False).returncode == 0
    assert content(tmp_path / "pack") == reference
    assert not partial_folder(tmp_path / "pack").exists()


@pytest.fixture
def interrupted(command, tmp_path, monkeypatch) -> Path:
    """The folder of a pack that was interrupted after seven records."""
    record, made = UnfinishedPack.record, []

    def interrupt(self, index, checksum):
        record(self, index, checksum)
        made.append(index)
        if len(made) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(UnfinishedPack, "record", interrupt)
    assert prepare.main(command()) == 130
    monkeypatch.undo()
    return partial_folder(tmp_path / "pack")


@pytest.mark.parametrize("finished", [True, False])
def test_if_the_file_of_views_is_missing_everything_is_made_again(
    reference, interrupted, command, tmp_path, capsys, finished
):
    """This also happens if the process is killed before it creates the file."""
    if finished:
        assert prepare.main(command()) == 0
    ((tmp_path / "pack" if finished else interrupted) / VIEWS).unlink()
    assert prepare.main(command()) == 0
    assert "18 to do" in capsys.readouterr().out
    assert content(tmp_path / "pack") == reference


@pytest.mark.parametrize("end", [b"", b'{"record": {"image": "1.j', b"\xff\xfe"], ids=["clean", "torn", "garbage"])
def test_records_in_the_journal_are_not_made_again(reference, interrupted, command, tmp_path, capsys, end):
    with (interrupted / JOURNAL).open("ab") as journal:
        journal.write(end)
    assert prepare.main(command()) == 0
    assert "11 to do" in capsys.readouterr().out
    assert content(tmp_path / "pack") == reference


def test_a_record_that_does_not_match_its_checksum_is_made_again(reference, interrupted, command, tmp_path, capsys):
    with (interrupted / VIEWS).open("r+b") as file:
        file.write(b"spoilt")
    assert prepare.main(command()) == 0
    assert "12 to do" in capsys.readouterr().out
    assert content(tmp_path / "pack") == reference


def test_a_complete_pack_is_checked_and_left_as_it_is(command, tmp_path, capsys):
    assert prepare.main(command()) == 0
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "pack").iterdir()}
    assert prepare.main(command()) == 0
    assert "is complete" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "pack").iterdir()} == before


def test_a_complete_pack_that_is_damaged_or_out_of_date_is_repaired(reference, command, images, tmp_path, capsys):
    assert prepare.main(command()) == 0
    with (tmp_path / "pack" / VIEWS).open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"spoil")
    assert prepare.main(command()) == 0
    assert "1 to do" in capsys.readouterr().out
    assert content(tmp_path / "pack") == reference

    changed = next((images / "training").iterdir())
    Image.open(changed).transpose(Image.Transpose.ROTATE_90).save(changed)
    assert prepare.main(command()) == 0
    assert prepare.main(command(f"--out={tmp_path}/fresh")) == 0
    assert content(tmp_path / "pack") == content(tmp_path / "fresh")
    assert content(tmp_path / "pack") != reference


@pytest.mark.parametrize("finished", [True, False])
def test_a_pack_with_other_settings_is_refused_and_replaced_on_demand(finished, command, tmp_path, capsys, monkeypatch):
    if not finished:
        monkeypatch.setattr(UnfinishedPack, "finish", lambda self: None)
    assert prepare.main(command()) == 0
    monkeypatch.undo()
    assert prepare.main(command("--draws=2", "--random_seed=9")) == EXIT_UNUSABLE_INPUT
    message = capsys.readouterr().err
    assert "draws is 4, here 2" in message
    assert "random_seed is 0, here 9" in message
    assert "--overwrite" in message
    assert prepare.main(command("--draws=2", "--overwrite")) == 0
    assert prepare.main(command("--draws=2")) == 0


@pytest.mark.parametrize("finished", [True, False])
def test_a_pack_of_another_data_set_is_refused_and_replaced_on_demand(finished, command, images, tmp_path, capsys):
    """The photographs of both data sets have the same names."""
    assert prepare.main(command()) == 0
    folder = tmp_path / "pack" if finished else (tmp_path / "pack").rename(partial_folder(tmp_path / "pack"))
    before = content(folder)
    other = tmp_path / "other"
    make_synthetic_dataset(other, scenes=4, seed=8, workers=1, height=240, width=320)
    assert prepare.main(command(f"--database_dir={other}")) == EXIT_UNUSABLE_INPUT
    message = capsys.readouterr().err
    assert "other photographs" in message
    assert "--overwrite" in message
    assert content(folder) == before
    assert prepare.main(command(f"--database_dir={other}", "--overwrite")) == 0


def test_a_folder_of_something_else_is_never_touched(command, tmp_path, capsys):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "thesis.tex").write_text("years of work")
    for more in ([], ["--overwrite"]):
        assert prepare.main(command(*more)) == EXIT_UNUSABLE_INPUT
        assert "not a pack" in capsys.readouterr().err
    assert (tmp_path / "pack" / "thesis.tex").read_text() == "years of work"


def test_a_disk_that_is_too_small_is_reported_before_the_work(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    assert prepare.main(command()) == EXIT_UNUSABLE_INPUT
    assert "are free" in capsys.readouterr().err
    assert not partial_folder(tmp_path / "pack").exists()


def test_the_disk_space_needed_is_printed(command, tmp_path, capsys):
    assert prepare.main(command()) == 0
    size = (tmp_path / "pack" / VIEWS).stat().st_size
    assert f"{size / 1e9:.2f} GB" in capsys.readouterr().out


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


def test_a_file_that_cannot_be_written_is_reported_in_one_line(command, tmp_path, monkeypatch, capsys):
    begin = UnfinishedPack.begin

    def begin_and_delete_the_file(self, paths):
        writer = begin(self, paths)
        writer.file.unlink()
        return writer

    monkeypatch.setattr(UnfinishedPack, "begin", begin_and_delete_the_file)
    assert prepare.main(command("--num_workers=1")) == EXIT_UNUSABLE_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be written: No such file" in line
    assert "is kept" in line


def test_an_image_whose_size_has_changed_since_the_plan_is_a_failure(images, tmp_path):
    rows = load_table("UHD_IQA", images, ("train",)).split("train")
    pack = UnfinishedPack(tmp_path / "pack", plan_pack(rows, SPEC, 0, 1))
    writer = pack.begin(rows["path"])
    Image.new("RGB", (500, 40)).save(rows["path"].iloc[1])
    assert writer[0][2] is None
    assert rows["path"].iloc[1] in writer[1][2]


def test_only_packs_are_removed_and_a_missing_one_is_ignored(tmp_path):
    remove_pack(tmp_path / "none")
    (tmp_path / "pack").mkdir()
    remove_pack(tmp_path / "pack")
    assert not (tmp_path / "pack").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("")
    with pytest.raises(PackError, match="not a pack"):
        remove_pack(tmp_path / "other")
