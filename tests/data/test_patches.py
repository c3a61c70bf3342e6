"""Patches of the full-resolution image: which are cut, and in what order."""

import numpy as np
import pytest
import torch

from data.decode import ImageError
from data.patches import N_PATCHES, count_patches, cut_patches, grid_cells, texture_complexity


def numbered(rows: int, columns: int, size: int, margin: int = 0) -> np.ndarray:
    """Return an image whose cells are of one colour each, 1, 2, ... in grid order, with a black margin around."""
    numbers = np.arange(1, rows * columns + 1, dtype=np.uint8).reshape(rows, columns)
    image = np.pad(numbers.repeat(size, 0).repeat(size, 1), margin)
    return np.stack([image] * 3, axis=-1)


def colours(patches: torch.Tensor) -> list[int]:
    """Return each patch's colour; it must have one only."""
    assert (patches == patches[:, :1, :1, :1]).all()
    return patches[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("margin", [0, 3])
def test_all_patches_are_the_grid_in_its_order_and_leave_the_margin_out(margin):
    image = numbered(3, 4, 8, margin)
    patches = cut_patches(image, 8)
    assert patches.shape == (12, 3, 8, 8)
    assert patches.dtype == torch.uint8
    assert colours(patches) == list(range(1, 13))
    assert len(patches) == count_patches(*image.shape[:2], 8)


def test_some_of_all_patches_are_spread_evenly():
    assert colours(cut_patches(numbered(3, 4, 8), 8, count=3)) == [1, 7, 12]
    assert colours(cut_patches(numbered(1, 2, 8), 8, count=3)) == [1, 1, 2]


def test_training_draws_three_different_patches_each_time():
    image = numbered(3, 4, 8)
    drawn = [colours(cut_patches(image, 8, generator=np.random.default_rng(seed))) for seed in range(20)]
    assert all(len(set(numbers)) == N_PATCHES == len(numbers) for numbers in drawn)
    assert {number for numbers in drawn for number in numbers} == set(range(1, 13))
    assert len(colours(cut_patches(numbered(1, 2, 8), 8, generator=np.random.default_rng(0)))) == N_PATCHES


def test_the_most_complex_patches_are_chosen_with_any_generator():
    image = numbered(3, 4, 8)
    noise = np.random.default_rng(0)
    for order, cell in enumerate((9, 2, 7)):
        row, column = divmod(cell, 4)
        strength = 200 - 60 * order
        patch = image[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
        patch[:] = 20 + strength * noise.integers(0, 2, (8, 8, 1))
    cells = grid_cells(image, 8)
    expected = np.stack([cells[9 // 4, 9 % 4], cells[0, 2], cells[7 // 4, 7 % 4]])
    for generator in (None, np.random.default_rng(1)):
        patches = cut_patches(image, 8, "texture", generator=generator)
        assert np.array_equal(patches.permute(0, 2, 3, 1).numpy(), expected)


def test_complexity_is_the_contrast_of_the_co_occurrence_matrix():
    """Compared with the matrix itself, counted pixel by pixel."""
    patch = np.random.default_rng(0).integers(0, 256, (1, 9, 9, 3), dtype=np.uint8)
    levels = (patch[0] @ np.array([0.299, 0.587, 0.114], np.float32) / 16).astype(int)
    expected = 0.0
    for down, right in ((0, 1), (-1, 1), (1, 0), (1, 1)):
        matrix = np.zeros((16, 16))
        for y in range(9):
            for x in range(9):
                if 0 <= y + down < 9 and 0 <= x + right < 9:
                    matrix[levels[y, x], levels[y + down, x + right]] += 1
        i, j = np.indices(matrix.shape)
        expected += ((i - j) ** 2 * matrix / matrix.sum()).sum()
    assert texture_complexity(patch)[0] == pytest.approx(expected)


def test_a_small_photograph_is_enlarged_first():
    image = numbered(1, 2, 8)
    patches = cut_patches(image, 16)
    assert patches.shape == (2, 3, 16, 16) == (count_patches(8, 16, 16), 3, 16, 16)
    with pytest.raises(ImageError):
        cut_patches(np.zeros((1, 4000, 3), np.uint8), 64, max_pixels=10**6)


def test_the_number_of_patches_is_known_from_the_size():
    assert count_patches(2160, 3840, 480, "texture") == N_PATCHES
    assert count_patches(2160, 3840, 480) == 32
    assert count_patches(2160, 3840, 480, count=12) == 12
    assert len(cut_patches(numbered(1, 1, 8), 8, "texture")) == N_PATCHES
