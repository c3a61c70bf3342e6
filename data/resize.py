"""Resample images for the views."""

import numpy as np
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from data.decode import DEFAULT_MAX_PIXELS, ImageError
from data.layout import to_image, to_view

# Resizing rows first is faster while the input rows that make up one output row fit a core's cache. Larger images, from
# about 80 megapixels, are resized columns first.
ROWS_FIRST_MAX_BYTES = 1_000_000


def resize_bilinear(image: np.ndarray, height: int, width: int, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Resize with an antialiased bilinear filter, within one grey level of Pillow's BILINEAR.

    Args:
        image: (H, W, 3) uint8.
        height, width: of the result, pixels.
        max_pixels: largest height x width of the result.

    Returns:
        (height, width, 3) uint8, C-contiguous.

    Raises:
        ImageError: the result would exceed max_pixels; only a very long and thin image gets that large.
    """
    if height * width > max_pixels:
        raise ImageError(
            f"an image of {image.shape[1]} x {image.shape[0]} pixels would have to be enlarged to {width} x {height}, "
            f"more than --max_pixels {max_pixels}"
        )
    image = np.ascontiguousarray(image)
    if 2 * (image.shape[0] / height) * image.strides[0] <= ROWS_FIRST_MAX_BYTES:
        # Vertical resizing does not care which byte is which colour, and torch's kernel is twice as fast on groups of
        # four bytes as on three.
        rows = image.reshape(image.shape[0], -1, 4 if image.shape[1] % 4 == 0 else 3)
        image = _resize(rows, height, rows.shape[1]).reshape(height, image.shape[1], 3)
    return _resize(image, height, width)


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W, C) uint8 with 3 or 4 channels by torchvision, which does columns first; C-contiguous."""
    # torch has a vectorised uint8 kernel for channels-last memory.
    resized = functional.resize(to_view(image), [height, width], InterpolationMode.BILINEAR, antialias=True)
    return np.ascontiguousarray(to_image(resized))
