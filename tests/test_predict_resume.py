"""A job of predict.py that is stopped, however, loses nothing that was computed, and goes on where it stopped."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import predict
from data import datasets
from utils.errors import EXIT_FAILED_IMAGES, EXIT_INTERRUPTED, EXIT_UNUSABLE_INPUT
from utils.reporting import pictures

ROOT = Path(__file__).parent.parent


def run(trained, *words: str) -> int:
    return predict.main(["--checkpoint", str(trained.best), "--device=cpu", "--num_workers=0", *map(str, words)])


def interrupt_at(monkeypatch, name: str) -> list[str]:
    """Press Ctrl-C when the photograph with this name is decoded; return the list of what was decoded."""
    decoded, original = [], datasets.to_rgb

    def to_rgb(path, *rest):
        decoded.append(Path(path).name)
        if Path(path).name == name:
            raise KeyboardInterrupt
        return original(path, *rest)

    monkeypatch.setattr(datasets, "to_rgb", to_rgb)
    return decoded


@pytest.mark.parametrize("words", [[], ["--num_workers=2"], ["--views=../views"]])
def test_ctrl_c_says_what_was_saved_and_resuming_equals_never_stopping(
    trained, photograph, tmp_path, monkeypatch, capsys, words
):
    (tmp_path / "photographs").mkdir()
    monkeypatch.chdir(tmp_path / "photographs")
    for number in range(8):
        image = Image.fromarray(np.roll(photograph, 11 * number, axis=1))
        image.save(f"{number}.png") if number != 2 else Path("2.png").write_text("no photograph")
    words = [".", "empty/*.jpg", "--batch_size=2", *words]
    assert run(trained, *words, "--csv=expected.csv", "--json=expected.json") == EXIT_FAILED_IMAGES
    drawn = {path.name: path.read_bytes() for path in tmp_path.glob("views/*")}
    shutil.rmtree("../views", ignore_errors=True)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        interrupt_at(patch, "6.png")
        assert run(trained, *words, "--csv=scores.csv") == EXIT_INTERRUPTED
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith("failed: "))
    saved = pd.read_csv("scores.csv.partial")["image"].tolist()
    assert 2 <= len(saved) <= 6
    assert line == f"interrupted: {len(saved)} rows are in scores.csv.partial; the same command with --resume goes on"

    assert run(trained, *words, "--csv=scores.csv") == EXIT_UNUSABLE_INPUT
    assert "--resume, or delete" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        decoded = interrupt_at(patch, "")
        words += ["--csv=scores.csv", "--json=scores.json", "--resume"]
        assert run(trained, *words) == EXIT_FAILED_IMAGES
        assert sorted(decoded) == sorted({f"{number}.png" for number in range(8)} - set(saved))
        decoded.clear()
        assert run(trained, *words) == EXIT_FAILED_IMAGES
        assert decoded == [], "nothing is left"
    assert Path("scores.csv").read_bytes() == Path("expected.csv").read_bytes()
    assert Path("scores.json").read_bytes() == Path("expected.json").read_bytes()
    assert {path.name: path.read_bytes() for path in tmp_path.glob("views/*")} == drawn


def test_resuming_with_another_model_is_refused_by_name(trained, exported, photographs, tmp_path, monkeypatch, capsys):
    words = [photographs, "--batch_size=1", f"--csv={tmp_path}/scores.csv"]
    with monkeypatch.context() as patch:
        interrupt_at(patch, "3.jpg")
        assert run(trained, *words) == EXIT_INTERRUPTED
    before = (tmp_path / "scores.csv.partial").read_bytes()
    for others, named in (
        (["--fragment_draws=2"], "fragment_draws 1, now it is 2"),
        (["--max_pixels=5000"], "max_pixels"),
        ([f"--checkpoint={exported.checkpoint}"], "checkpoint with the SHA-256"),
    ):
        assert run(trained, *words, "--resume", *others) == EXIT_UNUSABLE_INPUT
        assert named in capsys.readouterr().err
    assert (tmp_path / "scores.csv.partial").read_bytes() == before


def test_resuming_needs_a_csv(trained, photographs, capsys):
    with pytest.raises(SystemExit):
        run(trained, photographs, "--resume")
    assert "--csv FILE" in capsys.readouterr().err


def test_a_crash_while_drawing_keeps_the_rows_before(trained, photographs, tmp_path, monkeypatch, capsys):
    drawn = []

    def draw(*words):
        drawn.append(words)
        if len(drawn) == 3:
            raise SystemExit(9)  # as when the process dies

    monkeypatch.setattr(pictures, "draw_views", draw)
    with pytest.raises(SystemExit):
        run(trained, photographs, f"--views={tmp_path}", f"--csv={tmp_path}/scores.csv")
    assert len(pd.read_csv(tmp_path / "scores.csv.partial")) == 2
    assert "--resume goes on" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_equals_never_stopping(trained, tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    generator = np.random.default_rng(8)
    for number in range(200):
        coarse = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse.repeat(40, axis=0).repeat(40, axis=1)).save(folder / f"{number}.jpg")
    for number in (7, 100):
        (folder / f"{number}.jpg").write_text("no photograph")
    words = [sys.executable, ROOT / "predict.py", f"--checkpoint={trained.best}", folder, "--device=cpu"]
    words = [*map(str, words), "--batch_size=3", "--num_workers=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = {
        "cwd": tmp_path,
        "env": environment,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    assert subprocess.run([*words, "--csv=expected.csv"], check=False, **options).returncode == EXIT_FAILED_IMAGES

    partial = tmp_path / "scores.csv.partial"
    kills, saved = [], 0
    moments = random.Random(8)
    while len(kills) < 5:
        with subprocess.Popen([*words, "--csv=scores.csv", "--resume"], **options) as process:
            goal = saved + moments.randrange(1, 30)
            while process.poll() is None and (partial.read_bytes().count(b"\n") if partial.exists() else 0) < goal:
                time.sleep(0.002)
            assert process.poll() is None, process.stderr.read()
            time.sleep(moments.random() / 50)
            os.kill(process.pid, signal.SIGKILL)
        kills.append(process.wait())
        assert not (tmp_path / "scores.csv").exists()
        assert partial.read_bytes().count(b"\n") >= saved, "rows were lost"
        saved = partial.read_bytes().count(b"\n")
    assert kills == [-signal.SIGKILL] * 5
    finished = subprocess.run([*words, "--csv=scores.csv", "--resume"], check=False, **options)
    assert finished.returncode == EXIT_FAILED_IMAGES, finished.stderr
    rows = pd.read_csv(tmp_path / "scores.csv")
    assert len(rows) == 200
    assert rows["image"].is_unique
    assert (tmp_path / "scores.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()
    assert not partial.exists()
