"""Photographs that cannot be decoded: a training stops and names them, or goes on without them."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

import train
from utils.checkpoint import load_checkpoint
from utils.errors import EXIT_UNUSABLE_INPUT


def test_a_photograph_that_cannot_be_decoded_stops_or_is_left_out_and_listed(command, tiny_dataset, tmp_path, capsys):
    copy = tmp_path / "data"
    shutil.copytree(tiny_dataset, copy)
    broken = sorted((copy / "training").iterdir())[0]
    broken.write_bytes(b"no photograph")
    assert train.main(command("stop", folder=copy)) == EXIT_UNUSABLE_INPUT
    assert broken.name in capsys.readouterr().err
    for pairing in ("partner", "batch"):
        words = ["--on_bad_image=skip", f"--pairing={pairing}", "--num_epochs=2"]
        assert train.main(command(pairing, *words, folder=copy)) == 0
        assert "Skipped 1 images" in capsys.readouterr().out
        skipped = pd.read_csv(tmp_path / "logs" / pairing / "skipped.csv")
        assert [broken.name in image for image in skipped["image"]] == [True]


@pytest.fixture
def damaged(tiny_dataset, tmp_path) -> tuple[Path, Path, bytes]:
    """A copy of the tiny data set, and one of its validation photographs with its content, which is then destroyed."""
    copy = Path(shutil.copytree(tiny_dataset, tmp_path / "data"))
    broken = sorted((copy / "validation").iterdir())[0]
    whole = broken.read_bytes()
    broken.write_bytes(b"no photograph")
    return copy, broken, whole


def test_a_validation_photograph_that_cannot_be_decoded_stops_before_the_first_step(command, damaged, tmp_path, capsys):
    folder, broken, _ = damaged
    assert train.main(command("stop", folder=folder)) == EXIT_UNUSABLE_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert broken.name in line
    assert "--on_bad_image skip" in line
    assert not (tmp_path / "ckpts/stop/last.pth").exists()


def test_skipping_a_validation_photograph_is_validating_without_it(command, damaged, tmp_path, capsys):
    folder, broken, _ = damaged
    assert train.main(command("skipped", "--on_bad_image=skip", "--num_workers=1", folder=folder)) == 0
    assert "validation (5 of 6 images)" in capsys.readouterr().out
    skipped = pd.read_csv(tmp_path / "logs/skipped/skipped.csv")
    assert skipped["image"].tolist() == [str(broken)]
    broken.unlink()
    assert train.main(command("missing", "--skip_missing", folder=folder)) == 0
    histories = [pd.read_csv(tmp_path / "logs" / run / "history.csv") for run in ("skipped", "missing")]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    assert histories[0]["val_images"].tolist() == [5]
    skipped, missing = (load_checkpoint(tmp_path / "ckpts" / run / "best.pth") for run in ("skipped", "missing"))
    assert (skipped.calibration, skipped.branch_means) == (missing.calibration, missing.branch_means)


def test_a_training_goes_on_without_a_validation_photograph_that_was_damaged_meanwhile(command, damaged, tmp_path):
    folder, broken, whole = damaged
    damage = broken.read_bytes()
    broken.write_bytes(whole)
    assert train.main(command("run", folder=folder)) == 0
    broken.write_bytes(damage)
    words = ["--resume=auto", "--num_epochs=2"]
    assert train.main(command("run", *words, folder=folder)) == EXIT_UNUSABLE_INPUT
    assert train.main(command("run", *words, "--on_bad_image=skip", folder=folder)) == 0
    assert pd.read_csv(tmp_path / "logs/run/history.csv")["val_images"].tolist() == [6, 5]


def test_no_validation_photograph_at_all_is_an_error(command, damaged, tmp_path, capsys):
    folder, *_ = damaged
    for path in (folder / "validation").iterdir():
        path.write_bytes(b"no photograph")
    assert train.main(command("none", "--on_bad_image=skip", folder=folder)) == EXIT_UNUSABLE_INPUT
    assert "none of the validation images can be used" in capsys.readouterr().err
    assert not (tmp_path / "ckpts/none/last.pth").exists(), "it ends before the first step"


def test_a_validation_photograph_that_is_damaged_during_an_epoch_costs_no_epoch(
    command, damaged, tmp_path, monkeypatch, capsys
):
    folder, broken, whole = damaged
    monkeypatch.setattr(train, "unusable_images", lambda *_: [])  # it was intact before the first step
    assert train.main(command("broken", folder=folder)) == EXIT_UNUSABLE_INPUT
    assert broken.name in capsys.readouterr().err
    broken.write_bytes(whole)
    assert train.main(command("broken", "--resume=auto", folder=folder)) == 0
    assert train.main(command("whole", folder=folder)) == 0
    ends = [load_checkpoint(tmp_path / "ckpts" / run / "last.pth").state_dict for run in ("broken", "whole")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    broken, whole = (pd.read_csv(tmp_path / "logs" / run / "history.csv") for run in ("broken", "whole"))
    pd.testing.assert_frame_equal(broken, whole)


def test_a_training_photograph_that_is_damaged_during_an_epoch_costs_no_step(
    command, tiny_dataset, tmp_path, monkeypatch, capsys
):
    folder = Path(shutil.copytree(tiny_dataset, tmp_path / "data"))
    contents = {path: path.read_bytes() for path in (folder / "training").iterdir()}
    steps, seed = [], train.seed_torch

    def damage_before_the_second_step(*given) -> None:
        steps.append(given)
        seed(*given)
        for path in contents:
            path.write_bytes(b"no photograph")

    words = ["--pairing=batch", "--batch_size=1"]
    assert train.main(command("whole", *words, folder=folder)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(train, "seed_torch", damage_before_the_second_step)
        assert train.main(command("broken", *words, folder=folder)) == EXIT_UNUSABLE_INPUT
    assert "after step 1 of epoch 1; --resume auto" in capsys.readouterr().out
    for path, content in contents.items():
        path.write_bytes(content)
    assert train.main(command("broken", *words, "--resume=auto", folder=folder)) == 0
    ends = [load_checkpoint(tmp_path / "ckpts" / run / "last.pth").state_dict for run in ("broken", "whole")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    histories = [pd.read_csv(tmp_path / "logs" / run / "history.csv") for run in ("broken", "whole")]
    pd.testing.assert_frame_equal(*histories)


def test_a_history_that_was_not_written_is_written_when_the_run_is_resumed(command, tmp_path):
    assert train.main(command("run")) == 0
    history = tmp_path / "logs/run/history.csv"
    before = history.read_bytes()
    history.unlink()
    assert train.main(command("run", "--resume=auto")) == 0
    assert history.read_bytes() == before
