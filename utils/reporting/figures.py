"""Figures of what the network sees, of the quality map, and of scores against opinions."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from data.files import printable, replace_file
from data.fragments import covered_size, enlarge_to_fit, place_patches
from data.layout import to_image
from data.saliency import salient_corner
from data.views import ViewSpec
from utils.reporting.maps import CAPTION, COLOURS, colour_limit, paint, reference_text, relative_maps

GRID_COLOUR, PATCH_COLOUR, SALIENT_COLOUR = "white", "#e69f00", "#56b4e9"  # safe for colour-blind readers
SCATTER_STYLE = {"s": 9, "alpha": 0.6, "linewidths": 0, "color": "#0072b2"}


def draw_views(image: np.ndarray, views: Mapping[str, torch.Tensor], spec: ViewSpec, path: str | os.PathLike) -> None:
    """Draw a photograph with the regions its views are cut from, and the views beside it.

    Args:
        image: (H, W, 3) uint8.
        views: its views in evaluation, as returned by `data.views.make_views`.
        spec: how they were cut.
        path: of the picture; the suffix decides the format.
    """
    figure = Figure(figsize=(18, 4.4), layout="constrained")
    axes = figure.subplots(1, 1 + len(views), width_ratios=[1.7] + [1] * len(views))
    photograph, *squares = axes
    _show(photograph, image)
    photograph.set_title(f"photograph, {image.shape[1]} x {image.shape[0]}")
    if "distortion" in views:
        _mark_patches(photograph, image, spec)
    if "salient" in views:
        _frame_salient(photograph, image, spec)
    titles = {
        "aesthetic": "aesthetic view: resized",
        "distortion": f"distortion view: {spec.n_fragment} x {spec.n_fragment} patches",
        "salient": f"salient view ({spec.saliency})",
    }
    edges = {"aesthetic": "none", "distortion": PATCH_COLOUR, "salient": SALIENT_COLOUR}
    for axis, (name, view) in zip(squares, views.items(), strict=True):
        axis.imshow(to_image(view))
        axis.set_title(titles[name])
        for spine in axis.spines.values():
            spine.set(color=edges[name], linewidth=3)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    _save(figure, path, dpi=80, bbox_inches="tight")


def draw_quality_map(
    image: np.ndarray,
    views: Mapping[str, torch.Tensor],
    spec: ViewSpec,
    maps: Mapping[str, np.ndarray],
    branch_means: Mapping[str, float] | None,
    title: str,
    path: str | os.PathLike,
) -> None:
    """Draw where a photograph gains and loses quality: over it, over the other views, and as one bar per view.

    Args:
        image: (H, W, 3) uint8.
        views: its views in evaluation, as returned by `data.views.make_views`.
        spec: how they were cut.
        maps: for each view the points of every token, (h, w), on the scale of the scores.
        branch_means: the reference of the maps, see `utils.reporting.maps.relative_maps`.
        title: name and score.
        path: of the picture; the suffix decides the format.
    """
    relative = relative_maps(maps, branch_means)
    limit = colour_limit(relative)
    reference = reference_text(branch_means)
    others = [name for name in views if name != "distortion"]
    columns = max(1, len(others))
    figure = Figure(figsize=(15, 7.2), layout="constrained")
    grid = figure.add_gridspec(2, 1 + columns, width_ratios=[2.4] + [1] * columns, height_ratios=[1.35, 1])

    photograph = figure.add_subplot(grid[:, 0])
    _show_with_map(photograph, image, relative.get("distortion"), spec, limit)
    axes = [photograph]
    for column, name in enumerate(others, start=1):
        axis = figure.add_subplot(grid[0, column])
        axis.imshow(_grey(to_image(views[name])))
        side = views[name].shape[-1]
        _overlay(axis, relative[name], (0, side, side, 0), limit)
        axis.set_title(f"{name} view")
        axes.append(axis)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    scale = ScalarMappable(Normalize(-limit, limit), COLOURS)
    bar = figure.colorbar(scale, ax=photograph, location="bottom", shrink=0.7, aspect=40, pad=0.02)
    bar.set_label(f"points more (blue) or less (red) than {reference}")

    bars = figure.add_subplot(grid[1, 1:])
    bars.set_title("points of each view" + (f", more or less than\n{reference}" if branch_means else ""))
    _draw_bars(bars, {name: float(points.mean()) for name, points in (relative if branch_means else maps).items()})
    figure.suptitle(printable(title), fontsize=15, parse_math=False)  # file names may contain dollar signs
    figure.supxlabel(CAPTION, fontsize=9)
    _save(figure, path, dpi=90)


def draw_scatter(table: pd.DataFrame, mapping: str, paths: Sequence[str | os.PathLike]) -> None:
    """Draw MOS against score with the mapping, and the errors of quality, for a publication.

    Args:
        table: one row per image: score, mos, quality (NaN without a mapping).
        mapping: description of the data it was fitted on.
        paths: of the pictures, one for each format.
    """
    column = "quality" if table["quality"].notna().all() else "score"
    figure = Figure(figsize=(7.0, 3.0), layout="constrained")
    scatter, errors = figure.subplots(1, 2)
    scatter.scatter(table["score"], table["mos"], **SCATTER_STYLE)
    if column == "quality":
        ordered = table.sort_values("score")
        scatter.plot(ordered["score"], ordered["quality"], color="black", linewidth=1.2, label=f"mapping {mapping}")
        scatter.legend(fontsize=7, frameon=False)
    scatter.set(xlabel="score", ylabel="MOS")
    errors.scatter(table["mos"], table[column] - table["mos"], **SCATTER_STYLE)
    errors.axhline(0, color="black", linewidth=1)
    errors.set(xlabel="MOS", ylabel=f"{column} \N{MINUS SIGN} MOS")
    for axis in (scatter, errors):
        axis.spines[["top", "right"]].set_visible(False)
    for path in paths:
        _save(figure, path, dpi=300)


def _save(figure: Figure, path: str | os.PathLike, **options) -> None:
    """Save a figure whole or not at all; letters that matplotlib's font lacks are drawn as boxes without a warning."""
    with replace_file(path) as unfinished, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(unfinished, format=Path(path).suffix.removeprefix("."), **options)


def _show(axis: Axes, image: np.ndarray, colour: bool = True) -> None:
    """Show a photograph in its own pixel coordinates, subsampled to about the figure's resolution."""
    height, width = image.shape[:2]
    step = max(1, min(height, width) // 800)
    reduced = image[::step, ::step]
    axis.imshow(reduced if colour else _grey(reduced), extent=(0, width, height, 0))


def _mark_patches(axis: Axes, image: np.ndarray, spec: ViewSpec) -> None:
    """Draw the fragment grid and the mini-patches of evaluation on a photograph."""
    n, side = spec.n_fragment, spec.patch_size
    height, width = enlarge_to_fit(image, n * side, spec.max_pixels).shape[:2]
    scale = image.shape[0] / height  # patches of an enlarged photograph are smaller in its own pixels
    for index in range(1, n):
        axis.axhline(index * (height // n) * scale, color=GRID_COLOUR, linewidth=0.4)
        axis.axvline(index * (width // n) * scale, color=GRID_COLOUR, linewidth=0.4)
    tops, lefts = place_patches(height, width, n, side, spec.evaluation_fractions())
    for top, left in zip(tops.ravel() * scale, lefts.ravel() * scale, strict=True):
        axis.add_patch(Rectangle((left, top), side * scale, side * scale, color=PATCH_COLOUR, linewidth=0))


def _frame_salient(axis: Axes, image: np.ndarray, spec: ViewSpec) -> None:
    """Draw the frame of the salient view on a photograph."""
    size = spec.salient_patch_dimension
    top, left = salient_corner(image, size, spec.saliency)
    axis.add_patch(Rectangle((left, top), size, size, fill=False, edgecolor=SALIENT_COLOUR, linewidth=2.5))


def _show_with_map(axis: Axes, image: np.ndarray, points: np.ndarray | None, spec: ViewSpec, limit: float) -> None:
    """Show a photograph in grey, with the map of its distortion view and the frame of its salient view if cut."""
    _show(axis, image, colour=False)
    title = "photograph"
    if points is not None:
        height, width = covered_size(*image.shape[:2], spec.n_fragment, spec.patch_size)
        _overlay(axis, points, (0, width, height, 0), limit)
        title += ": local distortion" + (", and where the salient view is cut" if "salient" in spec.views else "")
    if "salient" in spec.views:
        _frame_salient(axis, image, spec)
    axis.set_title(title)


def _overlay(axis: Axes, points: np.ndarray, extent: tuple[float, float, float, float], limit: float) -> None:
    """Draw a map (h, w) over an axis and keep the axis limits."""
    limits = {"xlim": axis.get_xlim(), "ylim": axis.get_ylim()}
    axis.imshow(paint(points, limit), extent=extent, interpolation="nearest")
    axis.set(**limits)


def _grey(image: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8 without colour, which under a map could be mistaken for points."""
    luma = (image @ np.array([299, 587, 114])) // 1000  # ITU-R BT.601
    return np.repeat(luma.astype(np.uint8)[..., None], 3, axis=2)


def _draw_bars(axis: Axes, points: Mapping[str, float]) -> None:
    """Draw one labelled horizontal bar per view: blue adds, red subtracts."""
    names = list(points)[::-1]
    values = [points[name] for name in names]
    reach = max(*map(abs, values), 1e-9)
    axis.barh(names, values, color=["#2166ac" if value >= 0 else "#b2182b" for value in values], height=0.6)
    for row, value in enumerate(values):
        axis.annotate(
            f"{value:+.3f}",
            (value, row),
            xytext=(4 if value >= 0 else -4, 0),
            textcoords="offset points",
            ha="left" if value >= 0 else "right",
            va="center",
        )
    axis.axvline(0, color="0.3", linewidth=1)
    axis.set_xlim(-1.35 * reach, 1.35 * reach)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
