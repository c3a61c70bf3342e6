"""Packs that are interrupted, repaired, updated or replaced: the bytes are the same, and no record is made twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import prepare
from data import unfinished_pack
from data.pack_format import JOURNAL, MANIFEST, VIEWS, PackError, partial_folder
from data.synthetic import make_synthetic_dataset
from data.unfinished_pack import UnfinishedPack, pack_lock, remove_pack
from utils.errors import EXIT_UNUSABLE_INPUT

ROOT = Path(__file__).parents[2]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_pack_is_a_file_of_views_and_a_manifest_and_has_no_test_image(reference, images):
    assert set(reference) == {VIEWS, "manifest.json"}
    labels = pd.read_csv(images / "uhd-iqa-metadata.csv")
    names = labels.loc[labels["set"] == "test", "image_name"]
    assert not any(f'"{name}"'.encode() in reference["manifest.json"] for name in names)


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_the_pack_is_the_same(reference, command, tmp_path):
    """The data set is small, so the process is killed once the journal has a given number of records."""
    words = [sys.executable, str(ROOT / "prepare.py"), *command("--num_workers=1")]
    journal = partial_folder(tmp_path / "pack") / JOURNAL
    moments = sorted(random.Random(0).sample(range(1, 10), 5))
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

    def interrupt(self, index, entry):
        record(self, index, entry)
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


def test_a_file_that_cannot_be_written_is_reported_in_one_line(command, tmp_path, monkeypatch, capsys):
    begin = UnfinishedPack.begin

    def begin_and_delete_the_file(self):
        writer = begin(self)
        writer.file.unlink()
        return writer

    monkeypatch.setattr(UnfinishedPack, "begin", begin_and_delete_the_file)
    assert prepare.main(command("--num_workers=1")) == EXIT_UNUSABLE_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be written: No such file" in line
    assert "is kept" in line


def test_only_packs_are_removed_and_a_missing_one_is_ignored(tmp_path):
    remove_pack(tmp_path / "none")
    (tmp_path / "pack").mkdir()
    remove_pack(tmp_path / "pack")
    assert not (tmp_path / "pack").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("")
    with pytest.raises(PackError, match="not a pack"):
        remove_pack(tmp_path / "other")


def test_a_training_that_reads_a_pack_keeps_its_pixels_while_the_pack_is_updated(command, images, tmp_path):
    """An update without --overwrite and one with it; both leave the open file alone."""
    assert prepare.main(command()) == 0
    views = tmp_path / "pack" / VIEWS
    for more in ([], ["--overwrite"]):
        opened, before = np.memmap(views, mode="r"), views.read_bytes()
        changed = sorted((images / "training").iterdir())[len(more)]
        Image.open(changed).transpose(Image.Transpose.ROTATE_180).save(changed)
        assert prepare.main(command(*more)) == 0
        assert opened.tobytes() == before
        assert views.read_bytes() != before
    assert {path.name for path in tmp_path.iterdir()} == {"images", "pack", ".pack.lock"}


def test_until_an_update_is_finished_the_old_pack_can_be_read(command, images, tmp_path, monkeypatch, capsys):
    assert prepare.main(command()) == 0
    before = content(tmp_path / "pack")
    changed = sorted((images / "training").iterdir())[0]
    Image.open(changed).transpose(Image.Transpose.ROTATE_180).save(changed)

    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(UnfinishedPack, "finish", killed)
        assert prepare.main(command()) == 130
    assert content(tmp_path / "pack") == before
    assert prepare.main(command()) == 0
    assert "0 to do" in capsys.readouterr().out
    assert prepare.main(command(f"--out={tmp_path}/fresh")) == 0
    assert content(tmp_path / "pack") == content(tmp_path / "fresh") != before


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_killed_while_an_update_takes_its_place_the_next_command_puts_it_there(
    renamed, command, images, tmp_path, monkeypatch
):
    assert prepare.main(command()) == 0
    changed = sorted((images / "training").iterdir())[0]
    Image.open(changed).transpose(Image.Transpose.ROTATE_180).save(changed)
    rename, left = Path.rename, [renamed]

    def killed(self, target):
        if self.suffix != ".tmp" and target.name.startswith("pack"):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        patched.setattr(unfinished_pack.shutil, "rmtree", lambda folder: killed(folder, tmp_path / "pack"))
        assert prepare.main(command()) == 130
    assert prepare.main(command()) == 0
    assert prepare.main(command(f"--out={tmp_path}/fresh")) == 0
    assert content(tmp_path / "pack") == content(tmp_path / "fresh")
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"images", "pack", "fresh"}


def test_records_are_kept_when_a_photograph_before_them_is_left_out(command, images, tmp_path, capsys):
    assert prepare.main(command()) == 0
    labels = pd.read_csv(images / "uhd-iqa-metadata.csv")
    labels.loc[labels.index[labels["set"] == "training"][0], "set"] = "test"
    labels.to_csv(images / "uhd-iqa-metadata.csv", index=False)
    assert prepare.main(command()) == 0
    assert "17 photographs, 0.00 GB; 0 to do" in capsys.readouterr().out
    assert prepare.main(command(f"--out={tmp_path}/fresh")) == 0
    assert content(tmp_path / "pack") == content(tmp_path / "fresh")


def test_touched_photographs_are_not_packed_again(command, images, tmp_path, capsys):
    assert prepare.main(command()) == 0
    file = (tmp_path / "pack" / VIEWS).stat()
    for path in images.rglob("*.jpg"):
        os.utime(path, ns=(0, 10**18))
    assert prepare.main(command()) == 0
    assert "is complete" in capsys.readouterr().out
    assert (tmp_path / "pack" / VIEWS).stat().st_ino == file.st_ino
    assert f'"source_mtime_ns": {10**18}' in (tmp_path / "pack" / MANIFEST).read_text(), "not read again every time"


def test_a_second_packer_into_the_same_folder_is_refused(command, tmp_path, capsys):
    with pack_lock(tmp_path / "pack"):
        for more in ([], ["--overwrite"]):
            assert prepare.main(command(*more)) == EXIT_UNUSABLE_INPUT
            assert f"{tmp_path}/pack: another process is making this pack" in capsys.readouterr().err
    assert not partial_folder(tmp_path / "pack").exists()
    assert prepare.main(command()) == 0


def test_a_pack_with_other_files_in_it_is_not_replaced(command, images, tmp_path, capsys):
    assert prepare.main(command()) == 0
    (tmp_path / "pack" / "notes.txt").write_text("mine")
    changed = sorted((images / "training").iterdir())[0]
    Image.open(changed).transpose(Image.Transpose.ROTATE_180).save(changed)
    before = content(tmp_path / "pack")
    assert prepare.main(command()) == EXIT_UNUSABLE_INPUT
    assert "notes.txt" in capsys.readouterr().err
    assert content(tmp_path / "pack") == before


def test_a_pack_that_is_a_link_stays_on_its_disk(command, images, tmp_path):
    (tmp_path / "disk" / "pack").mkdir(parents=True)
    (tmp_path / "pack").symlink_to(tmp_path / "disk" / "pack")
    assert prepare.main(command()) == 0
    assert (tmp_path / "pack").is_symlink()
    assert (tmp_path / "disk" / "pack" / VIEWS).is_file()
