"""Full-resolution patches: the alternative inputs that the paper compares its three views with.

The photograph is divided into a grid of squares. The network reads either all of them, or the three with the most
complex texture (arXiv 2409.00749, Fig. 1, b and c).
"""

import numpy as np
import torch

from data.decode import DEFAULT_MAX_PIXELS
from data.fragments import enlarge_to_fit, enlarged_size
from data.layout import to_view

POLICIES = ("all", "texture")
N_PATCHES = 3  # per photograph: in training with policy "all", always with "texture"
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
        policy: "all" for the whole grid, "texture" for the N_PATCHES with the highest `texture_complexity`.
        count: with "all", the number of patches, evenly spaced in grid order; 0 for the whole grid.
        generator: with "all", draws N_PATCHES at random instead, for training.
        max_pixels: limit of the enlarged image.

    Returns:
        (P, 3, size, size) uint8, channels last in memory. If the grid is too small, patches repeat.

    Raises:
        ImageError: the image is so long and thin that it would exceed max_pixels when enlarged.
    """
    image = enlarge_to_fit(image, size, max_pixels)
    cells = grid_cells(image, size)  # (rows, columns, size, size, 3)
    indices = np.arange(cells.shape[0] * cells.shape[1])
    if policy == "texture":
        complexity = np.stack([texture_complexity(row) for row in cells]).ravel()
        indices = np.resize(np.argsort(-complexity, kind="stable")[:N_PATCHES], N_PATCHES)
    elif generator is not None:
        indices = generator.choice(indices, N_PATCHES, replace=len(indices) < N_PATCHES)
    elif count:
        indices = np.linspace(0, len(indices) - 1, count).round().astype(int)
    return to_view(cells[np.unravel_index(indices, cells.shape[:2])])  # indexing by arrays copies


def count_patches(height: int, width: int, size: int, policy: str = "all", count: int = 0) -> int:
    """Return how many patches `cut_patches` cuts out of a photograph without a generator."""
    if policy == "texture":
        return N_PATCHES
    height, width = enlarged_size(height, width, size)
    return count or (height // size) * (width // size)


def grid_cells(image: np.ndarray, size: int) -> np.ndarray:
    """Return the centred grid of squares of (H, W, 3), (rows, columns, size, size, 3), sharing the image's memory."""
    top, left = image.shape[0] % size // 2, image.shape[1] % size // 2
    windows = np.lib.stride_tricks.sliding_window_view(image[top:, left:], (size, size), (0, 1))
    return windows[::size, ::size].transpose(0, 1, 3, 4, 2)


def texture_complexity(patches: np.ndarray) -> np.ndarray:
    """Return the contrast of each patch's grey-level co-occurrence matrix, summed over four directions.

    The contrast, the sum of (i - j)^2 P(i, j), equals the mean squared difference of neighbouring grey levels, so the
    matrix itself is not needed. Directions are 0, 45, 90 and 135 degrees, at a distance of one pixel (Haralick et al.
    1973; used to choose patches of 4K images by Lu et al., arXiv 2206.04363).

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
