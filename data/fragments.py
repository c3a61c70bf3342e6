"""Grid mini-patch sampling: a mosaic of full-resolution mini-patches from all over the photograph."""

import numpy as np
import torch

from data.decode import DEFAULT_MAX_PIXELS
from data.layout import to_view
from data.resize import resize_bilinear


def enlarge_to_fit(image: np.ndarray, side: int, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Enlarge an image (bilinear) until both sides reach `side`; return an image that already does unchanged.

    Args:
        image: (H, W, 3) uint8.
        side: pixels.
        max_pixels: limit of the enlarged image.

    Raises:
        ImageError: the enlarged image would exceed max_pixels.
    """
    height, width = image.shape[:2]
    shortest = min(height, width)
    if shortest >= side:
        return image
    # ceil in integers, so that the shorter side becomes exactly `side`
    return resize_bilinear(image, -(-height * side // shortest), -(-width * side // shortest), max_pixels)


def covered_size(height: int, width: int, n_fragment: int, patch_size: int) -> tuple[float, float]:
    """Return the height and width that the grid's cells cover, in pixels of the original photograph.

    Where n_fragment does not divide the size, a few pixels on the right and at the bottom belong to no cell. For a
    photograph that is enlarged first, the result is scaled back to the original size.
    """
    scale = max(1.0, n_fragment * patch_size / min(height, width))
    return tuple(int(side * scale) // n_fragment * n_fragment / scale for side in (height, width))


def place_patches(
    height: int, width: int, n_fragment: int, patch_size: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the top-left corner of one patch in every cell of the grid.

    Cells are `height // n_fragment` by `width // n_fragment` pixels. The patch's offset is uniform over all positions
    inside its cell.

    Returns:
        tops, lefts: (n_fragment, n_fragment) int64, pixels, in grid order.

    Raises:
        ValueError: a cell is smaller than a patch.
    """
    cell_height, cell_width = height // n_fragment, width // n_fragment
    if min(cell_height, cell_width) < patch_size:
        raise ValueError(f"cells of {cell_width} x {cell_height} pixels cannot hold patches of {patch_size}")
    grid = (n_fragment, n_fragment)
    tops = np.arange(n_fragment)[:, None] * cell_height + generator.integers(0, cell_height - patch_size + 1, grid)
    lefts = np.arange(n_fragment)[None, :] * cell_width + generator.integers(0, cell_width - patch_size + 1, grid)
    return tops, lefts


def sample_fragments(
    image: np.ndarray,
    n_fragment: int,
    patch_size: int,
    generator: np.random.Generator,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> torch.Tensor:
    """Stitch one full-resolution mini-patch from every cell of a uniform grid.

    Resizing hides blur and noise, and a crop loses most of the picture; a patch from each cell keeps the local texture
    and the rough layout (grid mini-patch sampling, FAST-VQA, arXiv 2207.02595, Sec. 3.1).

    Args:
        image: (H, W, 3) uint8, any size; enlarged first if a side is shorter than n_fragment * patch_size.
        n_fragment: cells along each side.
        patch_size: side of a mini-patch, in pixels of the original image.
        generator: draws each patch's offset inside its cell.
        max_pixels: limit of the enlarged image.

    Returns:
        (3, n_fragment * patch_size, n_fragment * patch_size) uint8, patches in grid order, channels last in memory.

    Raises:
        ImageError: the image is so long and thin that it would exceed max_pixels when enlarged.
    """
    side = n_fragment * patch_size
    image = np.ascontiguousarray(enlarge_to_fit(image, side, max_pixels))
    height, width = image.shape[:2]
    tops, lefts = place_patches(height, width, n_fragment, patch_size, generator)

    # A patch's rows are contiguous runs of 3 * patch_size bytes: one index per patch gathers them in a single copy.
    rows = image.reshape(height, width * 3)
    windows = np.lib.stride_tricks.sliding_window_view(rows, (patch_size, patch_size * 3))
    patches = windows[tops, lefts * 3]  # (n, n, p, 3p)
    mosaic = patches.transpose(0, 2, 1, 3).reshape(side, side, 3)  # (n, p, n, 3p) -> (np, np, 3), a copy
    return to_view(mosaic)
