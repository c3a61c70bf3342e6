"""The one place where pixels are resampled."""

import numpy as np
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from data.decode import DEFAULT_MAX_PIXELS, ImageError
from data.layout import to_image, to_view

# Rows that make up one row of the result stay in a core's own cache from one to the next if they are no more bytes than
# this. From about 80 megapixels on they are more, and columns go first.
ROWS_AT_HAND = 1_000_000


def resize_bilinear(image: np.ndarray, height: int, width: int, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Resize with an antialiased bilinear filter, within one grey level of Pillow's BILINEAR.

    Args:
        image: (H, W, 3) uint8.
        height, width: of the result, pixels.
        max_pixels: height x width above which the result is refused.

    Returns:
        (height, width, 3) uint8, C-contiguous.

    Raises:
        ImageError: the result would pass max_pixels, which only shapes of extreme proportions do.
    """
    if height * width > max_pixels:
        raise ImageError(
            f"an image of {image.shape[1]} x {image.shape[0]} pixels would have to be enlarged to {width} x {height}, "
            f"more than --max_pixels {max_pixels}"
        )
    image = np.ascontiguousarray(image)
    if 2 * (image.shape[0] / height) * image.strides[0] <= ROWS_AT_HAND:
        # Rows first. A row is then a run of bytes, whatever their colours, and torch's kernel takes four at a time in
        # half the time that it needs for three.
        rows = image.reshape(image.shape[0], -1, 4 if image.shape[1] % 4 == 0 else 3)
        image = _resize(rows, height, rows.shape[1]).reshape(height, image.shape[1], 3)
    return _resize(image, height, width)


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W, C) uint8 of 3 or 4 channels in torchvision's order, columns first; C-contiguous."""
    # A permuted view of the channels-last array keeps its memory order, for which torch has a vectorised uint8 kernel.
    resized = functional.resize(to_view(image), [height, width], InterpolationMode.BILINEAR, antialias=True)
    return np.ascontiguousarray(to_image(resized))
