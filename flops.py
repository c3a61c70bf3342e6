"""Count what a model costs: parameters and multiply-accumulates (MACs), branch by branch.

    python flops.py
    python flops.py --config configs/demo.yaml --json -

Counters disagree about attention. ptflops' `aten` backend and torch's own counter look at the operators that run;
ptflops' default `pytorch` backend looks at modules and misses the products inside torchvision's attention, which calls
them as functions. The published 43.5 G is that backend's figure. 1 MAC = 2 FLOPs; all figures are per image.

A model is counted twice: as published, with torchvision's attention, for tables that compare methods; and as executed
here, without the arithmetic on padding that cannot change the output.
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from models import build_model
from models.backbones import SwinTrunk, published_swin
from models.uiqa import QualityModel
from utils.command_line import entry_point, make_parser, output_file, parse_options, usage_errors
from utils.counting import COUNTERS, count, parameters
from utils.options import add_model_options, add_view_options, train_parser, view_spec
from utils.report import environment, write_json

OPERATOR_COUNTERS = ("ptflops_aten", "torch_counter")


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
    executed = counts(model, views, OPERATOR_COUNTERS)
    published = counts(as_published(model, options.backbone), views, tuple(COUNTERS))
    report = {
        "model": options.model,
        "backbone": options.backbone,
        **published,
        "executed": executed,
        "counters": COUNTERS,
        "environment": environment(),
    }
    if options.json:
        write_json(options.json, report)
    if options.json != "-":
        print(table(report))
    return 0


def as_published(model: QualityModel, backbone: str) -> QualityModel:
    """Put torchvision's own trunks in the place of ours, in the model itself; other trunks stay."""
    for name, trunk in list(model.named_children()):
        if isinstance(trunk, SwinTrunk):
            setattr(model, name, published_swin(backbone).eval())
    return model


def counts(model: QualityModel, views: dict[str, torch.Tensor], counters: Sequence[str]) -> dict:
    """Return parameters and GMACs of a model and of its branches, by each of some counters."""
    branches = {
        name: {
            "input": list(views[name].shape[1:]),
            "params_m": parameters(trunk),
            "gmacs": count(trunk, (views[name],), counters),
        }
        for name, trunk in model.trunks().items()
    }
    return {
        "params_m": parameters(model),
        "gmacs": count(model, tuple(views.values()), counters),
        "branches": branches,
    }


def table(report: dict) -> str:
    """Return the figures for people, with tool and backend beside every number."""
    lines = [f"{report['model']} with {report['backbone']}: GMACs per image (1 MAC = 2 FLOPs)"]
    for title, entry in (("as published", report), ("as executed here", report["executed"])):
        counters = list(entry["gmacs"])
        lines.append(f"\n{title:<18}{'input':<14}{'params':>10}" + "".join(f"{name:>18}" for name in counters))
        rows = {name: (" x ".join(map(str, branch["input"])), branch) for name, branch in entry["branches"].items()}
        for name, (size, row) in (rows | {"total": ("", entry)}).items():
            figures = "".join(f"{row['gmacs'][counter]:>18.2f}" for counter in counters)
            lines.append(f"{name:<18}{size:<14}{row['params_m']:>8.2f} M{figures}")
    return "\n".join([*lines, "", *(f"{name}: {meaning}" for name, meaning in COUNTERS.items())])


if __name__ == "__main__":
    sys.exit(main())
