"""A step has the same gradient however its batch is divided, over parts of a pass or over processes."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from data.views import ViewSpec
from models import build_model
from utils.distributed import share_state
from utils.training.options import train_parser
from utils.training.state import begin
from utils.training.step import backward, training_step

SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=2, salient_patch_dimension=64)
SCALE = {"mean": 0.5, "sd": 0.2}
CPU = torch.device("cpu")


def options_of(pairing: str, accumulate: int = 1) -> argparse.Namespace:
    names = {"lr": 1e-3, "weight_decay": 0.0, "decay_interval": 10, "decay_ratio": 0.9, "ema": 0.0, "amp": "off"}
    weights = {"lr_weight_L2": 0.1, "lr_weight_pair": 1.0}
    weights |= {"distill_from": None, "distill_weight": 1.0}
    flags = {"device": "cpu", "compile": False, "multi_gpu": False, "pairing": pairing, "accumulate": accumulate}
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
    state = begin(model, CPU, options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    gradients, losses = [], []
    for step in range(steps):
        batch, counts = batch_of(step, pairing, rank, world)
        optimizer.zero_grad(set_to_none=True)
        losses.append(backward(state, batch, counts, SCALE, SPEC, options).tolist())
        if not gradients:
            gradients = [parameter.grad.clone() for parameter in model.parameters()]
        optimizer.step()
    return gradients, {"weights": [parameter.detach().clone() for parameter in model.parameters()], "losses": losses}


def one_process(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    results = {pairing: steps_of(pairing, rank=rank, world=world) for pairing in ("partner", "batch")}
    torch.save(averaged_of(rank), f"{folder}/averaged_{rank}.pt")
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    dist.destroy_process_group()


def averaged_of(rank: int) -> list[dict]:
    """Return the averaged model of a process that began with weights of its own: at the start, and when shared."""
    torch.manual_seed(rank)
    options = options_of("partner")
    options.ema = 0.9
    model = build_model("UIQA", backbone="timm:test_resnet", view_sizes=SPEC.view_sizes)
    state = begin(model, CPU, options)
    states = [{name: value.clone() for name, value in state.weights().items()}]
    for value in state.averaged.state_dict().values():
        value.add_(rank)  # what each process's batch normalisation has seen, for one
    share_state(state.evaluated)
    return [*states, state.weights()]


def assert_close(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    for one, other in zip(first, second, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm() + 1e-9


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """The folder of what two processes come to."""
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(one_process, (2, str(folder)), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def of_two(together) -> dict:
    return torch.load(together / "results.pt", weights_only=True)


def test_two_processes_average_and_validate_the_same_model(together):
    first, second = (torch.load(together / f"averaged_{rank}.pt", weights_only=True) for rank in range(2))
    for own, other in zip(first, second, strict=True):
        for name, value in own.items():
            assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("pairing", ["partner", "batch"])
def test_two_processes_have_the_gradients_weights_and_losses_of_one(pairing, of_two):
    gradients, end = steps_of(pairing)
    assert_close(of_two[pairing][0], gradients)
    assert_close(of_two[pairing][1]["weights"], end["weights"])
    np.testing.assert_allclose(of_two[pairing][1]["losses"], end["losses"], rtol=1e-4)


def test_accumulating_parts_gives_the_gradient_of_the_whole():
    whole, parts = (steps_of("partner", accumulate, steps=1)[0] for accumulate in (1, 3))
    assert_close(parts, whole)


@pytest.mark.parametrize("pairing", ["partner", "batch"])
def test_a_teacher_is_a_further_target_of_the_same_loss(pairing):
    torch.manual_seed(0)
    model = build_model("UIQA", backbone="swin_nano", view_sizes=SPEC.view_sizes)
    batch, counts = batch_of(0, pairing)
    teacher = batch["mos"].flip(0)

    def learn(mos: torch.Tensor, **more) -> tuple[torch.Tensor, torch.Tensor]:
        options = options_of(pairing)
        options.distill_from, options.distill_weight = ("teacher.csv", 0.25) if more else (None, 1.0)
        state = begin(model, CPU, options)
        model.zero_grad(set_to_none=True)
        losses = backward(state, batch | {"mos": mos} | more, counts, SCALE, SPEC, options)
        return losses, model.quality[0].weight.grad.clone()

    of_opinions, of_teacher, both = learn(batch["mos"]), learn(teacher), learn(batch["mos"], teacher=teacher)
    torch.testing.assert_close(both[0][0], of_opinions[0][0] + 0.25 * of_teacher[0][0])
    torch.testing.assert_close(both[0][1:], of_opinions[0][1:])  # the parts are told of the opinions
    torch.testing.assert_close(both[1], of_opinions[1] + 0.25 * of_teacher[1], atol=1e-6, rtol=1e-4)


def losses_of_twenty_steps(amp: str) -> list[float]:
    torch.manual_seed(0)
    model = build_model("UIQA", backbone="swin_nano", view_sizes=SPEC.view_sizes)
    words = [
        "--mos_scale=standardise",
        "--lr=0.001",
        f"--amp={amp}",
    ]
    options = train_parser().parse_args(words)
    state = begin(model, CPU, options)
    views = {name: torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8) for name in SPEC.views}
    batch = {"views": views, "mos": torch.linspace(-1, 1, 8), "errors": []}
    losses = []
    for _ in range(20):
        losses.append(training_step(state, batch, [8], {"mean": 0.0, "sd": 1.0}, SPEC, options)[0].item())
    return losses


def test_half_precision_learns_as_float32_does():
    half, whole = losses_of_twenty_steps("bf16"), losses_of_twenty_steps("off")
    assert np.isfinite(half).all()
    assert half[-1] < 0.7 * half[0]
    assert half != whole
    np.testing.assert_allclose(half[0], whole[0], rtol=0.05)
    assert abs(np.mean(half) - np.mean(whole)) < 0.05 * np.mean(whole)
