"""The quality map as colours: what every place of a view adds to the score or takes away.

The points are exact, they sum to the score; the places are approximate, because inside the trunk every place has seen
its neighbours.
"""

from collections.abc import Mapping

import matplotlib
import numpy as np

COLOURS = "RdBu"  # ColorBrewer's: red takes away, blue adds; told apart by the colour-blind, too
STRONGEST = 0.65  # opacity of the strongest colour: the picture stays to be seen below it

WORDS = (
    "Blue places add to the score, red ones take away. The points are exact: with the bias they sum to the score. "
    "The places are approximate: inside the network every place has seen its neighbours."
)


def relative_maps(maps: Mapping[str, np.ndarray], branch_means: Mapping[str, float] | None) -> dict[str, np.ndarray]:
    """Return maps as differences from what is usual.

    Args:
        maps: for each view the points of every place, (h, w).
        branch_means: points that each view adds on average to the validation images' scores, as in the checkpoint;
            without them a map is held against its own mean, and shows no more than where a photograph is better.

    Returns:
        (h, w) for each view, points.
    """
    if branch_means is None:
        return {name: places - places.mean() for name, places in maps.items()}
    return {name: places - branch_means[name] for name, places in maps.items()}


def reference_words(branch_means: Mapping[str, float] | None) -> str:
    """Return in words, to follow "relative to", what `relative_maps` are differences from."""
    return "the mean of each view" if branch_means is None else "validation photographs on average"


def largest(maps: Mapping[str, np.ndarray]) -> float:
    """Return where the colour scale of these maps ends: beyond all but 2 % of the places; more than 0."""
    values = np.concatenate([np.abs(places).ravel() for places in maps.values()])
    return max(float(np.percentile(values, 98)), 1e-9)


def paint(places: np.ndarray, limit: float) -> np.ndarray:
    """Return a map as colours to lay over a picture: the further from 0, the stronger and the less transparent.

    Args:
        places: (h, w), points.
        limit: of the scale, > 0.

    Returns:
        (h, w, 4) uint8, RGBA.
    """
    scaled = np.clip(places / limit, -1, 1)
    colours = matplotlib.colormaps[COLOURS]((scaled + 1) / 2)
    colours[..., 3] = STRONGEST * np.sqrt(np.abs(scaled))
    return (colours * 255).round().astype(np.uint8)
