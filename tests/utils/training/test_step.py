"""A step has the same gradient however its batch is divided, over parts of a pass or over ranks."""

import argparse
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import train
from data.views import ViewSpec
from models import build_model
from utils.distributed import broadcast_model
from utils.training.options import train_parser
from utils.training.run import Run
from utils.training.signals import Interruption
from utils.training.state import TrainingState, begin

pytestmark = pytest.mark.xdist_group("two_ranks")  # on one worker, or each would start the two ranks

SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=2, salient_patch_dimension=64)
CPU = torch.device("cpu")


def options_of(*arguments: str) -> argparse.Namespace:
    return train_parser().parse_args(["--device=cpu", "--lr=0.001", "--weight_decay=0", *arguments])


def batch_of(step: int, pairing: str, rank: int = 0, world_size: int = 1, photographs: int = 5) -> dict:
    """Return a rank's part of a random batch of pairs or photographs; opinions are on the scale of the loss."""
    generator = torch.Generator().manual_seed(step)
    members = 2 if pairing == "partner" else 1
    views = {
        name: torch.randint(0, 256, (members, photographs, 3, 64, 64), dtype=torch.uint8, generator=generator)
        for name in SPEC.views
    }
    mos = 5 * torch.rand((members, photographs), generator=generator) - 2.5
    own = torch.from_numpy(np.array_split(np.arange(photographs), world_size)[rank])
    own_mos = mos[:, own].flatten()
    return {
        "views": {name: view[:, own].flatten(0, 1) for name, view in views.items()},
        "mos": own_mos,
        "index": np.arange(len(own_mos)),
        "errors": [],
    }


def train_on(state: TrainingState, batches: list[dict], options: argparse.Namespace) -> list[float]:
    """Train an epoch of these batches with the loop of train.py; return the losses of each step."""
    losses = []
    data = SimpleNamespace(
        training=SimpleNamespace(paths=["a.jpg"] * 100, target_names=tuple(options.targets)), has_sources=False
    )
    curves = SimpleNamespace(add_images=lambda *_: None, add_scalar=lambda name, value, step: losses.append(value))
    run = Run(options, data, SPEC, CPU, Path(), Path(), curves, Interruption())
    options.print_samples = 1
    state.epoch = state.step = 0
    train.train_one_epoch(state, iter(batches), len(batches), run)
    return np.reshape(losses, (len(batches), 3)).tolist()


def results_of(pairing: str, accumulate: int = 1, steps: int = 20, rank: int = 0, world_size: int = 1) -> tuple:
    """Return the first step's gradients, and the weights and losses after some steps of SGD."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = build_model("UIQA", backbone="swin_nano", view_sizes=SPEC.view_sizes, stochastic_depth=0.0)
    options = options_of(f"--pairing={pairing}", f"--accumulate={accumulate}")
    options.targets = ["mos"]
    state = begin(model, CPU, options)
    state.optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    gradients = []

    def keep_gradients(*_) -> None:
        if not gradients:
            gradients.extend(parameter.grad.clone() for parameter in model.parameters())

    state.optimizer.register_step_pre_hook(keep_gradients)
    losses = train_on(state, [batch_of(step, pairing, rank, world_size) for step in range(steps)], options)
    return gradients, {"weights": [parameter.detach().clone() for parameter in model.parameters()], "losses": losses}


def train_as_rank(rank: int, world_size: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    results = {pairing: results_of(pairing, rank=rank, world_size=world_size) for pairing in ("partner", "batch")}
    empty = results_of_an_empty_rank(rank, world_size)
    torch.save(averaged_of(rank), f"{folder}/averaged_{rank}.pt")
    if rank == 0:
        torch.save(results | {"empty": empty}, f"{folder}/results.pt")
    dist.destroy_process_group()


def results_of_an_empty_rank(rank: int, world_size: int) -> list[torch.Tensor]:
    """Return the weights after a step in which only rank 0 has a pair."""
    torch.manual_seed(0)
    model = build_model("UIQA", backbone="swin_nano", view_sizes=SPEC.view_sizes, stochastic_depth=0.0)
    options = options_of()
    options.targets = ["mos"]
    state = begin(model, CPU, options)
    state.optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train_on(state, [batch_of(0, "partner", rank, world_size, photographs=1)], options)
    return [parameter.detach().clone() for parameter in model.parameters()]


def averaged_of(rank: int) -> list[dict]:
    """Return the averaged model of a rank that began with its own weights: at the start, and after broadcasting."""
    torch.manual_seed(rank)
    model = build_model("UIQA", backbone="timm:test_resnet", view_sizes=SPEC.view_sizes)
    state = begin(model, CPU, options_of("--ema=0.9"))
    states = [{name: value.clone() for name, value in state.weights().items()}]
    for value in state.evaluated.state_dict().values():
        value.add_(rank)  # as batch normalisation differs between ranks
    broadcast_model(state.evaluated)
    return [*states, state.weights()]


def assert_close(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    for one, other in zip(first, second, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm() + 1e-9


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> Path:
    """The folder of what two ranks have computed."""
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(train_as_rank, (2, str(folder)), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def results_of_two(two_ranks) -> dict:
    return torch.load(two_ranks / "results.pt", weights_only=True)


def test_two_ranks_average_and_validate_the_same_model(two_ranks):
    first, second = (torch.load(two_ranks / f"averaged_{rank}.pt", weights_only=True) for rank in range(2))
    for own, other in zip(first, second, strict=True):
        for name, value in own.items():
            assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("pairing", ["partner", "batch"])
def test_two_ranks_have_the_gradients_weights_and_losses_of_one(pairing, results_of_two):
    gradients, results = results_of(pairing)
    assert_close(results_of_two[pairing][0], gradients)
    assert_close(results_of_two[pairing][1]["weights"], results["weights"])
    np.testing.assert_allclose(results_of_two[pairing][1]["losses"], results["losses"], rtol=1e-4)


def test_a_rank_without_photographs_changes_nothing(results_of_two):
    assert_close(results_of_two["empty"], results_of_an_empty_rank(0, 1))


def test_accumulating_parts_gives_the_gradient_of_the_whole_batch():
    whole, parts = (results_of("partner", accumulate, steps=1) for accumulate in (1, 3))
    assert_close(parts[0], whole[0])
    np.testing.assert_allclose(parts[1]["losses"], whole[1]["losses"], rtol=1e-5)


@pytest.mark.parametrize("pairing", ["partner", "batch"])
def test_a_teacher_is_another_target_of_the_same_loss(pairing):
    torch.manual_seed(0)
    model = build_model("UIQA", backbone="swin_nano", view_sizes=SPEC.view_sizes)
    model.eval().train = lambda mode=True: model  # no stochastic depth: three passes must agree
    batch = batch_of(0, pairing)
    teacher = batch["mos"].flip(0)

    def learn(mos: torch.Tensor, **more) -> tuple[np.ndarray, torch.Tensor]:
        options = options_of(f"--pairing={pairing}", "--distill_weight=0.25")
        options.targets = ["mos", *more]
        state = begin(model, CPU, options)
        state.optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        losses = train_on(state, [batch | {"mos": mos} | more], options)
        return np.array(losses[0]), model.quality[0].weight.grad.clone()

    opinions, distilled, both = learn(batch["mos"]), learn(teacher), learn(batch["mos"], teacher=teacher)
    np.testing.assert_allclose(both[0][0], opinions[0][0] + 0.25 * distilled[0][0], rtol=1e-5)
    np.testing.assert_allclose(both[0][1:], opinions[0][1:], rtol=1e-5)  # the parts are those of the opinions
    torch.testing.assert_close(both[1], opinions[1] + 0.25 * distilled[1], atol=1e-6, rtol=1e-4)


def losses_of_twenty_steps(amp: str) -> list[float]:
    torch.manual_seed(0)
    model = build_model("UIQA", backbone="swin_nano", view_sizes=SPEC.view_sizes)
    options = options_of(f"--amp={amp}")
    options.targets = ["mos"]
    views = {name: torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8) for name in SPEC.views}
    batch = {"views": views, "mos": torch.linspace(-1, 1, 8), "index": np.arange(8), "errors": []}
    return [losses[0] for losses in train_on(begin(model, CPU, options), [batch] * 20, options)]


@pytest.mark.slow  # CPUs without bf16 instructions emulate them
def test_half_precision_learns_as_float32_does():
    half, whole = losses_of_twenty_steps("bf16"), losses_of_twenty_steps("off")
    assert np.isfinite(half).all()
    assert half[-1] < 0.7 * half[0]
    assert half != whole
    np.testing.assert_allclose(half[0], whole[0], rtol=0.05)
    assert abs(np.mean(half) - np.mean(whole)) < 0.05 * np.mean(whole)
