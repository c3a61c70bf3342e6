"""Resuming equals never stopping, whatever the interruption and whenever it came."""

import os
import resource
import signal
import subprocess
import sys
import weakref
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import train
from utils.checkpoint import load_checkpoint, load_model
from utils.errors import EXIT_UNUSABLE_INPUT, CheckpointError, RunError
from utils.training import run as run_module
from utils.training.run import run_lock
from utils.weights_file import write_weights_file

ROOT = Path(__file__).parents[3]
STEPS = 3  # an epoch of the tiny data set: 12 images, 4 pairs a step
OPTIONS = {
    "plain": [],
    "everything": ["--ema=0.9", "--clip_grad=1", "--accumulate=2", "--horizontal_flip", "--decay_interval=1"],
    "all pairs": ["--pairing=batch"],
    "half precision": ["--amp=bf16"],
    "scaled losses": ["--amp=fp16", "--clip_grad=1", "--ema=0.9"],
    "fine-tuning": [
        *("--freeze_stages=2", "--freeze_bn", "--trunk_lr_ratio=0.5", "--optimizer=adamw"),
        *("--schedule=cosine", "--warmup_epochs=1"),
    ],
}


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def assert_same_end(first: Path, second: Path) -> None:
    """Hold two runs' folders below ckpts/ and logs/ against each other: all weights and the history, bit for bit."""
    for name in ("last.pth", "best.pth"):
        one, other = (load_checkpoint(run / name) for run in (first, second))
        assert one.epoch == other.epoch
        assert_same_weights(one.state_dict, other.state_dict)
        if one.resume and one.resume.trained_weights:
            assert_same_weights(one.resume.trained_weights, other.resume.trained_weights)
    histories = [(run.parent.parent / "logs" / run.name / "history.csv").read_bytes() for run in (first, second)]
    assert histories[0] == histories[1]


def stop_at(monkeypatch, step: int, number: int = signal.SIGTERM) -> None:
    """Have a signal arrive while a step of the training is computed."""
    taken = iter(range(10**6))

    def seed_torch(*numbers: int) -> None:
        if next(taken) == step:
            os.kill(os.getpid(), number)
        seed(*numbers)

    seed = train.seed_torch
    monkeypatch.setattr(train, "seed_torch", seed_torch)


@pytest.mark.parametrize(
    ("options", "step"),
    [
        *[("plain", 0), ("plain", 2), ("everything", 4), ("all pairs", 3), ("fine-tuning", 4)],
        pytest.param("half precision", 5, marks=pytest.mark.slow),  # CPUs without bf16 instructions emulate them
    ],
)
def test_a_signal_saves_the_step_and_resuming_equals_never_stopping(
    options, step, command, tmp_path, monkeypatch, capsys
):
    words = [*OPTIONS[options], "--num_epochs=3"]
    assert train.main(command("whole", *words)) == 0
    with monkeypatch.context() as patched:
        stop_at(patched, step)
        assert train.main(command("parts", *words)) == 128 + signal.SIGTERM
    assert "--resume auto" in capsys.readouterr().out
    steps = 2 if options == "all pairs" else STEPS
    progress = load_checkpoint(tmp_path / "ckpts/parts/last.pth").resume.progress
    assert progress["epoch"] * steps + progress["step"] == step + 1, "no step is lost"
    assert train.main(command("parts", *words, "--resume=auto")) == 0
    assert_same_end(tmp_path / "ckpts/whole", tmp_path / "ckpts/parts")


def test_resuming_a_finished_training_changes_nothing_and_more_epochs_go_on(command, tmp_path):
    assert train.main(command("long", "--num_epochs=3")) == 0
    assert train.main(command("short", "--num_epochs=1")) == 0
    before = (tmp_path / "ckpts/short/last.pth").read_bytes()
    assert train.main(command("short", "--num_epochs=1", "--resume=auto")) == 0
    assert (tmp_path / "ckpts/short/last.pth").read_bytes() == before
    assert train.main(command("short", "--num_epochs=3", "--resume=auto")) == 0
    assert_same_end(tmp_path / "ckpts/long", tmp_path / "ckpts/short")


def test_a_cosine_schedule_is_resumed_with_its_own_number_of_epochs(command, capsys):
    assert train.main(command("run", "--schedule=cosine", "--num_epochs=1")) == 0
    words = command("run", "--schedule=cosine", "--num_epochs=2", "--resume=auto")
    assert train.main(words) == EXIT_UNUSABLE_INPUT
    assert "--num_epochs 2 (was 1)" in capsys.readouterr().err


def test_auto_begins_where_there_is_nothing_to_resume_and_a_path_must_be_there(command, tmp_path, capsys):
    assert train.main(command("new", "--num_epochs=1", "--resume=auto")) == 0
    assert train.main(command("other", "--num_epochs=1", f"--resume={tmp_path}/absent.pth")) == EXIT_UNUSABLE_INPUT
    assert "absent.pth" in capsys.readouterr().err
    absent = tmp_path / "ckpts/new/lsat.pth"
    assert train.main(command("other", "--num_epochs=2", f"--resume={absent}")) == EXIT_UNUSABLE_INPUT
    assert "lsat.pth: no such checkpoint" in capsys.readouterr().err, "nothing else is taken in its place"
    best = tmp_path / "ckpts/new/best.pth"
    assert train.main(command("other", "--num_epochs=2", f"--resume={best}")) == EXIT_UNUSABLE_INPUT
    assert "--pretrained_path" in capsys.readouterr().err


def test_auto_replaces_no_finished_run_whose_last_checkpoint_is_gone(command, tmp_path, capsys):
    assert train.main(command("run", "--num_epochs=1")) == 0
    for name in ("last.pth", "previous.pth"):
        (tmp_path / "ckpts/run" / name).unlink()
    best = (tmp_path / "ckpts/run/best.pth").read_bytes()
    assert train.main(command("run", "--num_epochs=1", "--resume=auto")) == EXIT_UNUSABLE_INPUT
    assert "last.pth is gone" in capsys.readouterr().err
    assert (tmp_path / "ckpts/run/best.pth").read_bytes() == best
    (tmp_path / "ckpts/run/best.pth").rename(tmp_path / "ckpts/run/previous.pth")
    assert train.main(command("run", "--num_epochs=1")) == EXIT_UNUSABLE_INPUT
    assert "previous.pth exists already" in capsys.readouterr().err


def test_a_training_is_not_resumed_with_its_images_in_another_order(command, tiny_dataset, tmp_path, capsys):
    table = pd.read_csv(tiny_dataset / "uhd-iqa-metadata.csv")
    words = command("run", "--num_epochs=2", f"--metadata={tmp_path}/labels.csv", "--resume=auto")
    table.to_csv(tmp_path / "labels.csv", index=False)
    assert train.main(words) == 0
    table[::-1].to_csv(tmp_path / "labels.csv", index=False)
    assert train.main(words) == EXIT_UNUSABLE_INPUT
    assert "the training images are in another order" in capsys.readouterr().err


def test_another_run_that_is_resumed_brings_its_best_along(command, tmp_path):
    assert train.main(command("one", "--num_epochs=2")) == 0
    last = tmp_path / "ckpts/one/last.pth"
    assert train.main(command("other", "--num_epochs=2", f"--resume={last}")) == 0
    assert (
        load_checkpoint(tmp_path / "ckpts/other/best.pth").epoch == load_checkpoint(last).resume.progress["best_epoch"]
    )


def test_another_run_that_is_resumed_replaces_no_run_unasked(command, tmp_path, capsys):
    for run in ("one", "other"):
        assert train.main(command(run, "--num_epochs=1")) == 0
    before = (tmp_path / "ckpts/other/last.pth").read_bytes()
    last = tmp_path / "ckpts/one/last.pth"
    assert train.main(command("other", "--num_epochs=2", f"--resume={last}")) == EXIT_UNUSABLE_INPUT
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "ckpts/other/last.pth").read_bytes() == before
    assert train.main(command("one", "--num_epochs=2", f"--resume={last}")) == 0


def flip_a_bit(path: Path) -> None:
    """Change a number of the largest tensor of a file, as a bad disk would."""
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
        content = archive.read(entry)
    whole = bytearray(path.read_bytes())
    whole[whole.index(content) + len(content) // 2] ^= 16
    path.write_bytes(whole)


@pytest.mark.parametrize("damage", ["cut short", "gone", "a flipped bit"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage, command, tmp_path, capsys):
    assert train.main(command("whole", "--num_epochs=3")) == 0
    assert train.main(command("run", "--num_epochs=3")) == 0
    last = tmp_path / "ckpts/run/last.pth"
    if damage == "gone":
        last.unlink()
    elif damage == "cut short":
        last.write_bytes(last.read_bytes()[:-1000])
    else:
        flip_a_bit(last)
    assert train.main(command("run", "--num_epochs=3", "--resume=auto")) == 0
    assert ("continuing from" in capsys.readouterr().err) == (damage != "gone")
    for path in (tmp_path / "ckpts/run").glob("*.pth"):
        assert load_checkpoint(path), "a damaged file is not kept as the one before"
    assert_same_end(tmp_path / "ckpts/whole", tmp_path / "ckpts/run")


def test_other_options_or_data_are_refused_by_name_and_harmless_ones_are_not(command, tmp_path, tiny_dataset, capsys):
    assert train.main(command("run", "--num_epochs=1")) == 0
    assert train.main(command("run", "--num_epochs=2", "--resume=auto", "--lr=0.1", "--ema=0.5")) == EXIT_UNUSABLE_INPUT
    message = capsys.readouterr().err
    assert "--lr 0.1 (was 0.001)" in message
    assert "--ema 0.5 (was 0.0)" in message
    table = pd.read_csv(tiny_dataset / "uhd-iqa-metadata.csv")
    table.assign(quality_mos=table["quality_mos"] * 0.9).to_csv(tmp_path / "labels.csv", index=False)
    other = [f"--metadata={tmp_path}/labels.csv", "--num_epochs=2", "--resume=auto"]
    assert train.main(command("run", *other)) == EXIT_UNUSABLE_INPUT
    assert "the images or MOS labels differ" in capsys.readouterr().err
    assert train.main(command("run", "--num_epochs=2", "--resume=auto", "--print_samples=1", "--num_workers=1")) == 0


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_leaves_the_last_good_checkpoint(command, tmp_path):
    """The limit on a file's size stands for the disk: what is written beyond it fails."""
    assert train.main(command("run", "--num_epochs=1")) == 0
    before = (tmp_path / "ckpts/run/last.pth").read_bytes()
    words = [sys.executable, str(ROOT / "train.py"), *command("run", "--num_epochs=3", "--resume=auto")]
    result = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
    )
    assert result.returncode == EXIT_UNUSABLE_INPUT
    assert "cannot be written" in result.stderr
    assert "last good" in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "ckpts/run/last.pth").read_bytes() == before
    assert load_model(tmp_path / "ckpts/run/best.pth")
    assert not list((tmp_path / "ckpts/run").glob("*.tmp"))
    assert train.main(command("run", "--num_epochs=3", "--resume=auto")) == 0


def test_a_checkpoint_that_cannot_be_written_is_one_clear_error(tmp_path, monkeypatch):
    write_weights_file(tmp_path / "last.pth", {"state_dict": {}, "number": 1})

    def full(*words, **more):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"last\.pth.*still holds the last good one"):
        write_weights_file(tmp_path / "last.pth", {"state_dict": {}, "number": 2})
    monkeypatch.undo()
    assert torch.load(tmp_path / "last.pth", weights_only=True)["number"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


def run_until_killed(words: list[str], seconds: float, number: int) -> int | None:
    """Run a training, kill it so many seconds after it began to train; return its exit code, None if killed."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if line.startswith("Device:"):
            break
    try:
        process.communicate(timeout=seconds)
        return process.returncode
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        process.communicate()
        return None


def kill_test(command, tmp_path, kills: int, epochs: int, longest: float) -> None:
    words = [f"--num_epochs={epochs}", "--save_every_steps=1", "--ema=0.9"]
    assert train.main(command("whole", *words)) == 0
    generator = np.random.default_rng(0)
    numbers = generator.permutation([signal.SIGKILL] * kills + [signal.SIGTERM] * (kills // 5))
    killed = 0
    for number in numbers:
        parts = [sys.executable, str(ROOT / "train.py"), *command("parts", *words, "--resume=auto")]
        if run_until_killed(parts, generator.uniform(0, longest), number) is not None:
            break
        killed += 1
        for path in (tmp_path / "ckpts/parts").glob("*.pth"):
            assert load_checkpoint(path), path
    assert train.main(command("parts", *words, "--resume=auto")) == 0
    assert_same_end(tmp_path / "ckpts/whole", tmp_path / "ckpts/parts")
    print(f"killed {killed} times")
    assert killed == len(numbers), "the training was too short to be killed so often"


@pytest.mark.slow
def test_killed_twenty_times_it_ends_the_same(command, tmp_path):
    kill_test(command, tmp_path, kills=20, epochs=75, longest=0.6)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("options", None),
        ("optimizer", None),
        ("options", 7),
        ("optimizer", {}),
        ("scheduler", 7),
        ("trained_weights", {"a": torch.zeros(1)}),
        ("progress", {"epoch": 1}),
    ],
)
def test_a_training_with_a_damaged_part_is_one_error_that_names_the_file(part, value, command, tmp_path, capsys):
    assert train.main(command("run", "--num_epochs=1")) == 0
    path = tmp_path / "ckpts/run/last.pth"
    content = torch.load(path, weights_only=True) | {part: value}
    if value is None:
        del content[part]
    torch.save(content, tmp_path / "odd.pth")
    assert train.main(command("odd", "--num_epochs=2", f"--resume={tmp_path}/odd.pth")) == EXIT_UNUSABLE_INPUT
    assert "odd.pth" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--resume=auto"], ["--overwrite"]], ids=" ".join)
def test_a_second_training_into_a_runs_folder_is_refused_while_the_first_runs(words, command, tmp_path, capsys):
    with run_lock(tmp_path / "ckpts/run"):
        assert train.main(command("run", "--num_epochs=1", *words)) == EXIT_UNUSABLE_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/ckpts/run: another training is using this run's folder" in line
    assert "--run" in line
    assert [path.name for path in (tmp_path / "ckpts/run").iterdir()] == [".lock"]


def test_a_training_locks_its_folder_until_it_ends(command, tmp_path, monkeypatch):
    def is_locked() -> bool:
        try:
            run_lock(tmp_path / "ckpts/run").close()
        except RunError:
            return True
        return False

    states, validate = [], train.validate

    def record(*given):
        states.append(is_locked())
        return validate(*given)

    monkeypatch.setattr(train, "validate", record)
    assert train.main(command("run", "--num_epochs=1")) == 0
    assert (states, is_locked()) == ([True], False)


def test_one_rank_locks_for_all(tmp_path, monkeypatch):
    with run_lock(tmp_path):
        monkeypatch.setattr(run_module, "rank", lambda: 1)
        with run_lock(tmp_path):
            pass


def test_a_resumed_checkpoint_is_gone_before_the_data_workers_start(command, monkeypatch):
    """They would keep it, as large as the model and its optimizer, in memory for the whole training."""
    assert train.main(command("run", "--num_epochs=1")) == 0
    weights, alive = [], []

    def load(path):
        checkpoint = load_checkpoint(path)
        weights.extend(map(weakref.ref, checkpoint.state_dict.values()))
        return checkpoint

    class Loader(train.DataLoader):
        def __init__(self, *words, **more):
            alive.extend(reference() is not None for reference in weights)
            super().__init__(*words, **more)

    monkeypatch.setattr(run_module, "load_checkpoint", load)
    monkeypatch.setattr(train, "DataLoader", Loader)
    assert train.main(command("run", "--num_epochs=2", "--resume=auto")) == 0
    assert alive
    assert not any(alive)
