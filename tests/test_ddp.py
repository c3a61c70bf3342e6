"""Several processes are one: the same gradients, the same weights, every photograph scored once."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import train
from data.datasets import EpochBatches
from data.views import ViewSpec
from models import build_model

ROOT = Path(__file__).parent.parent
SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=2, salient_patch_dimension=64)
SCALE = {"mean": 0.5, "sd": 0.2}
CPU = torch.device("cpu")


def options_of(pairing: str, accumulate: int = 1) -> argparse.Namespace:
    names = {"lr": 1e-3, "weight_decay": 0.0, "decay_interval": 10, "decay_ratio": 0.9, "ema": 0.0, "amp": "off"}
    weights = {"lr_weight_L2": 0.1, "lr_weight_pair": 1.0}
    flags = {"compile": False, "multi_gpu": False, "pairing": pairing, "accumulate": accumulate}
    return argparse.Namespace(**names, **weights, **flags)


def batch_of(step: int, pairing: str, rank: int = 0, world: int = 1) -> tuple[dict, list[int]]:
    """Return a process's part of a random batch of 5 pairs or photographs, and how many photographs each part has."""
    generator = torch.Generator().manual_seed(step)
    members = 2 if pairing == "partner" else 1
    views = {
        name: torch.randint(0, 256, (members, 5, 3, 64, 64), dtype=torch.uint8, generator=generator)
        for name in SPEC.views
    }
    mos = torch.rand((members, 5), generator=generator)
    parts = [np.array_split(np.arange(5), world)[each] for each in range(world)]
    own = torch.from_numpy(parts[rank])
    batch = {
        "views": {name: view[:, own].flatten(0, 1) for name, view in views.items()},
        "mos": mos[:, own].flatten(),
        "errors": [],
    }
    return batch, [members * len(part) for part in parts]


def steps_of(pairing: str, accumulate: int = 1, steps: int = 20, rank: int = 0, world: int = 1) -> tuple[list, dict]:
    """Return the first step's gradients, and the weights and losses after some steps of SGD."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = build_model("UIQA", backbone="swin_nano", view_sizes=SPEC.view_sizes, stochastic_depth=0.0)
    options = options_of(pairing, accumulate)
    state = train.make_state(model, CPU, options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    gradients, losses = [], []
    for step in range(steps):
        batch, counts = batch_of(step, pairing, rank, world)
        optimizer.zero_grad(set_to_none=True)
        losses.append(train.backward(state, batch, counts, SCALE, SPEC, options).tolist())
        if not gradients:
            gradients = [parameter.grad.clone() for parameter in model.parameters()]
        optimizer.step()
    return gradients, {"weights": [parameter.detach().clone() for parameter in model.parameters()], "losses": losses}


def one_process(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    results = {pairing: steps_of(pairing, rank=rank, world=world) for pairing in ("partner", "batch")}
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    dist.destroy_process_group()


def assert_close(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    for one, other in zip(first, second, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm() + 1e-9


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> dict:
    """What two processes come to."""
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(one_process, (2, str(folder)), nprocs=2)
    return torch.load(folder / "results.pt", weights_only=True)


@pytest.mark.parametrize("pairing", ["partner", "batch"])
def test_two_processes_have_the_gradients_weights_and_losses_of_one(pairing, of_two):
    gradients, end = steps_of(pairing)
    assert_close(of_two[pairing][0], gradients)
    assert_close(of_two[pairing][1]["weights"], end["weights"])
    np.testing.assert_allclose(of_two[pairing][1]["losses"], end["losses"], rtol=1e-4)


def test_accumulating_parts_gives_the_gradient_of_the_whole():
    whole, parts = (steps_of("partner", accumulate, steps=1)[0] for accumulate in (1, 3))
    assert_close(parts, whole)


@pytest.mark.parametrize(("length", "batch_size", "world"), [(10, 4, 2), (9, 4, 3), (5, 8, 4)])
def test_the_processes_parts_are_the_batch(length, batch_size, world):
    whole = list(EpochBatches(length, batch_size, 3, range(2)))
    parts = [list(EpochBatches(length, batch_size, 3, range(2), rank=rank, world=world)) for rank in range(world)]
    assert [list(chain(*together)) for together in zip(*parts, strict=True)] == whole
    later = list(EpochBatches(length, batch_size, 3, range(2), first_step=1))
    assert later == whole[1:]


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
    words = [ROOT / "train.py", *tiny_model_options, *places, "--run=two", "--num_epochs=1", *common]
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

    folder = tmp_path / "photographs"
    folder.mkdir()
    sources = sorted(tiny_dataset.rglob("*.jpg"))
    for number in range(101):
        shutil.copy(sources[number % len(sources)], folder / f"{number}.jpg")
    (folder / "7.jpg").write_text("no photograph")
    tables = []
    for run in (torchrun, lambda *given: [sys.executable, *map(str, given)]):
        given = [ROOT / "predict.py", checkpoint, folder, f"--csv={tmp_path}/{len(tables)}.csv", *common]
        subprocess.run(run(*given), capture_output=True, text=True, check=False, env=environment())
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
    for line in process.stdout:
        if line.startswith("Epoch 2/"):
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = [int(child) for child in children if b"train.py" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert len(ranks) == 2
    os.kill(ranks[1], 9)
    began = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert process.returncode != 0
    assert not Path(f"/proc/{ranks[0]}").exists()
