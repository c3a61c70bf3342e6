"""The figure of what ways of reading a photograph cost at different resolutions."""

import os
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from utils.costs.counting import COUNTERS

# Told apart by the colour-blind too, and in grey by their marks.
STYLES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"))
LABELS = 6  # that fit side by side below the axis


def draw_costs(rows: Sequence[dict], counter: str, paths: Sequence[str | os.PathLike]) -> None:
    """Draw the MACs of every method, on a logarithmic scale, at every size of a photograph, the smallest first.

    Args:
        rows: of `utils.costs.resolutions.resolution_rows`.
        counter: whose figures are drawn, one of `utils.costs.counting.OPERATOR_COUNTERS`; the figure names it.
        paths: of the pictures, one for each format.
    """
    table = pd.DataFrame(rows)
    table["pixels"] = table["width"] * table["height"]
    order = sorted(set(zip(table["pixels"], table["width"], strict=True)))
    table["place"] = [order.index(size) for size in zip(table["pixels"], table["width"], strict=True)]
    table = table.sort_values("place", kind="stable")
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axis = figure.subplots()
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for method, (colour, mark) in zip(methods, STYLES, strict=False):
        own = table[table["method"] == method]
        gmacs = own[f"gmacs_{counter}"]
        axis.plot(own["place"], gmacs, color=colour, marker=mark, markersize=4.5, linewidth=1.4, label=method)
    sizes = table.drop_duplicates("place")
    names = [
        (f"{name}\n" if "x" not in name else "") + f"{width}\u00d7{height}"
        for name, width, height in zip(sizes["resolution"], sizes["width"], sizes["height"], strict=True)
    ]
    axis.set_xticks(sizes["place"], names, rotation=0 if len(sizes) <= LABELS else 60)
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
    for path in paths:
        figure.savefig(path, dpi=300)
