"""Grid mini-patch sampling: a mosaic of full-resolution mini-patches from all over the photograph.

In training a generator draws the offset of every patch inside its cell. In evaluation the offsets come from a table of
fractions, in units of 1 / FRACTION_UNIT of the room that a cell leaves its patch, so that a program in any language can
cut the same mosaic with integer arithmetic: `offset = fraction * (cell - patch + 1) // FRACTION_UNIT`.
"""

import numpy as np
import torch

from data.decode import DEFAULT_MAX_PIXELS
from data.layout import to_view
from data.resize import resize_bilinear

FRACTION_UNIT = 2**16
Offsets = np.random.Generator | np.ndarray  # what places the patches: draws, or a table of fractions


def enlarge_to_fit(image: np.ndarray, side: int, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Enlarge an image (bilinear) until both sides reach `side`; return an image that already does unchanged.

    Args:
        image: (H, W, 3) uint8.
        side: pixels.
        max_pixels: limit of the enlarged image.

    Raises:
        ImageError: the enlarged image would exceed max_pixels.
    """
    enlarged = enlarged_size(*image.shape[:2], side)
    return image if enlarged == image.shape[:2] else resize_bilinear(image, *enlarged, max_pixels)


def enlarged_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the height and width, in pixels, to which `enlarge_to_fit` enlarges an image."""
    shortest = min(height, width)
    if shortest >= side:
        return height, width
    # ceil in integers, so that the shorter side becomes exactly `side`
    return -(-height * side // shortest), -(-width * side // shortest)


def covered_size(height: int, width: int, n_fragment: int, patch_size: int) -> tuple[float, float]:
    """Return the height and width that the grid's cells cover, in pixels of the original photograph.

    Where n_fragment does not divide the size, a few pixels on the right and at the bottom belong to no cell. For a
    photograph that is enlarged first, the result is scaled back to the original size.
    """
    sizes = zip((height, width), enlarged_size(height, width, n_fragment * patch_size), strict=True)
    return tuple(enlarged // n_fragment * n_fragment * side / enlarged for side, enlarged in sizes)


def place_patches(
    height: int, width: int, n_fragment: int, patch_size: int, generator: Offsets
) -> tuple[np.ndarray, np.ndarray]:
    """Place the top-left corner of one patch in every cell of the grid.

    Cells are `height // n_fragment` by `width // n_fragment` pixels. With a generator the patch's offset is uniform
    over all positions inside its cell.

    Args:
        height, width: of the image, pixels.
        n_fragment, patch_size: as for `sample_fragments`.
        generator: a numpy generator, or a table (n_fragment, n_fragment, 2) of fractions, down and to the right, from 0
            to FRACTION_UNIT - 1.

    Returns:
        tops, lefts: (n_fragment, n_fragment) int64, pixels, in grid order.

    Raises:
        ValueError: a cell is smaller than a patch.
    """
    cell_height, cell_width = height // n_fragment, width // n_fragment
    if min(cell_height, cell_width) < patch_size:
        raise ValueError(f"cells of {cell_width} x {cell_height} pixels cannot hold patches of {patch_size}")
    cells = np.arange(n_fragment)
    offsets = [
        generator[:, :, axis].astype(np.int64) * (cell - patch_size + 1) // FRACTION_UNIT
        if isinstance(generator, np.ndarray)
        else generator.integers(0, cell - patch_size + 1, (n_fragment, n_fragment))
        for axis, cell in enumerate((cell_height, cell_width))
    ]
    return cells[:, None] * cell_height + offsets[0], cells[None, :] * cell_width + offsets[1]


def sample_fragments(
    image: np.ndarray,
    n_fragment: int,
    patch_size: int,
    generator: Offsets,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> torch.Tensor:
    """Stitch one full-resolution mini-patch from every cell of a uniform grid.

    Resizing hides blur and noise, and a crop loses most of the picture; a patch from each cell keeps the local texture
    and the rough layout (grid mini-patch sampling, FAST-VQA, arXiv 2207.02595, Sec. 3.1).

    Args:
        image: (H, W, 3) uint8, any size; enlarged first if a side is shorter than n_fragment * patch_size.
        n_fragment: cells along each side.
        patch_size: side of a mini-patch, in pixels of the original image.
        generator: places each patch inside its cell: a numpy generator that draws the offsets, or a table of fractions
            as for `place_patches`.
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
