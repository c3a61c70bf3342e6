"""Full-resolution patches of a photograph: the rival ways of looking that the three views are held against.

A photograph is divided into a grid of squares that do not overlap. Either all of them are looked at, or the three with
the most complex texture (arXiv 2409.00749, Fig. 1, b and c).
"""

import numpy as np
import torch

from data.decode import DEFAULT_MAX_PIXELS
from data.fragments import enlarge_to_fit
from data.layout import to_view

POLICIES = ("all", "texture")
FEW = 3  # patches of a training step with "all", and of every step with "texture"
GREY_LEVELS = 16  # of the co-occurrence matrix


def cut_patches(
    image: np.ndarray,
    size: int,
    policy: str = "all",
    count: int = 0,
    generator: np.random.Generator | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> torch.Tensor:
    """Cut patches out of a photograph.

    Args:
        image: (H, W, 3) uint8, any size; enlarged first if a side is shorter than `size`.
        size: side of a patch, pixels.
        policy: "all": of the whole grid; "texture": the FEW of the highest `texture_complexity`.
        count: with "all", so many patches, spread evenly over the grid in its order; 0 for the whole grid.
        generator: with "all", draws FEW patches of the grid at random instead, for training.
        max_pixels: limit of the enlarged image.

    Returns:
        (P, 3, size, size) uint8, channels last in memory. A grid of fewer patches than wanted gives some twice.

    Raises:
        ImageError: the image is so long and thin that enlarging it would pass max_pixels.
    """
    image = enlarge_to_fit(image, size, max_pixels)
    cells = grid_cells(image, size)  # (rows, columns, size, size, 3)
    places = np.arange(cells.shape[0] * cells.shape[1])
    if policy == "texture":
        complexity = np.stack([texture_complexity(row) for row in cells]).ravel()
        places = np.resize(np.argsort(-complexity, kind="stable")[:FEW], FEW)
    elif generator is not None:
        places = generator.choice(places, FEW, replace=len(places) < FEW)
    elif count:
        places = np.linspace(0, len(places) - 1, count).round().astype(int)
    chosen = cells[np.unravel_index(places, cells.shape[:2])]  # a copy
    return to_view(chosen)


def count_patches(height: int, width: int, size: int, policy: str = "all", count: int = 0) -> int:
    """Return how many patches `cut_patches` cuts out of a photograph without a generator."""
    if policy == "texture":
        return FEW
    shortest = min(height, width)
    if shortest < size:  # it is enlarged until it fits
        height, width = -(-height * size // shortest), -(-width * size // shortest)
    return count or (height // size) * (width // size)


def grid_cells(image: np.ndarray, size: int) -> np.ndarray:
    """Show (H, W, 3) as a grid of squares in its middle, (rows, columns, size, size, 3), without a copy."""
    rows, columns = image.shape[0] // size, image.shape[1] // size
    top, left = (image.shape[0] - rows * size) // 2, (image.shape[1] - columns * size) // 2
    middle = image[top : top + rows * size, left : left + columns * size]
    return np.lib.stride_tricks.sliding_window_view(middle, (size, size), (0, 1))[::size, ::size].transpose(
        0, 1, 3, 4, 2
    )


def texture_complexity(patches: np.ndarray) -> np.ndarray:
    """Return how complex the texture of each patch is: the contrast of its grey-level co-occurrence matrix.

    The contrast, the sum of (i - j)^2 P(i, j), is the mean squared difference of neighbouring grey levels, and needs no
    matrix. It is summed over the four directions, 0, 45, 90 and 135 degrees, at a distance of one pixel (Haralick et
    al. 1973; as a measure for choosing patches of 4K pictures: Lu et al., arXiv 2206.04363).

    Args:
        patches: (n, S, S, 3) uint8.

    Returns:
        (n,) float64.
    """
    grey = patches @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601 luma
    levels = (grey * (GREY_LEVELS / 256)).astype(np.int16)
    neighbours = (
        (levels[:, :, :-1], levels[:, :, 1:]),
        (levels[:, 1:, :-1], levels[:, :-1, 1:]),
        (levels[:, :-1], levels[:, 1:]),
        (levels[:, :-1, :-1], levels[:, 1:, 1:]),
    )
    contrast = np.zeros(len(patches))
    for first, second in neighbours:
        contrast += ((first - second) ** 2).mean(axis=(1, 2), dtype=np.float64)
    return contrast
