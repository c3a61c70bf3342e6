"""Suites that time the network: a forward pass, a training step, and the loop that scores files."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from data.datasets import PhotographDataset, collate_photographs
from losses import quality_loss
from models import build_model
from models.uiqa import QualityModel
from utils.benchmarks.plain import PlainUIQA, normalise, plain_views
from utils.benchmarks.timing import Measurement, Settings, matrix_product, time_in_turn
from utils.benchmarks.views import SPEC, batch_of, write_photographs
from utils.costs.counting import count
from utils.inference import score_photographs

EVALUATED_PHOTOGRAPHS, BATCH_SIZE = 16, 8

Batch = dict[str, torch.Tensor]


def forward(jpeg: bytes, settings: Settings) -> Measurement:
    """A forward pass in evaluation mode; the limit is the machine's matrix product."""
    plain, eager, compiled = three_models(settings)
    batch = batch_of(jpeg, settings.batch_size, settings.device)
    product, product_macs = matrix_product(settings.device)
    functions = {
        "plain": lambda: run_plain(plain, batch),
        "eager": lambda: eager(**batch),
        "compiled": lambda: compiled(**batch),
    }
    measurement = Measurement()
    with torch.inference_mode():
        scores = {name: function() for name, function in functions.items()}
        times = time_in_turn(functions | {"matrix_product": product}, settings.rounds, settings.device)
    medians = measurement.add(times)
    peak = product_macs / medians["matrix_product"] / 1e6  # GMAC/s
    gmacs = executed_gmacs(eager, batch)
    ours = ("eager", "compiled")
    measurement.figures |= {
        "batch_size": settings.batch_size,
        "executed_gmacs": gmacs,
        "peak_gmacs_per_s": peak,
        **{f"speedup_{name}": medians["plain"] / medians[name] for name in ours},
        "fraction_of_peak": {name: gmacs / (medians[name] / 1e3) / peak for name in ours},
        "max_abs_diff": max((scores["plain"] - scores[name]).abs().max().item() for name in ours),
    }
    return measurement


def train_step(jpeg: bytes, settings: Settings) -> Measurement:
    """A training step: the plain implementation passes the images of a pair one by one, ours in one batch."""
    plain, ours, _ = three_models(settings, stochastic_depth=0.0)
    firsts = batch_of(jpeg, settings.batch_size, settings.device)
    partners = {name: view.flip(3) for name, view in firsts.items()}
    both = {name: torch.cat([view, partners[name]]) for name, view in firsts.items()}
    mos = torch.linspace(0.4, 0.8, 2 * settings.batch_size, device=settings.device).chunk(2)

    def step(score: Callable, optimizer: torch.optim.Optimizer) -> None:
        loss = quality_loss(*score(), *mos, lr_weight_L2=0.1, lr_weight_pair=1.0)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def scores_plain() -> tuple[torch.Tensor, ...]:
        return tuple(run_plain(plain, batch).squeeze(1) for batch in (firsts, partners))

    def scores_ours() -> tuple[torch.Tensor, ...]:
        return ours(**both).squeeze(1).chunk(2)

    # With a learning rate of 0 every round does the same work on the same weights.
    optimizers = [torch.optim.Adam(model.train().parameters(), lr=0.0) for model in (plain, ours)]
    steps = {"plain": lambda: step(scores_plain, optimizers[0]), "ours": lambda: step(scores_ours, optimizers[1])}
    measurement = Measurement()
    medians = measurement.add(time_in_turn(steps, settings.rounds, settings.device))
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    differences = [
        ((parameter.grad - gradients[name]).norm() / gradients[name].norm()).item()
        for name, parameter in ours.named_parameters()
    ]
    measurement.figures |= {
        "batch_size": settings.batch_size,
        "speedup": medians["plain"] / medians["ours"],
        "max_gradient_difference": max(differences),
    }
    return measurement


def evaluate(jpeg: bytes, settings: Settings) -> Measurement:
    """test.py's loop over UHD JPEGs; the limit is the slower of the network and of decoding across the workers."""
    plain, ours, _ = three_models(settings)
    measurement = Measurement()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        paths = write_photographs(jpeg, EVALUATED_PHOTOGRAPHS, Path(folder))
        photographs = PhotographDataset(paths, SPEC)
        batches = [batch["views"] for batch in DataLoader(photographs, BATCH_SIZE, collate_fn=collate_photographs)]
        functions = {
            "plain": lambda: [score_file_plainly(plain, path, settings.device) for path in paths],
            "ours": lambda: score_photographs(ours, photographs, settings.device, BATCH_SIZE, settings.num_workers),
            "decoding": lambda: [photographs[index] for index in range(len(paths))],
            "network": lambda: [ours(**to_device(batch, settings.device)) for batch in batches],
        }
        medians = measurement.add(time_in_turn(functions, settings.rounds, settings.device))
    limit = max(medians["decoding"] / max(1, settings.num_workers), medians["network"])
    measurement.figures |= {
        "photographs": len(paths),
        "workers": settings.num_workers,
        "limit_ms": limit,
        "ratio_to_limit": medians["ours"] / limit,
        "speedup": medians["plain"] / medians["ours"],
    }
    return measurement


def three_models(
    settings: Settings, stochastic_depth: float | None = None
) -> tuple[PlainUIQA, QualityModel, QualityModel]:
    """Return the published model, ours and ours compiled, with equal random weights, in evaluation mode."""
    plain = PlainUIQA(settings.backbone, stochastic_depth)
    ours = [build_model("UIQA", backbone=settings.backbone, stochastic_depth=stochastic_depth) for _ in range(2)]
    for model in ours:
        model.load_state_dict(plain.state_dict(), strict=True)
    ours[1].compile_trunks()
    return tuple(model.to(settings.device).eval() for model in (plain, *ours))


def executed_gmacs(model: QualityModel, batch: Batch) -> float:
    """Return the GMACs of a pass by torch's counter."""
    return count(model, tuple(batch.values()), ["torch_counter"])["torch_counter"]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch of views to a device."""
    return {name: view.to(device) for name, view in batch.items()}


def run_plain(model: PlainUIQA, batch: Batch) -> torch.Tensor:
    """Score a batch of uint8 views with the published model."""
    return model(**{name: normalise(view.float() / 255) for name, view in batch.items()})


def score_file_plainly(model: PlainUIQA, path: str, device: torch.device) -> float:
    """Score a file with the published model, as published code does."""
    views = plain_views(path, SPEC.evaluation_fractions())
    return model(**{name: normalise(view)[None].to(device) for name, view in views.items()}).item()
