"""Benchmarks of the network: a pass, a step of training, and the loop that scores files."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from data.datasets import PhotographDataset, collate_photographs
from data.decode import decode_rgb
from data.views import make_views
from losses import quality_loss
from models import build_model
from models.uiqa import QualityModel
from utils.benchmarks.plain import PlainUIQA, normalise, plain_views
from utils.benchmarks.timing import Measured, matrix_product, time_in_turn
from utils.benchmarks.views import SPEC, batch_of, write_photographs
from utils.command_line import parse_options
from utils.costs.counting import count
from utils.inference import score_photographs
from utils.options import model_options
from utils.training.options import train_parser

EVALUATED_PHOTOGRAPHS, BATCH_SIZE = 16, 8
LITE_CONFIG = Path(__file__).parents[2] / "configs/uhd_iqa_lite.yaml"


def forward(content: bytes, options: argparse.Namespace) -> Measured:
    """One pass of the network in evaluation; the limit is the machine's matrix product."""
    plain, eager, compiled = three_models(options)
    batch = batch_of(content, options.batch_size, options.device)
    product, product_macs = matrix_product(options.device)
    measured = Measured()
    with torch.inference_mode():
        scores = {"plain": run_plain(plain, batch), "eager": eager(**batch), "compiled": compiled(**batch)}
        medians = measured.add(
            time_in_turn(
                {
                    "plain": lambda: run_plain(plain, batch),
                    "eager": lambda: eager(**batch),
                    "compiled": lambda: compiled(**batch),
                    "matrix_product": product,
                },
                options.rounds,
                options.device,
            )
        )
    peak = product_macs / medians["matrix_product"] / 1e6  # GMAC/s
    gmacs = count(eager, tuple(batch.values()), ["torch_counter"])["torch_counter"]
    measured.figures |= {"batch_size": options.batch_size, "executed_gmacs": gmacs, "peak_gmacs_per_s": peak}
    for name in ("eager", "compiled"):
        measured.figures[f"speedup_{name}"] = medians["plain"] / medians[name]
    measured.figures["fraction_of_peak"] = {
        name: gmacs / (medians[name] / 1e3) / peak for name in ("eager", "compiled")
    }
    measured.figures["max_abs_diff"] = max(
        (scores["plain"] - scores[name]).abs().max().item() for name in ("eager", "compiled")
    )
    return measured


def train_step(content: bytes, options: argparse.Namespace) -> Measured:
    """One step of training: plainly, a forward pass for each image of a pair; ours, one for both."""
    plain, ours, _ = three_models(options, stochastic_depth=0.0)
    firsts = batch_of(content, options.batch_size, options.device)
    seconds = {name: view.flip(3) for name, view in firsts.items()}
    both = {name: torch.cat([view, seconds[name]]) for name, view in firsts.items()}
    mos = torch.linspace(0.4, 0.8, 2 * options.batch_size, device=options.device).chunk(2)

    def step(model: torch.nn.Module, score: Callable, optimizer: torch.optim.Optimizer) -> None:
        loss = quality_loss(*score(), *mos, lr_weight_L2=0.1, lr_weight_pair=1.0)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def scores_plain() -> tuple[torch.Tensor, ...]:
        return tuple(run_plain(plain, batch).squeeze(1) for batch in (firsts, seconds))

    def scores_ours() -> tuple[torch.Tensor, ...]:
        return ours(**both).squeeze(1).chunk(2)

    # A learning rate of nothing, so that every round does the same work on the same weights.
    optimizers = [torch.optim.Adam(model.train().parameters(), lr=0.0) for model in (plain, ours)]
    steps = {
        "plain": lambda: step(plain, scores_plain, optimizers[0]),
        "ours": lambda: step(ours, scores_ours, optimizers[1]),
    }
    measured = Measured()
    medians = measured.add(time_in_turn(steps, options.rounds, options.device))
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    differences = [
        ((parameter.grad - gradients[name]).norm() / gradients[name].norm()).item()
        for name, parameter in ours.named_parameters()
    ]
    measured.figures |= {
        "batch_size": options.batch_size,
        "speedup": medians["plain"] / medians["ours"],
        "max_gradient_difference": max(differences),
    }
    return measured


def evaluate(content: bytes, options: argparse.Namespace) -> Measured:
    """test.py's loop over UHD JPEGs; the limit is the slower of the network, and decoding spread over the workers."""
    plain, ours, _ = three_models(options)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(content, EVALUATED_PHOTOGRAPHS, Path(folder))
        photographs = PhotographDataset(paths, SPEC)
        batches = [batch["views"] for batch in DataLoader(photographs, BATCH_SIZE, collate_fn=collate_photographs)]

        with torch.inference_mode():
            measured = Measured()
            medians = measured.add(
                time_in_turn(
                    {
                        "plain": lambda: [score_file_plainly(plain, path, options.device) for path in paths],
                        "ours": lambda: score_photographs(
                            ours, photographs, options.device, BATCH_SIZE, options.num_workers
                        ),
                        "decoding": lambda: [photographs[index] for index in range(len(paths))],
                        "network": lambda: [
                            ours(**{name: view.to(options.device) for name, view in batch.items()}) for batch in batches
                        ],
                    },
                    options.rounds,
                    options.device,
                )
            )
    limit = max(medians["decoding"] / max(1, options.num_workers), medians["network"])
    measured.figures |= {
        "photographs": len(paths),
        "workers": options.num_workers,
        "limit_ms": limit,
        "ratio_to_limit": medians["ours"] / limit,
        "speedup": medians["plain"] / medians["ours"],
    }
    return measured


def lite(content: bytes, options: argparse.Namespace) -> Measured:
    """One photograph from its file to its score: the published model plainly, the paper's model here, the light one."""
    config = vars(parse_options(train_parser(), [f"--config={LITE_CONFIG}"]))
    plain, paper, _ = three_models(options)
    light = build_model(**model_options(config)).to(options.device).eval()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = write_photographs(content, 1, Path(folder))[0]

        def score(model: QualityModel) -> float:
            cut = make_views(decode_rgb(path), SPEC, SPEC.evaluation_generator())
            return model(**{name: view[None].to(options.device) for name, view in cut.items()}).item()

        measured = Measured()
        medians = measured.add(
            time_in_turn(
                {
                    "plain": lambda: score_file_plainly(plain, path, options.device),
                    "paper": lambda: score(paper),
                    "lite": lambda: score(light),
                    "bare_decode": lambda: decode_rgb(path),
                },
                options.rounds,
                options.device,
            )
        )
        batch = batch_of(content, 1, options.device)
        gmacs = {
            name: count(model, tuple(batch.values()), ["torch_counter"])["torch_counter"]
            for name, model in (("paper", paper), ("lite", light))
        }
    measured.figures |= {
        "lite_backbone": config["backbone"],
        "executed_gmacs": gmacs,
        "speedup": medians["paper"] / medians["lite"],
        "speedup_over_plain": medians["plain"] / medians["lite"],
        "decode_share": {name: medians["bare_decode"] / medians[name] for name in ("paper", "lite")},
    }
    return measured


def three_models(
    options: argparse.Namespace, stochastic_depth: float | None = None
) -> tuple[PlainUIQA, QualityModel, QualityModel]:
    """Return the published model, ours and ours compiled, with the same random weights, in evaluation mode."""
    plain = PlainUIQA(options.backbone, stochastic_depth)
    ours = [build_model("UIQA", backbone=options.backbone, stochastic_depth=stochastic_depth) for _ in range(2)]
    for model in ours:
        model.load_state_dict(plain.state_dict(), strict=True)
    ours[1].compile_trunks()
    return tuple(model.to(options.device).eval() for model in (plain, *ours))


def run_plain(model: PlainUIQA, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Score a batch of uint8 views with the published model."""
    return model(**{name: normalise(view.float() / 255) for name, view in batch.items()})


def score_file_plainly(model: PlainUIQA, path: str, device: torch.device) -> float:
    """Score a file with the published model, as published code does."""
    cut = plain_views(path, SPEC.evaluation_generator())
    return model(**{name: normalise(view)[None].to(device) for name, view in cut.items()}).item()
