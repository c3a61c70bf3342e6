"""The figure of what ways of reading a photograph cost at different resolutions."""

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from utils.counting import COUNTERS

# Told apart by the colour-blind too, and in grey by their marks.
STYLES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"))


def draw_costs(rows: Sequence[dict], counter: str, paths: Sequence[str | os.PathLike]) -> None:
    """Draw the MACs of every method against the size of the photograph, both on logarithmic scales.

    Args:
        rows: of `utils.resolutions.resolution_rows`.
        counter: whose figures are drawn, one of `utils.counting.OPERATOR_COUNTERS`; the figure names it.
        paths: of the pictures, one for each format.
    """
    table = pd.DataFrame(rows)
    table["megapixels"] = table["width"] * table["height"] / 1e6
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axis = figure.subplots()
    for (method, own), (colour, mark) in zip(table.groupby("method", sort=False), STYLES, strict=False):
        own = own.sort_values("megapixels")
        gmacs = own[f"gmacs_{counter}"]
        axis.plot(own["megapixels"], gmacs, color=colour, marker=mark, markersize=4.5, linewidth=1.4, label=method)
    axis.set(xscale="log", yscale="log")
    axis.set_xlabel("size of the photograph, pixels", fontsize=8.5)
    axis.set_ylabel("GMACs per photograph", fontsize=8.5)
    places = table.drop_duplicates(["width", "height"]).sort_values("megapixels")
    names = [
        f"{name}\n{width}\u00d7{height}" if "x" not in name else f"{width}\u00d7\n{height}"
        for name, width, height in zip(places["resolution"], places["width"], places["height"], strict=True)
    ]
    axis.set_xticks(places["megapixels"], names, rotation=0 if _apart(places["megapixels"]) else 60)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(labelsize=7.5)
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7.5, framealpha=0.9, edgecolor="none")
    axis.set_title(f"counted with {COUNTERS[counter].split(':')[0]}; 1 MAC = 2 FLOPs", fontsize=8)
    for path in paths:
        figure.savefig(path, dpi=300)


def _apart(megapixels: pd.Series) -> bool:
    """Return whether labels below these sizes, in rising order, stay clear of each other."""
    return len(megapixels) < 2 or np.diff(np.log(megapixels)).min() > 0.13 * np.log(
        megapixels.iloc[-1] / megapixels.iloc[0]
    )
