"""The position of the salient crop."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from data.saliency import THUMBNAIL, salient_corner, spectral_residual
from data.views import crop


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def plain_background_with_a_spot(top: int, left: int, side: int, height: int = 600, width: int = 900) -> np.ndarray:
    """Return a grey picture with faint noise and one coarsely textured square."""
    generator = np.random.default_rng(4)
    image = generator.normal(128, 3, (height, width, 3)).clip(0, 255).astype(np.uint8)
    blocks = generator.integers(0, 256, (side // 32, side // 32, 3), np.uint8)
    image[top : top + side, left : left + side] = blocks.repeat(32, axis=0).repeat(32, axis=1)
    return image


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("height", [1, 30, 31, 32, 33, 34, 35, 50, 51])
@pytest.mark.parametrize("width", [10, 31, 32, 33, 36, 37, 100])
def test_the_central_crop_is_torchvisions(height, width, size):
    image = noise(height, width)
    expected = v2.functional.center_crop(torch.from_numpy(image).permute(2, 0, 1), [size, size])
    cut = crop(image, *salient_corner(image, size, "center"), size)
    assert np.array_equal(cut, expected.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("top", "left"), [(0, 0), (0, 676), (376, 0), (376, 676), (190, 340), (100, 600), (376, 250)])
def test_the_spectral_crop_finds_a_textured_spot_on_a_plain_background(top, left):
    side, size = 224, 256
    corner = salient_corner(plain_background_with_a_spot(top, left, side), size, "spectral")
    overlap = [min(crop + size, spot + side) - max(crop, spot) for crop, spot in zip(corner, (top, left), strict=True)]
    assert min(overlap) >= 0.8 * side


@pytest.mark.parametrize("shape", [(300, 500), (500, 300), (257, 258), (256, 1000), (3000, 260)])
def test_the_spectral_crop_stays_inside_the_image(shape):
    size = 256
    for seed in range(5):
        top, left = salient_corner(noise(*shape, seed), size, "spectral")
        assert 0 <= top <= shape[0] - size
        assert 0 <= left <= shape[1] - size


@pytest.mark.parametrize("shape", [(100, 700), (700, 100)])
def test_along_a_side_shorter_than_the_crop_the_spectral_crop_is_central(shape):
    size, short = 256, shape.index(100)
    image = noise(*shape)
    spectral, central = (salient_corner(image, size, method) for method in ("spectral", "center"))
    assert spectral[short] == central[short] == -78
    assert 0 <= spectral[1 - short] <= 700 - size


@pytest.mark.parametrize("shape", [(300, 500), (601, 403), (100, 700), (64, 64), (20, 20)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_in_a_picture_of_one_colour_the_spectral_crop_is_central(shape, value):
    image = np.full((*shape, 3), value, np.uint8)
    assert salient_corner(image, 65, "spectral") == salient_corner(image, 65, "center")


def test_the_same_image_always_has_the_same_salient_crop():
    image = noise(400, 700)
    before = image.copy()
    assert salient_corner(image, 128, "spectral") == salient_corner(image, 128, "spectral")
    assert np.array_equal(image, before)


@pytest.mark.parametrize(("shape", "expected"), [((300, 600), (32, 64)), ((600, 300), (64, 32)), ((1, 500), (1, 64))])
def test_the_saliency_map_is_a_thumbnail_of_finite_non_negative_values(shape, expected):
    saliency = spectral_residual(noise(*shape))
    assert saliency.shape == expected
    assert max(saliency.shape) == THUMBNAIL
    assert np.isfinite(saliency).all()
    assert (saliency >= 0).all()


def test_the_saliency_map_of_a_mirrored_picture_is_mirrored():
    image = plain_background_with_a_spot(60, 100, 224, 640, 960)
    assert spectral_residual(image[::-1]) == pytest.approx(spectral_residual(image)[::-1], rel=0.05)


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'saliant'.*center, spectral"):
        salient_corner(noise(10, 10), 5, "saliant")
