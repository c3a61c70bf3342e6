"""Scoring with Ray: the rows of predict.py, none missing, none repeated, and no image scored twice."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import predict
from utils.bulk.score_folder import ScoreFolder
from utils.errors import EXIT_FAILED_IMAGES, EXIT_INTERRUPTED, EXIT_UNUSABLE_INPUT

ROOT = Path(__file__).parents[3]
COUNT = 300
BROKEN = range(5, COUNT, 37)
MARK = "UIQA_RAY_TEST"  # in the environment of Ray's processes


def run(trained, *words: str) -> int:
    return predict.main(["--checkpoint", str(trained.best), "--device=cpu", *map(str, words)])


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--ray"], "--out DIR"),
        (["--ray", "--out=o", "--csv=scores.csv", "--map=maps"], "leave out --csv, --map"),
        (["--ray", "--out=o", "--device=cuda:1"], "auto, cpu or cuda"),
        (["--out=o"], "belongs to --ray"),
        (["--ray_actors=2"], "belongs to --ray"),
        (["--ray", "--out=o", "--ray_actors=0"], "at least 1"),
    ],
)
def test_contradictory_options_are_one_clear_error(trained, words, remedy, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as raised:
        run(trained, *words, "photo.jpg")
    assert raised.value.code == EXIT_UNUSABLE_INPUT
    message = capsys.readouterr().err
    assert remedy in message
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_torchrun_is_refused(trained, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        run(trained, "--ray", "--out", tmp_path / "out", "photo.jpg")
    assert "not torchrun" in capsys.readouterr().err


def test_without_ray_the_remedy_is_named(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(trained, "--ray", "--out", tmp_path / "out", "photo.jpg") == EXIT_UNUSABLE_INPUT
    assert "pip install -r requirements-ray.txt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def local_ray():
    """A small Ray on this machine, used by every predict.py of this process."""
    import ray

    folder = tempfile.mkdtemp(prefix="ray")  # pytest's folders are too deep: a socket's path has at most 107 letters
    os.environ[MARK] = folder  # which its processes inherit
    ray.init(
        "local",
        num_cpus=2,
        object_store_memory=200_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=folder,
        _system_config={"worker_niceness": 0},  # by default, workers have a lower priority than everything else
    )
    yield
    ray.shutdown()
    del os.environ[MARK]
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """A folder with 300 files, some of them broken."""
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(5)
    for number in range(COUNT):
        path = folder / f"{number:03d}.jpg"
        if number in BROKEN:
            path.write_text("no photograph")
        else:
            coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse.repeat(8, axis=0).repeat(8, axis=1)).save(path)
    return folder


@pytest.fixture(scope="module")
def expected(trained, photographs, tmp_path_factory) -> pd.DataFrame:
    """The rows of predict.py without Ray."""
    table = tmp_path_factory.mktemp("expected") / "scores.csv"
    assert run(trained, photographs, "--csv", table) == EXIT_FAILED_IMAGES
    return pd.read_csv(table).set_index("image")


def check(out: Path, expected: pd.DataFrame) -> None:
    """Check that a folder has exactly the expected rows, with scores within 1e-5.

    The quality of this model of two epochs changes hundreds of times faster than its score, in relation to which the
    last bits of a batch of another size are 1e-7.
    """
    scores = pd.read_parquet(out / "scores")
    failures = pd.read_parquet(out / "failures")
    assert scores["image"].is_unique
    assert failures["image"].is_unique
    good = expected[expected["error"].isna()].drop(columns="error")
    scores = scores.set_index("image").sort_index()
    assert list(scores.index) == sorted(good.index)
    assert list(scores.columns) == list(good.columns)
    good = good.sort_index()
    np.testing.assert_allclose(scores.pop("quality"), good.pop("quality"), rtol=1e-4)
    np.testing.assert_allclose(scores, good, atol=1e-5)
    bad = expected["error"].dropna()
    assert dict(zip(failures["image"], failures["error"], strict=True)) == bad.to_dict()


def written(out: Path) -> dict[Path, int]:
    return {part: part.stat().st_mtime_ns for part in out.glob("*/part-*.parquet")}


def actors() -> list[int]:
    """Return the processes of this test's actors that hold the model."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = mark in (process / "environ").read_bytes().split(b"\0")
            if is_ours and b"Scorer" in (process / "cmdline").read_bytes().split(b"\0")[0]:
                pids.append(int(process.name))
        except OSError:  # it has ended in the meantime
            continue
    return pids


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_an_interrupted_job_resumes_and_a_killed_actor_neither_loses_nor_repeats_rows(
    local_ray, trained, photographs, expected, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    words = ["--ray", "--ray_actors=2", "--batch_size=4", "--out", out]
    add = ScoreFolder.add
    calls, killed = [], []

    def add_and_interrupt(folder: ScoreFolder, kind: str, rows: pd.DataFrame) -> None:
        add(folder, kind, rows)
        calls.append(kind)
        if len(calls) == 40:
            raise KeyboardInterrupt

    def add_and_kill(folder: ScoreFolder, kind: str, rows: pd.DataFrame) -> None:
        add(folder, kind, rows)
        if not killed:
            killed.append(actors())
            assert killed[0], "no actor to kill"
            os.kill(max(killed[0]), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreFolder, "add", add_and_interrupt)
        assert run(trained, photographs, *words) == EXIT_INTERRUPTED
    parts = written(out)
    before = sum(len(pd.read_parquet(part)) for part in parts)
    assert 0 < before < COUNT

    with monkeypatch.context() as patch:
        patch.setattr(ScoreFolder, "add", add_and_kill)
        assert run(trained, photographs, *words) == EXIT_FAILED_IMAGES
    assert f"{COUNT} images: {COUNT - before} done now" in capsys.readouterr().out
    assert killed[0]
    assert parts.items() < written(out).items()
    check(out, expected)

    parts = written(out)
    expected.reset_index()[["image"]].to_csv(tmp_path / "list.csv", index=False)
    monkeypatch.chdir(photographs)  # the same images again, from a list and by other names
    assert run(trained, tmp_path / "list.csv", "007.jpg", *words) == EXIT_FAILED_IMAGES
    assert f"{COUNT} images: 0 done now" in capsys.readouterr().out
    assert written(out) == parts
    assert run(trained, "007.jpg", *words, "--fragment_draws=2") == EXIT_UNUSABLE_INPUT
    assert "fragment_draws 1, now it is 2" in capsys.readouterr().err


def descendants(mark: str) -> list[str]:
    """Return the processes that have a word in their environment."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                pids.append(process.name)
        except OSError:
            continue
    return pids


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_local_ray_is_quiet_and_leaves_no_process(trained, photographs, expected, tmp_path):
    mark = f"UIQA_TEST={tmp_path}"
    words = ["--checkpoint", trained.best, "--ray", "--out", "out", "--device=cpu", photographs]
    finished = subprocess.run(
        [sys.executable, ROOT / "predict.py", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "UIQA_TEST": str(tmp_path), "RAY_ADDRESS": "local", "RAY_worker_niceness": "0"},
        timeout=300,
    )
    assert finished.returncode == EXIT_FAILED_IMAGES, finished.stderr
    check(tmp_path / "out", expected)
    assert len(finished.stdout.splitlines()) == 1
    assert all(line.startswith("failed: ") for line in finished.stderr.splitlines()), finished.stderr
    assert len(finished.stderr.splitlines()) == len(BROKEN)
    ends = time.monotonic() + 20
    while descendants(mark) and time.monotonic() < ends:
        time.sleep(0.2)
    assert not descendants(mark)
