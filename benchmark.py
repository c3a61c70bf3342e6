"""Time every stage in turn with the plain implementation and with the machine's limit.

    python benchmark.py --suite views
    python benchmark.py --suite forward --image photo.jpg --json -
    python benchmark.py --suite latency --config configs/uhd_iqa_lite.yaml

The plain implementation is `utils/benchmarks/plain.py`: Pillow, whole-image floats, a double loop over the grid,
torchvision's own trunks. Figures are medians. docs/performance.md shows and explains them.
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
from utils.benchmarks import light, network, quality_map, views
from utils.benchmarks.latency import latency
from utils.benchmarks.timing import Measurement, Settings
from utils.bulk.images import find_images
from utils.command_line import entry_point, integer, make_parser, result_file, usage_errors
from utils.distributed import select_device
from utils.environment import environment
from utils.options import add_compute_options


@dataclass(frozen=True)
class Suite:
    """A benchmark with its default numbers of threads and rounds."""

    function: Callable[[bytes, Settings], Measurement]
    description: str
    threads: int
    rounds: int


SUITES = {
    "views": Suite(views.views, "from a JPEG's bytes to its views", 1, 31),
    "packed": Suite(views.packed, "a training sample from a pack", 1, 31),
    "forward": Suite(network.forward, "a forward pass of the network", 2, 11),
    "latency": Suite(latency, "time and peak memory of a forward pass, by branch and in total", 2, 5),
    "train_step": Suite(network.train_step, "a training step", 2, 5),
    "evaluate": Suite(network.evaluate, "test.py's loop over JPEG files", 2, 2),
    "lite": Suite(light.lite, "a photograph from its file to its score, with the light trunk", 2, 11),
    "light_step": Suite(light.light_step, "a training step of a light model, also with frozen stages", 2, 5),
    "precision": Suite(light.precision, "each precision: time, scores and quality map", 2, 7),
    "memory": Suite(views.memory, "peak memory while cutting views", 1, 1),
    "scaling": Suite(views.scaling, "photographs of 8 to 100 megapixels", 1, 7),
    "contributions": Suite(quality_map.contributions, "a pass with the quality map, and over several draws", 2, 31),
    "map": Suite(quality_map.quality_map, "whether the map points at the fault (rounds are images)", 2, 20),
}


def benchmark_parser() -> argparse.ArgumentParser:
    """Return the parser of benchmark.py."""
    parser = make_parser(
        "Time a stage in turn with its plain implementation, in one process.",
        prog="benchmark.py",
        epilog="Suites: " + "; ".join(f"{name}: {suite.description}" for name, suite in SUITES.items()) + ".",
    )
    parser.add_argument("--suite", choices=list(SUITES), required=True, metavar="NAME", help=", ".join(SUITES))
    parser.add_argument(
        "--image", metavar="FILE", help="a JPEG to measure with; by default a rendered one of 3840 x 2160 pixels"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="the trained model whose map is tested (suite map), or that runs in each precision (suite precision; "
        "default: the trunks that have half precision, with random weights)",
    )
    parser.add_argument(
        "--photographs",
        metavar="DIR",
        help="folder of the photographs to compare scores on (suite precision, the first 32) or to blur (suite map); "
        "default: rendered ones",
    )
    parser.add_argument(
        "--json", type=result_file, metavar="FILE", help="write the report as JSON; - prints it instead of the table"
    )
    parser.add_argument("--rounds", type=integer(1), metavar="N", help="timed calls (default: the suite's)")
    parser.add_argument(
        "--threads", type=integer(1), metavar="N", help="torch's threads (default: the suite's, 1 or 2)"
    )
    parser.add_argument(
        "--batch_size",
        type=integer(1),
        default=1,
        metavar="N",
        help="images, or pairs, per pass (suites forward, contributions, train_step)",
    )
    parser.add_argument("--backbone", choices=list(SWIN_CONFIGS), default="swin_t", help="torchvision's trunk to time")
    parser.add_argument(
        "--config", metavar="FILE", help="a config of train.py, whose model to time instead (suite latency)"
    )
    add_compute_options(parser)
    return parser


@entry_point
def main(args: list[str] | None = None) -> int:
    """Run a suite; return the exit code."""
    parser = benchmark_parser()
    options = parser.parse_args(args)
    suite = SUITES[options.suite]
    if options.suite == "map" and not options.checkpoint:
        parser.error(
            "suite map tests a trained model's map: give --checkpoint FILE, for example ckpts/lite.safetensors"
        )
    if options.config and options.suite != "latency":
        parser.error("--config is for the suite latency")
    with usage_errors(parser):
        settings = Settings(
            rounds=options.rounds or suite.rounds,
            device=select_device(options.device),
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            backbone=options.backbone,
            config=options.config,
            checkpoint=options.checkpoint,
            photographs=find_images([options.photographs]).images if options.photographs else (),
        )
    jpeg = read_jpeg(options.image) if options.image else views.render()
    height, width = decode_rgb(jpeg).shape[:2]
    threads = options.threads or suite.threads
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    measurement = suite.function(jpeg, settings)
    report = {
        "suite": options.suite,
        "image": options.photographs or options.image or "synthetic",
        "size": None if options.photographs else [width, height],
        "threads": threads,
        "rounds": settings.rounds,
        "device": settings.device.type,
        **measurement.figures,
        "quartiles_ms": {name: np.percentile(times, [25, 75]) for name, times in measurement.times.items()},
        "environment": environment(),
    }
    if options.json:
        write_json(options.json, report)
    if options.json != "-":
        print(table(report, measurement))
    return 0


def read_jpeg(path: str) -> bytes:
    """Read a JPEG file.

    Raises:
        ImageError: not a JPEG.
        OSError: it cannot be read.
    """
    content = Path(path).read_bytes()
    try:
        simplejpeg.decode_jpeg_header(content)
    except ValueError:
        raise ImageError(f"{path}: not a JPEG: the suites compare with the time of decoding one") from None
    return content


def table(report: dict, measurement: Measurement) -> str:
    """Return a report as text."""
    size = ", {} x {}".format(*report["size"]) if report["size"] else ""
    lines = [
        f"{report['suite']}: {SUITES[report['suite']].description}",
        f"{report['image']}{size}; {report['threads']} thread(s), {report['device']}, {report['rounds']} rounds",
    ]
    if measurement.times:
        lines.append(f"{'':<24}{'median ms':>12}{'quartiles':>24}")
    for name, times in measurement.times.items():
        low, median, high = np.percentile(times, [25, 50, 75])
        lines.append(f"{name:<24}{median:>12.2f}{f'[{low:.2f}, {high:.2f}]':>24}")
    # The medians are above.
    lines += [f"{name:<40}{_text(figure)}" for name, figure in measurement.figures.items() if "_ms" not in name]
    return "\n".join(lines)


def _text(figure: object) -> str:
    if isinstance(figure, dict):
        return ", ".join(f"{name} {_text(entry)}" for name, entry in figure.items())
    if figure is None:
        return "not available"
    return f"{figure:.4g}" if isinstance(figure, float) else str(figure)


if __name__ == "__main__":
    sys.exit(main())
