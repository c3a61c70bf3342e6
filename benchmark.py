"""Time every stage against the plain way of doing it, and against what the machine could do at best.

    python benchmark.py --suite views
    python benchmark.py --suite forward --image photo.jpg --json -

The plain way is `utils/plain.py`: Pillow, whole-image floats, a double loop over the grid, torchvision's own trunks.
Both ways are timed in turn in one process; figures are medians. docs/performance.md shows and explains them.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import torch

from data.decode import ImageError, decode_rgb
from data.files import write_json
from models.backbones import SWIN_CONFIGS
from utils.benchmarks import network as network_suites
from utils.benchmarks import quality_map as map_suites
from utils.benchmarks import views as view_suites
from utils.benchmarks.timing import Measured
from utils.command_line import entry_point, make_parser, output_file, parse_options, usage_errors, whole_number
from utils.distributed import select_device
from utils.environment import environment
from utils.options import add_compute_options


@dataclass(frozen=True)
class Suite:
    """A benchmark: what it measures, with how many threads, and how often."""

    function: Callable[[bytes, argparse.Namespace], Measured]
    about: str
    threads: int
    rounds: int


SUITES = {
    "views": Suite(view_suites.views, "from a JPEG's bytes to its views", 1, 31),
    "packed": Suite(view_suites.packed, "a training sample out of a pack", 1, 31),
    "forward": Suite(network_suites.forward, "a pass of the network", 2, 11),
    "train_step": Suite(network_suites.train_step, "a step of training", 2, 5),
    "evaluate": Suite(network_suites.evaluate, "test.py's loop over JPEG files", 2, 2),
    "lite": Suite(network_suites.lite, "a photograph from its file to its score, with the light trunk", 2, 7),
    "memory": Suite(view_suites.memory, "peak memory while cutting views", 1, 1),
    "scaling": Suite(view_suites.scaling, "ever larger photographs", 1, 7),
    "contributions": Suite(map_suites.contributions, "a pass with the points of every place, and over draws", 2, 31),
    "map": Suite(map_suites.quality_map, "whether the map points at the fault (rounds are scenes)", 2, 20),
}


def benchmark_parser() -> argparse.ArgumentParser:
    """Return the parser of benchmark.py."""
    parser = make_parser(
        "Time a stage against the plain way of doing it, in turn in one process.",
        prog="benchmark.py",
        epilog="Suites: " + "; ".join(f"{name}: {suite.about}" for name, suite in SUITES.items()) + ".",
    )
    parser.add_argument("--suite", choices=list(SUITES), required=True, metavar="NAME", help=", ".join(SUITES))
    parser.add_argument(
        "--image", metavar="FILE", help="a JPEG to measure with; without it, one of 3840 x 2160 pixels is made"
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="the trained model whose map is looked at (suite map)")
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write the figures here; - for standard output, alone on it"
    )
    parser.add_argument("--rounds", type=whole_number(1), metavar="N", help="calls that count (default: the suite's)")
    parser.add_argument(
        "--threads", type=whole_number(1), metavar="N", help="threads of the calculation (default: the suite's, 1 or 2)"
    )
    parser.add_argument("--batch_size", type=whole_number(1), default=1, metavar="N", help="images, or pairs, a pass")
    parser.add_argument("--backbone", choices=list(SWIN_CONFIGS), default="swin_t", help="torchvision's trunk to time")
    add_compute_options(parser)
    return parser


@entry_point
def main(args: list[str] | None = None) -> int:
    """Measure as the command line says; return the exit code."""
    parser = benchmark_parser()
    options = parse_options(parser, args)
    suite = SUITES[options.suite]
    options.rounds = options.rounds or suite.rounds
    options.threads = options.threads or suite.threads
    if options.suite == "map" and not options.checkpoint:
        parser.error(
            "suite map looks at a trained model's map: give one with --checkpoint FILE (`make demo` makes one)"
        )
    with usage_errors(parser):
        options.device = select_device(options.device)
        content = Path(options.image).read_bytes() if options.image else view_suites.render()
        height, width = decode_rgb(content).shape[:2]
        try:
            simplejpeg.decode_jpeg_header(content)
        except ValueError:
            raise ImageError(f"{options.image}: not a JPEG, whose bare decoding is the limit here") from None

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    measured = suite.function(content, options)
    report = {
        "suite": options.suite,
        "image": options.image or "synthetic",
        "size": [width, height],
        "threads": options.threads,
        "rounds": options.rounds,
        "device": options.device.type,
        **measured.figures,
        "quartiles_ms": {name: np.percentile(taken, [25, 75]) for name, taken in measured.times.items()},
        "environment": environment(),
    }
    if options.json:
        write_json(options.json, report)
    if options.json != "-":
        print(table(report, measured))
    return 0


def table(report: dict, measured: Measured) -> str:
    """Return the figures for people."""
    width, height = report["size"]
    lines = [
        f"{report['suite']}: {SUITES[report['suite']].about}",
        f"{report['image']}, {width} x {height}; {report['threads']} thread(s), {report['device']}, "
        f"{report['rounds']} rounds",
    ]
    if measured.times:
        lines.append(f"{'':<24}{'median ms':>12}{'quartiles':>24}")
    for name, taken in measured.times.items():
        low, middle, high = np.percentile(taken, [25, 50, 75])
        lines.append(f"{name:<24}{middle:>12.2f}{f'[{low:.2f}, {high:.2f}]':>24}")
    for name, figure in measured.figures.items():
        if "_ms" not in name:  # those stand above
            lines.append(f"{name:<40}{_words(figure)}")
    return "\n".join(lines)


def _words(figure: object) -> str:
    if isinstance(figure, dict):
        return ", ".join(f"{name} {_words(entry)}" for name, entry in figure.items())
    return f"{figure:.4g}" if isinstance(figure, float) else str(figure)


if __name__ == "__main__":
    sys.exit(main())
