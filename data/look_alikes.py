"""Images that look alike: the same photograph twice, recompressed, resized or retouched, in two splits."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from PIL import Image

from data.decode import ImageError, decode_rgb

SIDE = 16  # of the grid of signs that make a hash: 256 bits
MAX_DISTANCE = 18
ROWS_AT_ONCE = 1000  # of the matrix of distances, which would not fit into memory for 200,000 images


def image_hash(path: str) -> np.ndarray:
    """Return 256 bits of an image that hardly change when it is resized, recompressed or made brighter.

    A bit says whether a place is brighter than its left neighbour, in a thumbnail of 17 x 16 grey pixels (difference
    hash, Krawetz 2013).

    Raises:
        ImageError: it cannot be decoded.
    """
    image = Image.fromarray(decode_rgb(path)).convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(image, np.int16)
    return (np.diff(pixels, axis=1) > 0).ravel()


def look_alikes_of_test(table: pd.DataFrame, num_workers: int = 1) -> tuple[list[str], list[str]]:
    """Return the training and validation images of a data set that look like one of its test images.

    Args:
        table: rows with `image`, `path` and `split`.
        num_workers: threads that decode.

    Returns:
        Their names; and what is wrong with each image that cannot be decoded, which looks like no other.
    """

    def attempt(path: str) -> np.ndarray | ImageError:
        try:
            return image_hash(path)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        hashes = list(pool.map(attempt, table["path"]))
    is_damaged = np.array([isinstance(result, ImageError) for result in hashes], bool)
    problems = [str(result) for result in hashes if isinstance(result, ImageError)]
    if is_damaged.all():
        return [], problems
    table, bits = table[~is_damaged], np.array([result for result in hashes if not isinstance(result, ImageError)])
    is_test = (table["split"] == "test").to_numpy()
    signs = np.where(bits, 1, -1).astype(np.float32)
    others, tested = signs[~is_test], signs[is_test].T
    alike = np.zeros(len(others), bool)
    for start in range(0, len(others), ROWS_AT_ONCE):
        agreement = others[start : start + ROWS_AT_ONCE] @ tested  # equal bits minus different bits
        alike[start : start + ROWS_AT_ONCE] = (agreement >= bits.shape[1] - 2 * MAX_DISTANCE).any(axis=1)
    return table.loc[~is_test, "image"][alike].tolist(), problems
