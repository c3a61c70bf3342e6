"""Count what a model costs: parameters, multiply-accumulates (MACs) and activations, by branch and by stage.

    python flops.py
    python flops.py --config configs/demo.yaml --json -
    python flops.py --latency
    python flops.py --resolutions 540P 720P 1080P 2K UHD --csv costs.csv --plot costs.pdf costs.png

Counters disagree about attention. ptflops' `aten` backend and torch's own counter look at the operators that run;
ptflops' default `pytorch` backend looks at modules and misses the products inside torchvision's attention, which calls
them as functions. The published 43.5 G is that backend's figure. 1 MAC = 2 FLOPs; all figures are per image.

A model is counted twice: as published, with torchvision's attention, for tables that compare methods; and as executed
here, without the arithmetic on padding that cannot change the output.

Activations are what all convolutions and matrix products put out, in megabytes at float32 (`utils/complexity.py`).
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch

from data.files import write_csv, write_json
from data.views import ViewSpec
from models import build_model
from models.uiqa import QualityModel
from utils.benchmarks.latency import PASSES, measure_passes
from utils.command_line import add_flag, entry_point, make_parser, output_file, parse_options, table_file, usage_errors
from utils.costs.complexity import as_published, complexity
from utils.costs.counting import COUNTERS, OPERATOR_COUNTERS
from utils.costs.figures import draw_costs
from utils.costs.resolutions import CROP_SIDE, CROPS, RESOLUTIONS, resolution, resolution_rows
from utils.costs.tables import complexity_table, latency_table, resolution_table
from utils.distributed import select_device
from utils.environment import environment
from utils.options import add_model_options, add_view_options, model_options, view_spec
from utils.training.options import train_parser

PICTURES = (".pdf", ".png", ".svg")
DRAWN_COUNTER = "ptflops_aten"


def flops_parser() -> argparse.ArgumentParser:
    """Return the parser of flops.py."""
    parser = make_parser(
        "Count parameters, multiply-accumulates and activations per image, by branch and stage and in total, with "
        "three counters. Activations: what all convolutions and matrix products put out, in MB at float32.",
        prog="flops.py",
    )
    parser.add_argument("--config", metavar="FILE", help="count the model and views of a config of train.py")
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write the figures here; - for standard output, alone on it"
    )
    add_latency_options(parser)
    add_resolution_options(parser)
    add_model_options(parser)
    add_view_options(parser)
    return parser


def add_latency_options(parser: argparse.ArgumentParser) -> None:
    """Add whether and where passes are timed."""
    group = parser.add_argument_group("latency")
    add_flag(
        group,
        "--latency",
        f"also measure latency (median of {PASSES} passes, in ms, batch of 1, float32, from views to scores) and peak "
        "memory of a pass, weights and views not counted",
    )
    group.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:i]", help="where --latency measures")


def add_resolution_options(parser: argparse.ArgumentParser) -> None:
    """Add whether the model is compared at different resolutions, and where that goes."""
    group = parser.add_argument_group("resolutions")
    names = ", ".join(f"{name} ({width} x {height})" for name, (width, height) in RESOLUTIONS.items())
    group.add_argument(
        "--resolutions",
        type=resolution,
        nargs="+",
        metavar="SIZE",
        help=f"also count at these sizes of a photograph, {names} or WIDTHxHEIGHT: the model, Swin-T and ResNet-50 at "
        f"full resolution, and ResNet-50 on {CROPS} crops of {CROP_SIDE}",
    )
    group.add_argument("--csv", type=table_file, metavar="FILE", help="write the counts at --resolutions here")
    group.add_argument(
        "--plot",
        type=picture_file,
        nargs="+",
        metavar="FILE",
        help=f"draw the counts at --resolutions, as {DRAWN_COUNTER} has them, here: {', '.join(PICTURES)}",
    )


def picture_file(text: str) -> str:
    """Check that a picture can be written to a file, and that its ending names a format."""
    if Path(text).suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text}: a picture's name must end in {', '.join(PICTURES)}")
    return output_file(text)


@entry_point
def main(args: list[str] | None = None) -> int:
    """Count as the command line says; return the exit code."""
    parser = flops_parser()
    options = parse_options(parser, args, config_parser=train_parser())
    if (options.csv or options.plot) and not options.resolutions:
        parser.error("--csv and --plot hold the counts at --resolutions: add --resolutions 540P 720P 1080P 2K UHD, say")
    with usage_errors(parser):
        device = select_device(options.device) if options.latency else None
        spec = view_spec(options)
        build = partial(build_model, **model_options(vars(options)), view_sizes=spec.view_sizes)
        model = build().eval()

    shapes = batch_of_one(spec)
    views = {name: torch.zeros(shape) for name, shape in shapes.items()}
    executed = complexity(model, views, OPERATOR_COUNTERS)
    published = complexity(as_published(model, options.backbone), views, tuple(COUNTERS))
    report = {**report_head(options, spec), **published, "executed": executed}
    tables = [complexity_table(report)]
    if options.latency:
        report["latency"] = measure_passes(build, shapes, device)
        tables.append(latency_table(report["latency"]))
    if options.resolutions:
        report["resolutions"] = compare_resolutions(model, spec, published, options)
        tables.append(resolution_table(report["resolutions"]))
        if options.csv:
            write_csv(options.csv, report["resolutions"])
        if options.plot:
            draw_costs(report["resolutions"], DRAWN_COUNTER, options.plot)
    report |= {"counters": COUNTERS, "environment": environment()}
    if options.json:
        write_json(options.json, report)
    if options.json != "-":
        print("\n\n".join(tables))
    return 0


def batch_of_one(spec: ViewSpec, *size: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each view of one photograph, whose size is (height, width) in pixels, UHD if not given."""
    return {name: (1, *shape) for name, shape in spec.view_shapes(*size).items()}


def report_head(options: argparse.Namespace, spec: ViewSpec) -> dict:
    """Return what names the model in a report; where the photograph's size matters, that, too."""
    head = {"model": options.model, "backbone": options.backbone}
    return head | ({"photograph": "3840 x 2160"} if spec.is_ragged else {})


def compare_resolutions(
    model: QualityModel, spec: ViewSpec, published: dict, options: argparse.Namespace
) -> list[dict]:
    """Count the model, as published, and other methods at different sizes of a photograph."""
    if not spec.is_ragged:
        name = f"{options.model} ({options.backbone}), views of fixed size"
        return resolution_rows(name, [published] * len(options.resolutions), options.resolutions)
    own = []
    for place in options.resolutions:
        shapes = batch_of_one(spec, place.height, place.width)
        views = {view: torch.zeros(shape, device="meta") for view, shape in shapes.items()}
        own.append(complexity(model, views, OPERATOR_COUNTERS))
    return resolution_rows(f"{options.model} ({options.backbone}), all patches", own, options.resolutions)


if __name__ == "__main__":
    sys.exit(main())
