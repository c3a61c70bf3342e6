"""The quality map as colours: what each location in a view adds to the score or subtracts from it.

The points are exact: they sum to the score. The locations are approximate, because the trunk has mixed each token
with its neighbours, by attention or by convolutions.
"""

from collections.abc import Mapping

import matplotlib
import numpy as np

COLOURS = "RdBu"  # ColorBrewer's, safe for colour-blind readers: red subtracts, blue adds
MAX_OPACITY = 0.65  # the picture below stays visible

CAPTION = (
    "Blue raises the score relative to the reference, red lowers it. The points are exact: with the bias they sum to "
    "the score. Their places are approximate, because the network mixes neighbouring parts of a view."
)


def relative_maps(maps: Mapping[str, np.ndarray], branch_means: Mapping[str, float] | None) -> dict[str, np.ndarray]:
    """Return maps as differences from a reference.

    Args:
        maps: for each view the points of every token, (h, w).
        branch_means: points that each view adds on average to the scores of the validation images, from the
            checkpoint. Without them the reference is each map's own mean, and a map shows only which parts of a
            photograph are better than others.

    Returns:
        (h, w) for each view, points.
    """
    return {
        name: points - (points.mean() if branch_means is None else branch_means[name]) for name, points in maps.items()
    }


def reference_text(branch_means: Mapping[str, float] | None) -> str:
    """Describe the reference of `relative_maps`, to follow "relative to"."""
    return "the mean of each view" if branch_means is None else "validation photographs on average"


def colour_limit(maps: Mapping[str, np.ndarray]) -> float:
    """Return the end of a colour scale for these maps, > 0; 2 % of the tokens lie beyond it."""
    values = np.concatenate([np.abs(points).ravel() for points in maps.values()])
    return max(float(np.percentile(values, 98)), 1e-9)


def paint(points: np.ndarray, limit: float) -> np.ndarray:
    """Return a map as colours to lay over a picture: the further from 0, the stronger and the more opaque.

    Args:
        points: (h, w).
        limit: end of the colour scale, > 0.

    Returns:
        (h, w, 4) uint8, RGBA.
    """
    scaled = np.clip(points / limit, -1, 1)
    colours = matplotlib.colormaps[COLOURS]((scaled + 1) / 2)
    colours[..., 3] = MAX_OPACITY * np.sqrt(np.abs(scaled))
    return (colours * 255).round().astype(np.uint8)


def colour_table() -> np.ndarray:
    """Return the 256 colours of `paint` from -limit to +limit, (256, 3) uint8, for a page that paints maps itself."""
    return (matplotlib.colormaps[COLOURS](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
