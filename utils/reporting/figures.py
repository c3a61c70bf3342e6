"""Pictures for people who would rather look than read."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from data.fragments import covered_size, enlarge_to_fit, place_patches
from data.layout import to_image
from data.saliency import salient_corner
from data.views import ViewSpec, make_views
from utils.reporting.maps import COLOURS, WORDS, largest, paint, reference_words, relative_maps

GRID_COLOUR, PATCH_COLOUR, SALIENT_COLOUR = "white", "#e69f00", "#56b4e9"  # told apart by the colour-blind too


def draw_views(image: np.ndarray, spec: ViewSpec, path: str | os.PathLike) -> None:
    """Draw what the network sees of a photograph: where the views come from, and the views themselves.

    Args:
        image: (H, W, 3) uint8.
        spec: how views are cut; the fragments are those of evaluation.
        path: of the picture; its ending decides the format.

    Raises:
        ImageError: as `data.views.make_views`.
    """
    views = make_views(image, spec, spec.evaluation_generator())
    figure = Figure(figsize=(18, 4.4), layout="constrained")
    axes = figure.subplots(1, 1 + len(views), width_ratios=[1.7] + [1] * len(views))
    photograph, *squares = axes

    height, width = image.shape[:2]
    _show(photograph, image)
    photograph.set_title(f"photograph, {width} x {height}")
    if "distortion" in views:
        n, side = spec.n_fragment, spec.patch_size
        enlarged = enlarge_to_fit(image, n * side, spec.max_pixels)
        scale = height / enlarged.shape[0]  # patches of a small photograph are smaller in its own pixels
        for index in range(1, n):
            photograph.axhline(index * (enlarged.shape[0] // n) * scale, color=GRID_COLOUR, linewidth=0.4)
            photograph.axvline(index * (enlarged.shape[1] // n) * scale, color=GRID_COLOUR, linewidth=0.4)
        tops, lefts = place_patches(*enlarged.shape[:2], n, side, spec.evaluation_generator())
        for top, left in zip(tops.ravel() * scale, lefts.ravel() * scale, strict=True):
            photograph.add_patch(Rectangle((left, top), side * scale, side * scale, color=PATCH_COLOUR, linewidth=0))
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
    figure.savefig(path, dpi=80, bbox_inches="tight")


def draw_quality_map(
    image: np.ndarray,
    spec: ViewSpec,
    maps: Mapping[str, np.ndarray],
    branch_means: Mapping[str, float] | None,
    title: str,
    path: str | os.PathLike,
) -> None:
    """Draw where a photograph gains and loses quality: over it, over the other views, and by a bar for each view.

    Args:
        image: (H, W, 3) uint8.
        spec: how views are cut.
        maps: for each view the points of every place, (h, w), on the scale of the scores.
        branch_means: what they are held against, see `utils.reporting.maps.relative_maps`.
        title: name and score.
        path: of the picture; its ending decides the format.

    Raises:
        ImageError: as `data.views.make_views`.
    """
    views = make_views(image, spec, spec.evaluation_generator())
    relative = relative_maps(maps, branch_means)
    limit = largest(relative)
    beside = [name for name in views if name != "distortion"]
    columns = max(1, len(beside))
    figure = Figure(figsize=(15, 7.2), layout="constrained")
    grid = figure.add_gridspec(2, 1 + columns, width_ratios=[2.4] + [1] * columns, height_ratios=[1.35, 1])

    photograph = figure.add_subplot(grid[:, 0])
    _show(photograph, image, colour=False)
    if "distortion" in views:
        height, width = covered_size(*image.shape[:2], spec.n_fragment, spec.patch_size)
        _lay_over(photograph, relative["distortion"], (0, width, height, 0), limit)
    if "salient" in views:
        _frame_salient(photograph, image, spec)
    photograph.set_title(
        "photograph: local distortion" + (", and where the salient view is cut" if "salient" in views else "")
        if "distortion" in views
        else "photograph"
    )
    axes = [photograph]
    for column, name in enumerate(beside, start=1):
        axis = figure.add_subplot(grid[0, column])
        axis.imshow(_grey(to_image(views[name])))
        side = views[name].shape[-1]
        _lay_over(axis, relative[name], (0, side, side, 0), limit)
        axis.set_title(f"{name} view")
        axes.append(axis)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    scale = ScalarMappable(Normalize(-limit, limit), COLOURS)
    bar = figure.colorbar(scale, ax=photograph, location="bottom", shrink=0.7, aspect=40, pad=0.02)
    bar.set_label(f"points more (blue) or less (red) than {reference_words(branch_means)}")

    bars = figure.add_subplot(grid[1, 1:])
    if branch_means is None:
        shares = {name: float(places.mean()) for name, places in maps.items()}
        bars.set_title("points of each view")
    else:
        shares = {name: float(places.mean()) for name, places in relative.items()}
        bars.set_title("points of each view, more or less than\nvalidation photographs on average")
    _draw_bars(bars, shares)
    figure.suptitle(title, fontsize=15, parse_math=False)  # names may hold dollar signs
    figure.supxlabel(WORDS, fontsize=9)
    figure.savefig(path, dpi=90)


def _draw_bars(axis: Axes, shares: Mapping[str, float]) -> None:
    """Draw one horizontal bar a view, blue where it adds and red where it takes away, with its number."""
    names = list(shares)[::-1]
    values = [shares[name] for name in names]
    reach = max(*map(abs, values), 1e-9)
    axis.barh(names, values, color=["#2166ac" if value >= 0 else "#b2182b" for value in values], height=0.6)
    for place, value in enumerate(values):
        axis.annotate(
            f"{value:+.3f}",
            (value, place),
            xytext=(4 if value >= 0 else -4, 0),
            textcoords="offset points",
            ha="left" if value >= 0 else "right",
            va="center",
        )
    axis.axvline(0, color="0.3", linewidth=1)
    axis.set_xlim(-1.35 * reach, 1.35 * reach)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)


def draw_scatter(table: pd.DataFrame, mapping: str, paths: Sequence[str | os.PathLike]) -> None:
    """Draw MOS against score with the mapping, and the errors of quality, for a publication.

    Args:
        table: a row an image: score, mos, quality (NaN without a mapping).
        mapping: in words, what it was fitted on.
        paths: of the pictures, one for each format.
    """
    mapped = bool(table["quality"].notna().all())
    figure = Figure(figsize=(7.0, 3.0), layout="constrained")
    scatter, errors = figure.subplots(1, 2)
    scatter.scatter(table["score"], table["mos"], s=9, alpha=0.6, linewidths=0, color="#0072b2")
    if mapped:
        ordered = table.sort_values("score")
        scatter.plot(ordered["score"], ordered["quality"], color="black", linewidth=1.2, label=f"mapping {mapping}")
        scatter.legend(fontsize=7, frameon=False)
    scatter.set(xlabel="score", ylabel="MOS")
    predicted = table["quality"] if mapped else table["score"]
    errors.scatter(table["mos"], predicted - table["mos"], s=9, alpha=0.6, linewidths=0, color="#0072b2")
    errors.axhline(0, color="black", linewidth=1)
    errors.set(xlabel="MOS", ylabel=("quality" if mapped else "score") + " \u2212 MOS")
    for axis in (scatter, errors):
        axis.spines[["top", "right"]].set_visible(False)
    for path in paths:
        figure.savefig(path, dpi=300)


def _show(axis: Axes, image: np.ndarray, colour: bool = True) -> None:
    """Show a photograph in its own pixels, at no more resolution than a figure has."""
    height, width = image.shape[:2]
    step = max(1, min(height, width) // 800)
    shown = image[::step, ::step]
    axis.imshow(shown if colour else _grey(shown), extent=(0, width, height, 0))


def _grey(image: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8 without colour, which under a map would pass for points."""
    luma = (image @ np.array([299, 587, 114])) // 1000  # ITU-R BT.601
    return np.repeat(luma.astype(np.uint8)[..., None], 3, axis=2)


def _lay_over(axis: Axes, places: np.ndarray, extent: tuple[float, float, float, float], limit: float) -> None:
    """Lay a map (h, w) over what an axis shows; the axis keeps its limits."""
    limits = axis.get_xlim(), axis.get_ylim()
    axis.imshow(paint(places, limit), extent=extent, interpolation="nearest")
    axis.set(xlim=limits[0], ylim=limits[1])


def _frame_salient(axis: Axes, image: np.ndarray, spec: ViewSpec) -> None:
    """Draw the frame of the salient view on a photograph."""
    size = spec.salient_patch_dimension
    top, left = salient_corner(image, size, spec.saliency)
    axis.add_patch(Rectangle((left, top), size, size, fill=False, edgecolor=SALIENT_COLOUR, linewidth=2.5))
