"""Grid mini-patch sampling: the mosaic's pixels and where they come from."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from data.decode import ImageError
from data.fragments import FRACTION_UNIT, covered_size, enlarge_to_fit, place_patches, sample_fragments
from utils.benchmarks.plain import plain_views

GRIDS = [
    # height, width, n_fragment, patch_size
    (270, 480, 4, 32),
    (271, 483, 7, 16),
    (480, 480, 15, 32),
    (333, 1001, 15, 8),
    (97, 101, 1, 50),
    (64, 64, 64, 1),
    (100, 300, 3, 33),
]
ids = "{0[0]}x{0[1]}-{0[2]}x{0[3]}px".format


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def generator(seed: int = 5) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("grid", GRIDS, ids=ids)
def test_the_mosaics_pixels_equal_the_images(grid):
    height, width, n, size = grid
    image = noise(height, width)
    mosaic = sample_fragments(image, n, size, generator())
    assert mosaic.shape == (3, n * size, n * size)
    assert mosaic.dtype == torch.uint8

    tops, lefts = place_patches(height, width, n, size, generator())
    tiles = mosaic.numpy().transpose(1, 2, 0).reshape(n, size, n, size, 3).swapaxes(1, 2)
    for (row, column), top in np.ndenumerate(tops):
        left = lefts[row, column]
        assert np.array_equal(tiles[row, column], image[top : top + size, left : left + size])


@pytest.mark.parametrize("grid", GRIDS, ids=ids)
def test_every_patch_lies_inside_its_own_cell(grid):
    height, width, n, size = grid
    for seed in range(20):
        for corners, side, axis in zip(place_patches(*grid, generator(seed)), (height, width), (0, 1), strict=True):
            assert corners.shape == (n, n)
            cell = np.indices((n, n))[axis]
            assert (corners >= cell * (side // n)).all()
            assert (corners + size <= (cell + 1) * (side // n)).all()


@pytest.mark.parametrize("grid", GRIDS, ids=ids)
def test_a_table_places_each_patch_at_a_fraction_of_its_cells_room(grid):
    height, width, n, size = grid
    table = generator().integers(0, FRACTION_UNIT, (n, n, 2))
    tops, lefts = place_patches(height, width, n, size, table)
    for (row, column, axis), fraction in np.ndenumerate(table):
        corners, side, cell = ((tops, height, row), (lefts, width, column))[axis]
        room = side // n - size + 1
        offset = corners[row, column] - cell * (side // n)
        assert offset == math.floor(Fraction(int(fraction), FRACTION_UNIT) * room)
        assert 0 <= offset < room


def test_the_ends_of_the_table_are_the_ends_of_the_room():
    for fraction, expected in ((0, 0), (FRACTION_UNIT - 1, 68)):
        tops, lefts = place_patches(300, 300, 3, 32, np.full((3, 3, 2), fraction))
        assert (tops % 100 == expected).all()
        assert (lefts % 100 == expected).all()


def test_every_offset_inside_a_cell_is_as_likely_as_any_other():
    n, size = 100, 4
    tops, lefts = place_patches(6 * n, 8 * n, n, size, generator())
    for offsets, count in ((tops % 6, 3), (lefts % 8, 5)):
        frequencies = np.bincount(offsets.ravel()) / n**2
        assert frequencies == pytest.approx(np.full(count, 1 / count), abs=0.02)


def test_patches_are_placed_independently_of_each_other():
    tops, lefts = (corners % 40 for corners in place_patches(4000, 4000, 100, 8, generator()))
    pairs = [(tops, lefts), (tops[1:], tops[:-1]), (tops[:, 1:], tops[:, :-1]), (lefts[1:], lefts[:-1])]
    for first, second in pairs:
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


def test_another_generator_gives_another_mosaic_and_the_same_one_the_same(photograph):
    first, again, other = (sample_fragments(photograph, 4, 32, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("shape", "enlarged"),
    [((20, 20), (48, 48)), ((1, 700), (48, 33_600)), ((700, 47), (715, 48)), ((31, 97), (48, 151))],
)
def test_a_small_image_is_enlarged_and_the_grid_is_that_of_the_enlarged_size(shape, enlarged):
    image = noise(*shape)
    larger = enlarge_to_fit(image, 48)
    assert larger.shape == (*enlarged, 3)
    mosaic = sample_fragments(image, 3, 16, generator())
    assert torch.equal(mosaic, sample_fragments(larger, 3, 16, generator()))
    tops, lefts = place_patches(*enlarged, 3, 16, generator())
    last = larger[tops[2, 2] : tops[2, 2] + 16, lefts[2, 2] : lefts[2, 2] + 16]
    assert np.array_equal(mosaic[:, 32:, 32:].numpy().transpose(1, 2, 0), last)


def test_an_image_that_fits_is_not_resampled(photograph):
    assert np.array_equal(enlarge_to_fit(photograph, 270), photograph)


@pytest.mark.parametrize("shape", [(1, 10_000), (10_000, 1)])
def test_a_shape_too_extreme_to_enlarge_is_an_image_error(shape):
    with pytest.raises(ImageError, match="--max_pixels"):
        sample_fragments(noise(*shape), 15, 32, generator())


def test_max_pixels_limits_the_enlarged_image():
    image = noise(20, 40)
    assert sample_fragments(image, 3, 16, generator(), max_pixels=48 * 96).shape == (3, 48, 48)
    with pytest.raises(ImageError, match="96 x 48"):
        sample_fragments(image, 3, 16, generator(), max_pixels=48 * 96 - 1)


def test_a_grid_whose_cells_are_smaller_than_a_patch_is_refused():
    with pytest.raises(ValueError, match="cannot hold"):
        place_patches(95, 200, 3, 32, generator())


def test_memory_layout_does_not_matter(photograph):
    mirrored = photograph[:, ::-1]
    assert torch.equal(
        sample_fragments(mirrored, 4, 32, generator()), sample_fragments(mirrored.copy(), 4, 32, generator())
    )


@pytest.mark.parametrize(("shape", "tolerance"), [((270, 480), 0), ((480, 300), 0), ((60, 91), 1)])
def test_the_mosaic_equals_the_plain_implementations_within_a_grey_level_if_enlarged(shape, tolerance):
    image = noise(*shape)
    mosaic = sample_fragments(image, 5, 32, generator())
    plain = plain_views(Image.fromarray(image), generator(), n_fragment=5)["distortion"]
    difference = mosaic.int() - (plain * 255).round().int()
    assert difference.abs().max() <= tolerance


@pytest.mark.parametrize(("n_fragment", "patch_size"), [(7, 32), (15, 32)])
def test_the_grid_covers_the_shorter_side_of_whatever_was_enlarged(n_fragment, patch_size):
    for side in range(1, n_fragment * patch_size):
        assert covered_size(side, 2 * side, n_fragment, patch_size)[0] == side


@pytest.mark.parametrize(("shape", "covered"), [((100, 205), (99, 204)), ((96, 96), (96, 96)), ((30, 60), (30, 60))])
def test_the_grid_covers_whole_cells_in_the_photographs_own_pixels(shape, covered):
    assert covered_size(*shape, n_fragment=3, patch_size=32) == pytest.approx(covered)
