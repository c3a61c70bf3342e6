"""Images are channels last, views channels first, and both share their memory."""

import numpy as np
import pytest
import torch

from data.layout import to_image, to_view

SHAPES = [(4, 6, 3), (2, 4, 6, 3), (2, 5, 4, 6, 3)]


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_view_has_the_pixels_of_the_image_channels_first(shape):
    image = noise(shape)
    view = to_view(image)
    assert view.shape == (*shape[:-3], 3, *shape[-3:-1])
    assert view.dtype == torch.uint8
    for channel in range(3):
        assert np.array_equal(view[..., channel, :, :].numpy(), image[..., channel])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_conversions_are_each_others_inverse(shape):
    image = noise(shape)
    assert np.array_equal(to_image(to_view(image)), image)
    assert to_image(to_view(image)).flags.c_contiguous
    view = torch.from_numpy(noise((*shape[:-3], 3, *shape[-3:-1])))
    assert torch.equal(to_view(to_image(view)), view)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_share_the_memory(shape):
    image = noise(shape)
    view = to_view(image)
    view.zero_()
    assert not image.any()
    to_image(view)[:] = 7
    assert (view == 7).all()
    assert np.shares_memory(image, to_image(view))


def test_a_single_view_is_channels_last_in_memory():
    assert to_view(noise((1, 4, 6, 3))).is_contiguous(memory_format=torch.channels_last)
