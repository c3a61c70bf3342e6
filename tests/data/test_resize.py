"""Resampling, compared with Pillow's BILINEAR."""

import numpy as np
import pytest
from PIL import Image

from data.decode import ImageError
from data.resize import resize_bilinear


def difference(first: np.ndarray, second: np.ndarray) -> int:
    """Return the largest difference in grey levels."""
    assert first.shape == second.shape
    return int(np.abs(first.astype(int) - second.astype(int)).max())


@pytest.mark.parametrize(
    ("height", "width"),
    [(135, 240), (64, 114), (97, 480), (270, 31), (1, 1), (271, 481), (512, 910), (540, 960), (700, 100), (100, 700)],
)
def test_resizing_down_and_up_is_within_a_grey_level_of_pillow(photograph, height, width):
    resized = resize_bilinear(photograph, height, width)
    pillow = Image.fromarray(photograph).resize((width, height), Image.Resampling.BILINEAR)
    assert difference(resized, np.asarray(pillow)) <= 1
    assert resized.dtype == np.uint8
    assert resized.flags.c_contiguous


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_tiny_images_are_enlarged_as_by_pillow(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    pillow = Image.fromarray(image).resize((61, 47), Image.Resampling.BILINEAR)
    assert difference(resize_bilinear(image, 47, 61), np.asarray(pillow)) <= 1


@pytest.mark.parametrize("width", [1200, 1201, 1202, 1203])
def test_noise_of_any_width_is_within_a_grey_level_of_pillow(width):
    image = np.random.default_rng(width).integers(0, 256, (900, width, 3), np.uint8)
    pillow = Image.fromarray(image).resize((683, 512), Image.Resampling.BILINEAR)
    assert difference(resize_bilinear(image, 512, 683), np.asarray(pillow)) <= 1


@pytest.mark.parametrize("limit", [0, 10**9], ids=["columns first", "rows first"])
def test_either_order_is_within_a_grey_level_of_pillow(photograph, limit, monkeypatch):
    monkeypatch.setattr("data.resize.ROWS_FIRST_MAX_BYTES", limit)
    for height, width in ((97, 200), (401, 700)):
        pillow = Image.fromarray(photograph).resize((width, height), Image.Resampling.BILINEAR)
        assert difference(resize_bilinear(photograph, height, width), np.asarray(pillow)) <= 1


def test_resizing_to_its_own_size_changes_no_pixel(photograph):
    assert np.array_equal(resize_bilinear(photograph, *photograph.shape[:2]), photograph)


def test_a_picture_of_one_colour_keeps_it():
    image = np.full((40, 60, 3), (13, 127, 250), np.uint8)
    assert (resize_bilinear(image, 90, 17) == image[0, 0]).all()


def test_memory_layout_does_not_matter(photograph):
    for view in (photograph[::-1], photograph[:, ::-1], photograph.transpose(1, 0, 2), photograph[10:200, 7:300]):
        assert np.array_equal(resize_bilinear(view, 64, 80), resize_bilinear(view.copy(), 64, 80))


def test_max_pixels_is_the_largest_result_allowed(photograph):
    assert resize_bilinear(photograph, 100, 200, max_pixels=20_000).shape == (100, 200, 3)
    with pytest.raises(ImageError, match=r"480 x 270 .* 200 x 100.*19999"):
        resize_bilinear(photograph, 100, 200, max_pixels=19_999)
