"""Suites of the views: figures derived from the times, and the limit."""

import numpy as np
import pytest
import simplejpeg
import torch

from data.decode import decode_rgb
from utils.benchmarks import views as view_suites
from utils.benchmarks.timing import Settings
from utils.benchmarks.views import encode, encode_like, enlarged


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    """A JPEG of 700 x 500 pixels."""
    return encode(np.random.default_rng(0).integers(0, 256, (500, 700, 3), np.uint8))


@pytest.fixture
def settings() -> Settings:
    return Settings(rounds=2, device=torch.device("cpu"))


def test_views_are_compared_with_decoding(jpeg, settings):
    figures = view_suites.views(jpeg, settings).figures
    assert set(figures) == {"bare_decode_ms", "plain_ms", "ours_ms", "speedup", "ratio_to_decode"}
    assert figures["speedup"] == pytest.approx(figures["plain_ms"] / figures["ours_ms"])
    assert figures["ratio_to_decode"] == pytest.approx(figures["ours_ms"] / figures["bare_decode_ms"])


def test_packed_samples_are_exact(jpeg, settings):
    figures = view_suites.packed(jpeg, settings).figures
    assert figures["bit_exact"] is True
    assert figures["speedup"] > 0


@pytest.mark.parametrize("megapixels", [0.3, 1, 2])
def test_a_photograph_is_enlarged_by_its_mirror_images(jpeg, megapixels):
    image = decode_rgb(jpeg)
    large = enlarged(image, megapixels)
    assert large.shape[0] * large.shape[1] == pytest.approx(megapixels * 1e6, rel=0.01)
    height, width = (min(sizes) for sizes in zip(large.shape[:2], image.shape[:2], strict=True))
    assert np.array_equal(large[:height, :width], image[:height, :width])


def test_other_photographs_are_compressed_like_the_one_given(photograph):
    for quality in (30, 90):
        jpeg = simplejpeg.encode_jpeg(photograph, quality=quality, colorsubsampling="420")
        assert len(encode_like(jpeg, decode_rgb(jpeg))) == pytest.approx(len(jpeg), rel=0.05)


def test_every_image_of_a_batch_has_its_own_draw_of_the_fragments(jpeg):
    batch = view_suites.batch_of(jpeg, 2, "cpu")
    assert {name: tuple(view.shape) for name, view in batch.items()} == dict.fromkeys(batch, (2, 3, 480, 480))
    same = {name: (view[0] == view[1]).all().item() for name, view in batch.items()}
    assert same == {"aesthetic": True, "distortion": False, "salient": True}
