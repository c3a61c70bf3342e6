"""Several processes are one: torchrun trains, evaluates and scores as a single process does."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent


def torchrun(*words: str) -> list[str]:
    # Without the dashes torchrun would take --run for one of its own options.
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--", *map(str, words)]


def environment() -> dict:
    return os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_training_evaluation_and_prediction_run_under_torchrun(tiny_dataset, tiny_model_options, tmp_path):
    """One after the other: a training, its evaluation, and 101 loose photographs, each held against one process."""
    places = [f"--database_dir={tiny_dataset}", f"--snapshot={tmp_path}/ckpts", f"--logdir={tmp_path}/logs"]
    common = ["--device=cpu", "--num_workers=1"]
    words = [ROOT / "train.py", *tiny_model_options, *places, "--run=two", "--num_epochs=1", "--multi_gpu", *common]
    result = subprocess.run(torchrun(*words), capture_output=True, text=True, check=False, env=environment())
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Epoch 1/1 | validation") == 1, "one process alone prints"
    checkpoint = f"--checkpoint={tmp_path}/ckpts/two/best.pth"

    tables = []
    for run in (torchrun, lambda *given: [sys.executable, *map(str, given)]):
        logs = tmp_path / f"logs{len(tables)}"
        given = [ROOT / "test.py", checkpoint, f"--logdir={logs}", "--json=-", *common]
        result = subprocess.run(run(*given), capture_output=True, text=True, check=False, env=environment())
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["n"] == 6
        tables.append(pd.read_csv(logs / "two" / "predictions_test.csv"))
    assert tables[0]["image"].tolist() == tables[1]["image"].tolist()
    np.testing.assert_allclose(tables[0]["score"], tables[1]["score"], atol=1e-5)

    data = tmp_path / "data"
    shutil.copytree(tiny_dataset, data)
    sorted((data / "test").iterdir())[0].write_text("no photograph")
    given = [ROOT / "test.py", checkpoint, f"--database_dir={data}", f"--logdir={tmp_path}/bad", *common]
    result = subprocess.run(torchrun(*given), capture_output=True, text=True, check=False, env=environment())
    assert result.returncode == 1
    assert json.loads((tmp_path / "bad/two/test_test.json").read_text())["n"] == 5, "nobody stopped the one that writes"

    folder = tmp_path / "photographs"
    folder.mkdir()
    sources = sorted(tiny_dataset.rglob("*.jpg"))
    for number in range(101):
        shutil.copy(sources[number % len(sources)], folder / f"{number}.jpg")
    (folder / "7.jpg").write_text("no photograph")
    tables = []
    for run in (torchrun, lambda *given: [sys.executable, *map(str, given)]):
        given = [ROOT / "predict.py", checkpoint, folder, f"--csv={tmp_path}/{len(tables)}.csv", *common]
        given += ["--views", tmp_path / f"views{len(tables)}"]
        result = subprocess.run(run(*given), capture_output=True, text=True, check=False, env=environment())
        assert result.returncode == 1
        assert "7.jpg" in result.stderr
        assert len(list((tmp_path / f"views{len(tables)}").iterdir())) == 100
        tables.append(pd.read_csv(tmp_path / f"{len(tables)}.csv"))
    assert len(tables[0]) == 101
    assert tables[0]["image"].tolist() == tables[1]["image"].tolist()
    assert np.isnan(tables[0]["score"][7])
    np.testing.assert_allclose(tables[0]["score"], tables[1]["score"], atol=1e-5)


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_others_soon(tiny_dataset, tiny_model_options, tmp_path):
    places = [f"--database_dir={tiny_dataset}", f"--snapshot={tmp_path}/ckpts", f"--logdir={tmp_path}/logs"]
    words = [ROOT / "train.py", *tiny_model_options, *places, "--run=two", "--num_epochs=5000", "--device=cpu"]
    process = subprocess.Popen(
        torchrun(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )
    ranks = []
    try:
        for line in process.stdout:
            if line.startswith("Epoch 2/"):
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ranks = [int(child) for child in children if b"train.py" in Path(f"/proc/{child}/cmdline").read_bytes()]
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode != 0
        assert not Path(f"/proc/{ranks[0]}").exists()
    finally:  # a failed test leaves no training behind
        for pid in (process.pid, *ranks):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
