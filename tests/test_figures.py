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


def marks_in_the_photograph(shape: tuple, spec: ViewSpec, colour: str, path) -> np.ndarray:
    """Draw a green photograph; return where in its own part of the picture a colour was drawn, (h, w) bool."""
    draw_views(np.full(shape, (11, 200, 33), np.uint8), spec, path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    marked = (pixels == [int(colour[place : place + 2], 16) for place in (1, 3, 5)]).all(axis=2)
    inside = (pixels == (11, 200, 33)).all(axis=2)
    # The photograph stands on the left and a white gap follows it.
    columns = np.flatnonzero((inside | marked).any(axis=0))
    columns = columns[: np.argmax(np.append(np.diff(columns) > 5, True)) + 1]
    rows = np.flatnonzero(inside[:, columns].any(axis=1))
    return marked[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.mark.parametrize("shape", [(270, 480, 3), (40, 60, 3), (200, 120, 3)])
def test_every_cell_of_the_grid_has_its_patch_marked(shape, tmp_path):
    spec = ViewSpec(n_fragment=3, views=("distortion",))
    marked = marks_in_the_photograph(shape, spec, PATCH_COLOUR, tmp_path / "views.png")
    for row in np.array_split(marked, 3, axis=0):
        for cell in np.array_split(row, 3, axis=1):
            assert cell.mean() > 0.5 * 9 * 32**2 / max(np.prod(shape[:2]), 9 * 32**2)


def test_the_salient_crop_is_marked_where_it_is_cut(tmp_path):
    spec = ViewSpec(salient_patch_dimension=90, views=("salient",))
    marked = marks_in_the_photograph((270, 480, 3), spec, SALIENT_COLOUR, tmp_path / "views.png")
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    height, width = marked.shape
    assert [rows[0] / height, rows[-1] / height] == pytest.approx([90 / 270, 180 / 270], abs=0.03)
    assert [columns[0] / width, columns[-1] / width] == pytest.approx([195 / 480, 285 / 480], abs=0.03)


def test_the_photograph_is_not_changed(photograph, tmp_path):
    before = photograph.copy()
    draw_views(photograph, ViewSpec(saliency="spectral"), tmp_path / "views.png")
    np.testing.assert_array_equal(photograph, before)
