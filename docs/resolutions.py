"""Count what the model and other methods cost at several sizes of a photograph: the figure `docs/costs.png`.

    python docs/resolutions.py 540P 720P 1080P 2K UHD --csv costs.csv --plot docs/costs.png

The model is counted as published, by two counters (`flops.py`); beside it stand Swin-T and ResNet-50 on the whole
photograph, and ResNet-50 on crops. Every figure is counted here, none is quoted.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from torch import nn
from torchvision.models import resnet50

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from data.files import write_csv
from data.views import ViewSpec
from models import build_model
from models.backbones import published_swin
from models.uiqa import QualityModel
from utils.command_line import entry_point, make_parser, output_file, parse_options, table_file, usage_errors
from utils.costs.complexity import as_published
from utils.costs.counting import COUNTERS, OPERATOR_COUNTERS, count, parameters, to_meta
from utils.options import add_model_options, add_view_options, model_options, view_spec
from utils.training.options import train_parser

SIZES = {"540P": (960, 540), "720P": (1280, 720), "1080P": (1920, 1080), "2K": (2560, 1440), "UHD": (3840, 2160)}
CROPS, CROP_SIDE = 25, 224
MAX_SIDE = 65_536  # pixels
FORMATS = (".pdf", ".png", ".svg")
PLOTTED_COUNTER = "ptflops_aten"
# Colours that the colour-blind can tell apart, and markers for print in grey.
STYLES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"))
MAX_HORIZONTAL_LABELS = 6  # more labels than this overlap below the axis unless they are rotated


@dataclass(frozen=True)
class Size:
    """A photograph's size: its name, and its width and height in pixels."""

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class Method:
    """A network, and the shapes of its inputs for a photograph of (width, height)."""

    network: nn.Module
    shapes: Callable[[int, int], Sequence[tuple[int, ...]]]


def photograph_size(text: str) -> Size:
    """Parse a key of SIZES, in upper or lower case, or WIDTHxHEIGHT in pixels.

    Raises:
        argparse.ArgumentTypeError: neither, or a side out of range.
    """
    name = text.upper()
    if name in SIZES:
        return Size(name, *SIZES[name])
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: give {', '.join(SIZES)}, or WIDTHxHEIGHT in pixels, such as 6000x4000"
        )
    width, height = (int(side) for side in sides)
    if not CROP_SIDE <= min(width, height) <= max(width, height) <= MAX_SIDE:
        raise argparse.ArgumentTypeError(f"{text}: a side must have {CROP_SIDE} (a crop's) to {MAX_SIDE} pixels")
    return Size(f"{width}x{height}", width, height)


def plot_file(text: str) -> str:
    """Check that a plot can be written to a file and that its extension is a known format."""
    if Path(text).suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text}: a plot's name must end in {', '.join(FORMATS)}")
    return output_file(text)


def model_method(model: QualityModel, spec: ViewSpec) -> Method:
    """Return the model with the shapes of its views."""

    def shapes(width: int, height: int) -> list[tuple[int, ...]]:
        of_views = spec.view_shapes(height, width)
        return [(1, *of_views[name]) for name in model.trunks()]

    return Method(model, shapes)


def other_methods() -> dict[str, Method]:
    """Return torchvision's networks, without classifiers and on the meta device.

    The first two read the whole photograph; the third reads crops, whose features or scores are then averaged.
    """
    with torch.device("meta"):
        swin, resnet = published_swin("swin_t").eval(), resnet50().eval()
    resnet.fc = nn.Identity()
    return {
        "Swin-T, full resolution": Method(swin, lambda width, height: [(1, 3, height, width)]),
        "ResNet-50, full resolution": Method(resnet, lambda width, height: [(1, 3, height, width)]),
        f"ResNet-50, {CROPS} crops of {CROP_SIDE}": Method(resnet, lambda *_: [(CROPS, 3, CROP_SIDE, CROP_SIDE)]),
    }


def count_methods(methods: dict[str, Method], sizes: Sequence[Size]) -> pd.DataFrame:
    """Count every method at every size of a photograph.

    Returns:
        A row for each method and size: `method`, `resolution`, `width`, `height`, `params_m`, and `gmacs_<counter>`
        for each operator counter.
    """
    rows = []
    for name, method in methods.items():
        counted: dict[tuple, dict[str, float]] = {}  # a method that reads fixed shapes is counted once
        for size in sizes:
            shapes = tuple(method.shapes(size.width, size.height))
            if shapes not in counted:
                inputs = tuple(torch.zeros(shape, device="meta") for shape in shapes)
                counted[shapes] = count(*to_meta(method.network, inputs), OPERATOR_COUNTERS)
            row = {"method": name, "resolution": size.name, "width": size.width, "height": size.height}
            row["params_m"] = parameters(method.network)
            rows.append(row | {f"gmacs_{counter}": gmacs for counter, gmacs in counted[shapes].items()})
    return pd.DataFrame(rows)


def print_counts(counts: pd.DataFrame) -> None:
    """Print the GMACs per photograph, a table for each counter."""
    for counter in OPERATOR_COUNTERS:
        table = counts.pivot_table(f"gmacs_{counter}", "method", "resolution", sort=False)
        table = table.rename_axis(index=None, columns=None)
        print(f"\nGMACs per photograph by {counter}\n{table.to_string(float_format='%.2f', line_width=100)}")


def plot_counts(counts: pd.DataFrame, counter: str, path: str) -> None:
    """Plot every method's GMACs, on a logarithmic scale, against the size of the photograph, the smallest first.

    Args:
        counts: as from `count_methods`.
        counter: the counter to plot; the title names it.
        path: of the plot; its extension decides the format.
    """
    sizes = counts.drop_duplicates("resolution")[["resolution", "width", "height"]]
    sizes = sizes.iloc[(sizes["width"] * sizes["height"]).argsort(kind="stable")].reset_index(drop=True)
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axis = figure.subplots()
    for (method, rows), (colour, marker) in zip(counts.groupby("method", sort=False), STYLES, strict=False):
        gmacs = rows.set_index("resolution")[f"gmacs_{counter}"][sizes["resolution"]]
        axis.plot(sizes.index, gmacs, color=colour, marker=marker, markersize=4.5, linewidth=1.4, label=method)
    labels = [
        (f"{name}\n" if "x" not in name else "") + f"{width}\u00d7{height}"
        for name, width, height in sizes.itertuples(index=False)
    ]
    axis.set_xticks(sizes.index, labels, rotation=0 if len(sizes) <= MAX_HORIZONTAL_LABELS else 60)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(labelsize=7.5)
    axis.set_xlabel("size of the photograph, pixels", fontsize=8.5)
    axis.set_ylabel("GMACs per photograph", fontsize=8.5)
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7.5, framealpha=1, edgecolor="none")
    axis.set_title(f"counted with {COUNTERS[counter].split(':')[0]}; 1 MAC = 2 FLOPs", fontsize=8)
    figure.savefig(path, dpi=300)


def resolutions_parser() -> argparse.ArgumentParser:
    """Return the parser of docs/resolutions.py."""
    parser = make_parser(
        "Count the model, Swin-T and ResNet-50 on the whole photograph, and ResNet-50 on "
        f"{CROPS} crops of {CROP_SIDE} pixels, at several sizes of a photograph.",
        prog="docs/resolutions.py",
    )
    names = ", ".join(f"{name} ({width} x {height})" for name, (width, height) in SIZES.items())
    parser.add_argument(
        "sizes",
        type=photograph_size,
        nargs="*",
        default=[Size(name, *sides) for name, sides in SIZES.items()],
        metavar="SIZE",
        help=f"{names} or WIDTHxHEIGHT; all five by default",
    )
    parser.add_argument("--config", metavar="FILE", help="count the model and views of a config of train.py")
    parser.add_argument("--csv", type=table_file, metavar="FILE", help="write the counts as CSV")
    parser.add_argument(
        "--plot", type=plot_file, metavar="FILE", help=f"plot the counts of {PLOTTED_COUNTER}; {', '.join(FORMATS)}"
    )
    add_model_options(parser)
    add_view_options(parser)
    return parser


@entry_point
def main(args: list[str] | None = None) -> int:
    """Count, print, and write what was asked for; return the exit code."""
    parser = resolutions_parser()
    options = parse_options(parser, args, config_parser=train_parser())
    with usage_errors(parser):
        spec = view_spec(options)
        model = build_model(**model_options(vars(options)), view_sizes=spec.view_sizes).eval()
    name = f"{options.model} ({options.backbone}), {'all patches' if spec.is_ragged else 'views of fixed size'}"
    own = model_method(as_published(model, options.backbone), spec)
    counts = count_methods({name: own, **other_methods()}, dict.fromkeys(options.sizes))
    print_counts(counts)
    if options.csv:
        write_csv(options.csv, counts)
    if options.plot:
        plot_counts(counts, PLOTTED_COUNTER, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
