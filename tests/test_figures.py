"""Pictures of what the network sees."""

import numpy as np
import pytest
from PIL import Image

from data.views import ViewSpec
from utils.figures import PATCH_COLOUR, SALIENT_COLOUR, draw_views


@pytest.mark.parametrize("shape", [(270, 480, 3), (40, 60, 3), (600, 90, 3)])
@pytest.mark.parametrize("views", [("aesthetic",), ("aesthetic", "distortion", "salient"), ("distortion",)])
def test_any_photograph_gives_a_picture(shape, views, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    spec = ViewSpec(resize=128, crop_size=96, n_fragment=3, salient_patch_dimension=96, views=views)
    draw_views(image, spec, tmp_path / "views.png")
    with Image.open(tmp_path / "views.png") as picture:
        assert picture.width > 300
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 100


def colours_drawn(image: np.ndarray, spec: ViewSpec, path) -> set[str]:
    draw_views(image, spec, path)
    with Image.open(path) as picture:
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    return {f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours}


@pytest.mark.parametrize("shape", [(270, 480, 3), (40, 60, 3)])
@pytest.mark.parametrize(
    ("views", "marks"),
    [
        (("aesthetic",), set()),
        (("aesthetic", "distortion"), {PATCH_COLOUR}),
        (("salient",), {SALIENT_COLOUR}),
        (("aesthetic", "distortion", "salient"), {PATCH_COLOUR, SALIENT_COLOUR}),
    ],
)
def test_what_the_network_sees_is_marked_and_nothing_else(shape, views, marks, tmp_path):
    spec = ViewSpec(resize=128, crop_size=96, n_fragment=3, salient_patch_dimension=32, views=views)
    drawn = colours_drawn(np.zeros(shape, np.uint8), spec, tmp_path / "views.png")
    assert drawn & {PATCH_COLOUR, SALIENT_COLOUR} == marks


def test_the_picture_shows_the_photographs_own_colour(tmp_path):
    spec = ViewSpec(resize=128, crop_size=96, views=("aesthetic",))
    green = np.full((270, 480, 3), (11, 200, 33), np.uint8)
    draw_views(green, spec, tmp_path / "views.png")
    with Image.open(tmp_path / "views.png") as picture:
        shown = (np.asarray(picture.convert("RGB")) == green[0, 0]).all(axis=2)
    left, right = np.split(shown, [shown.shape[1] // 2], axis=1)
    assert left.mean() > 0.3  # the photograph
    assert right.mean() > 0.3  # and its view


def test_the_photograph_is_not_changed(photograph, tmp_path):
    before = photograph.copy()
    draw_views(photograph, ViewSpec(saliency="spectral"), tmp_path / "views.png")
    np.testing.assert_array_equal(photograph, before)
