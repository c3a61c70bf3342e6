"""Count what a model costs: parameters, multiply-accumulates (MACs) and activations, by branch and by stage.

    python flops.py
    python flops.py --config configs/demo.yaml --json -

Counters disagree about attention. ptflops' `aten` backend and torch's own counter count the operators that run. The
default `pytorch` backend of ptflops counts modules and misses the matrix products that torchvision's attention computes
outside of modules; it is the source of the published 43.5 G. 1 MAC = 2 FLOPs; all figures are per image.

A model is counted twice: as published, with torchvision's attention, for tables that compare methods; and as executed
here, without the arithmetic on padding that cannot change the output.

`benchmark.py --suite latency` measures time and memory; `docs/resolutions.py` compares methods at several image sizes.
"""

import argparse
import sys

import torch

from data.files import write_json
from models import build_model
from utils.command_line import entry_point, make_parser, parse_options, result_file, usage_errors
from utils.costs.complexity import as_published, complexity
from utils.costs.counting import COUNTERS, OPERATOR_COUNTERS
from utils.costs.tables import complexity_table
from utils.environment import environment
from utils.options import add_model_options, add_view_options, model_options, view_spec
from utils.training.options import train_parser


def flops_parser() -> argparse.ArgumentParser:
    """Return the parser of flops.py."""
    parser = make_parser(
        "Count parameters, multiply-accumulates and activations per image, by branch, by stage and in total, with "
        "three counters. Activations are the outputs of all convolutions and matrix products, in MB at float32.",
        prog="flops.py",
    )
    parser.add_argument("--config", metavar="FILE", help="count the model and views of a config of train.py")
    parser.add_argument(
        "--json", type=result_file, metavar="FILE", help="write the report as JSON; - prints it instead of the table"
    )
    add_model_options(parser)
    add_view_options(parser)
    return parser


@entry_point
def main(args: list[str] | None = None) -> int:
    """Count a model; return the exit code."""
    parser = flops_parser()
    options = parse_options(parser, args, config_parser=train_parser())
    with usage_errors(parser):
        spec = view_spec(options)
        model = build_model(**model_options(vars(options)), view_sizes=spec.view_sizes).eval()

    views = {name: torch.zeros(1, *shape) for name, shape in spec.view_shapes().items()}
    executed = complexity(model, views, OPERATOR_COUNTERS)
    published = complexity(as_published(model, options.backbone), views, tuple(COUNTERS))
    report = {
        "model": options.model,
        "backbone": options.backbone,
        **({"photograph": "3840 x 2160"} if spec.is_ragged else {}),  # its size decides how many patches there are
        **published,
        "executed": executed,
        "counters": COUNTERS,
        "environment": environment(),
    }
    if options.json:
        write_json(options.json, report)
    if options.json != "-":
        print(complexity_table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
