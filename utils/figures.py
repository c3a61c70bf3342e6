"""Pictures for people who would rather look than read."""

import os

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from data.fragments import enlarge_to_fit, place_patches
from data.saliency import salient_corner
from data.views import ViewSpec, make_views

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
    step = max(1, min(height, width) // 800)
    photograph.imshow(image[::step, ::step], extent=(0, width, height, 0))
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
        size = spec.salient_patch_dimension
        top, left = salient_corner(image, size, spec.saliency)
        photograph.add_patch(Rectangle((left, top), size, size, fill=False, edgecolor=SALIENT_COLOUR, linewidth=2.5))

    titles = {
        "aesthetic": "aesthetic view: resized",
        "distortion": f"distortion view: {spec.n_fragment} x {spec.n_fragment} patches",
        "salient": f"salient view ({spec.saliency})",
    }
    edges = {"aesthetic": "none", "distortion": PATCH_COLOUR, "salient": SALIENT_COLOUR}
    for axis, (name, view) in zip(squares, views.items(), strict=True):
        axis.imshow(view.permute(1, 2, 0).numpy())
        axis.set_title(titles[name])
        for spine in axis.spines.values():
            spine.set(color=edges[name], linewidth=3)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=80, bbox_inches="tight")
