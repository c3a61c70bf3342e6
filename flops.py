"""Count what a model costs: parameters and multiply-accumulates (MACs), branch by branch.

    python flops.py
    python flops.py --config configs/demo.yaml --json -

Counters disagree about attention. ptflops' `aten` backend and torch's own counter look at the operators that run;
ptflops' default `pytorch` backend looks at modules and misses the products inside torchvision's attention, which calls
them as functions. The published 43.5 G is that backend's figure. 1 MAC = 2 FLOPs; all figures are per image.
"""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout

import torch
from ptflops import get_model_complexity_info
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models import build_model
from utils.command_line import entry_point, make_parser, output_file, parse_options, usage_errors
from utils.options import add_model_options, add_view_options, train_parser, view_spec
from utils.report import environment, write_json

COUNTERS = {
    "ptflops_aten": "ptflops, aten backend: operators, attention included",
    "torch_counter": "torch.utils.flop_counter: matrix products and convolutions only",
    "ptflops_pytorch": "ptflops, pytorch backend: misses attention; the source of the published 43.5 G",
}


def flops_parser() -> argparse.ArgumentParser:
    """Return the parser of flops.py."""
    parser = make_parser(
        "Count parameters and multiply-accumulates per image, by branch and in total, with three counters.",
        prog="flops.py",
    )
    parser.add_argument("--config", metavar="FILE", help="count the model and views of a config of train.py")
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write the figures here; - for standard output, alone on it"
    )
    add_model_options(parser)
    add_view_options(parser)
    return parser


@entry_point
def main(args: list[str] | None = None) -> int:
    """Count as the command line says; return the exit code."""
    parser = flops_parser()
    options = parse_options(parser, args, config_parser=train_parser())
    with usage_errors(parser):
        spec = view_spec(options)
        model = build_model(options.model, backbone=options.backbone, view_sizes=spec.view_sizes).eval()

    views = {name: torch.zeros(1, 3, size, size) for name, size in spec.view_sizes.items()}
    branches = {
        name: {
            "input": [3, *views[name].shape[2:]],
            "params_m": parameters(trunk),
            "gmacs": count(trunk, lambda name=name: (views[name],)),
        }
        for name, trunk in model.trunks().items()
    }
    report = {
        "model": options.model,
        "backbone": options.backbone,
        "params_m": parameters(model),
        "gmacs": count(model, lambda: tuple(views.values())),
        "branches": branches,
        "counters": COUNTERS,
        "environment": environment(),
    }
    if options.json:
        write_json(options.json, report)
    if options.json != "-":
        print(table(report))
    return 0


def parameters(module: nn.Module) -> float:
    """Return the number of parameters in millions."""
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def count(module: nn.Module, make_inputs: Callable[[], tuple[torch.Tensor, ...]]) -> dict[str, float]:
    """Return the GMACs of one forward pass by each of COUNTERS.

    Args:
        module: in evaluation mode.
        make_inputs: returns its positional inputs, a batch of one.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*make_inputs())
    gmacs = {"torch_counter": counter.get_total_flops() / 2 / 1e9}
    for backend in ("aten", "pytorch"):
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123
            macs, _ = get_model_complexity_info(
                _Positional(module),
                (1,),
                input_constructor=lambda _: {"inputs": make_inputs()},
                as_strings=False,
                print_per_layer_stat=False,
                backend=backend,
            )
        gmacs[f"ptflops_{backend}"] = macs / 1e9
    return {name: gmacs[name] for name in COUNTERS}


class _Positional(nn.Module):
    """Calls a module with a tuple of inputs: ptflops passes keyword arguments only."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.module(*inputs)


def table(report: dict) -> str:
    """Return the figures for people, with tool and backend beside every number."""
    lines = [
        f"{report['model']} with {report['backbone']}: GMACs per image (1 MAC = 2 FLOPs)",
        f"{'':<14}{'input':<14}{'params':>10}" + "".join(f"{name:>18}" for name in COUNTERS),
    ]
    for name, branch in report["branches"].items():
        size = " x ".join(map(str, branch["input"]))
        lines.append(f"{name:<14}{size:<14}{_figures(branch)}")
    lines.append(f"{'total':<14}{'':<14}{_figures(report)}")
    return "\n".join(lines + [f"{name}: {meaning}" for name, meaning in COUNTERS.items()])


def _figures(entry: dict) -> str:
    return f"{entry['params_m']:>8.2f} M" + "".join(f"{entry['gmacs'][name]:>18.2f}" for name in COUNTERS)


if __name__ == "__main__":
    sys.exit(main())
