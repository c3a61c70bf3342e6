"""Pictures of what the network sees."""

import numpy as np
import pytest
from PIL import Image

from data.views import ViewSpec
from utils.figures import draw_views


@pytest.mark.parametrize("shape", [(270, 480, 3), (40, 60, 3), (600, 90, 3)])
@pytest.mark.parametrize("views", [("aesthetic",), ("aesthetic", "distortion", "salient"), ("distortion",)])
def test_any_photograph_gives_a_picture(shape, views, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    spec = ViewSpec(resize=128, crop_size=96, n_fragment=3, salient_patch_dimension=96, views=views)
    draw_views(image, spec, tmp_path / "views.png")
    with Image.open(tmp_path / "views.png") as picture:
        assert picture.width > 300
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 100


def test_the_photograph_is_not_changed(photograph, tmp_path):
    before = photograph.copy()
    draw_views(photograph, ViewSpec(saliency="spectral"), tmp_path / "views.png")
    np.testing.assert_array_equal(photograph, before)
