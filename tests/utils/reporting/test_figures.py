"""Pictures of what the network sees."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from data.views import ViewSpec, make_views
from utils.reporting.figures import PATCH_COLOUR, SALIENT_COLOUR, draw_quality_map, draw_scatter, draw_views


def views_of(image: np.ndarray, spec: ViewSpec) -> dict:
    return make_views(image, spec, spec.evaluation_fractions())


@pytest.mark.parametrize("shape", [(270, 480, 3), (40, 60, 3), (600, 90, 3)])
@pytest.mark.parametrize("views", [("aesthetic",), ("aesthetic", "distortion", "salient"), ("distortion",)])
def test_any_photograph_gives_a_picture(shape, views, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    spec = ViewSpec(resize=128, crop_size=96, n_fragment=3, salient_patch_dimension=96, views=views)
    draw_views(image, views_of(image, spec), spec, tmp_path / "views.png")
    with Image.open(tmp_path / "views.png") as picture:
        assert picture.width > 300
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 100


def colours_drawn(image: np.ndarray, spec: ViewSpec, path) -> set[str]:
    draw_views(image, views_of(image, spec), spec, path)
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


def test_the_views_drawn_are_the_ones_passed_in(tmp_path):
    """They are not cut again: a view of another colour appears in the figure as it is."""
    spec = ViewSpec(resize=128, crop_size=96, views=("aesthetic",))
    red = torch.zeros(3, 96, 96, dtype=torch.uint8)
    red[0] = 201
    draw_views(np.zeros((270, 480, 3), np.uint8), {"aesthetic": red}, spec, tmp_path / "views.png")
    with Image.open(tmp_path / "views.png") as picture:
        assert (np.asarray(picture.convert("RGB")) == (201, 0, 0)).all(axis=2).mean() > 0.1


def test_the_picture_shows_the_photographs_own_colour(tmp_path):
    spec = ViewSpec(resize=128, crop_size=96, views=("aesthetic",))
    green = np.full((270, 480, 3), (11, 200, 33), np.uint8)
    draw_views(green, views_of(green, spec), spec, tmp_path / "views.png")
    with Image.open(tmp_path / "views.png") as picture:
        shown = (np.asarray(picture.convert("RGB")) == green[0, 0]).all(axis=2)
    left, right = np.split(shown, [shown.shape[1] // 2], axis=1)
    assert left.mean() > 0.3  # the photograph
    assert right.mean() > 0.3  # and its view


def marks_in_the_photograph(shape: tuple, spec: ViewSpec, colour: str, path) -> np.ndarray:
    """Draw a green photograph; return where in its own part of the picture a colour was drawn, (h, w) bool."""
    green = np.full(shape, (11, 200, 33), np.uint8)
    draw_views(green, views_of(green, spec), spec, path)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    marked = (pixels == [int(colour[start : start + 2], 16) for start in (1, 3, 5)]).all(axis=2)
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
    spec = ViewSpec(saliency="spectral")
    draw_views(photograph, views_of(photograph, spec), spec, tmp_path / "views.png")
    np.testing.assert_array_equal(photograph, before)


def quality_map(image: np.ndarray, spec: ViewSpec, path, means=True, side: int = 3, **values: float) -> np.ndarray:
    """Draw the quality map of a photograph with constant maps of these points; return the picture's pixels."""
    maps = {name: np.full((side, side), values.get(name, 0.0)) for name in spec.views}
    branch_means = dict.fromkeys(spec.views, 0.0) if means else None
    draw_quality_map(image, views_of(image, spec), spec, maps, branch_means, "a $5 photo$.jpg", path)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.parametrize("shape", [(270, 480, 3), (40, 60, 3), (600, 90, 3)])
@pytest.mark.parametrize("views", [("aesthetic",), ("aesthetic", "distortion", "salient"), ("distortion",)])
@pytest.mark.parametrize("means", [True, False])
def test_any_photograph_has_a_quality_map(shape, views, means, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    spec = ViewSpec(resize=128, crop_size=96, n_fragment=3, salient_patch_dimension=96, views=views)
    assert quality_map(image, spec, tmp_path / "map.png", means, side=5).shape[1] > 1000


@pytest.mark.parametrize(("points", "channel"), [(0.2, 2), (-0.2, 0)])
def test_places_that_add_are_blue_and_places_that_subtract_are_red(points, channel, tmp_path):
    spec = ViewSpec(resize=128, crop_size=96, n_fragment=3, salient_patch_dimension=32)
    grey = np.full((270, 480, 3), 128, np.uint8)
    pixels = quality_map(grey, spec, tmp_path / "map.png", distortion=points)[80:400, :600]  # within the photograph
    assert (pixels[..., channel] > pixels[..., 2 - channel] + 30).mean() > 0.5


def test_a_place_is_painted_where_its_patch_was_cut(tmp_path):
    spec = ViewSpec(n_fragment=3, views=("distortion",))
    points = np.zeros((3, 3))
    points[0, 2] = -1.0
    flat = np.full((270, 480, 3), 128, np.uint8)
    maps, branch_means = {"distortion": points}, {"distortion": 0.0}
    draw_quality_map(flat, views_of(flat, spec), spec, maps, branch_means, "", tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    grey = (np.ptp(pixels, axis=2) < 3) & (abs(pixels[..., 1] - 128) < 3)
    columns = np.flatnonzero(grey.sum(axis=0) > 100)
    rows = np.flatnonzero(grey.sum(axis=1) > 100)
    left, right, top, bottom = columns[0], columns[-1], rows[0], rows[-1]
    red = pixels[top:bottom, left:right, 0] > pixels[top:bottom, left:right, 2] + 40
    marked = [[part.mean() > 0.5 for part in np.array_split(row, 3, axis=1)] for row in np.array_split(red, 3, axis=0)]
    assert marked == [[False, False, True], [False] * 3, [False] * 3]


@pytest.mark.parametrize("mapped", [True, False])
def test_the_scatter_is_drawn_in_every_format_asked_for(mapped, tmp_path):
    scores = np.linspace(0, 1, 20)
    table = pd.DataFrame({"score": scores, "mos": scores**2, "quality": scores if mapped else np.nan})
    draw_scatter(table, "fitted on validation", [tmp_path / "s.pdf", tmp_path / "s.png"])
    assert (tmp_path / "s.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.width == 2100


def test_a_title_of_any_letters_is_drawn_without_a_warning(tmp_path, recwarn):
    image = np.zeros((64, 64, 3), np.uint8)
    spec = ViewSpec(resize=72, crop_size=64, views=("aesthetic",))
    maps = {"aesthetic": np.zeros((2, 2))}
    title = "caf\udce9 \u5199\u771f\n\x1b[31m $x$ \\frac.jpg"
    draw_quality_map(image, views_of(image, spec), spec, maps, None, title, tmp_path / "map.png")
    assert (tmp_path / "map.png").is_file()
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_a_figure_that_cannot_be_written_leaves_nothing_half(tmp_path, monkeypatch):
    image = np.zeros((64, 64, 3), np.uint8)
    spec = ViewSpec(resize=72, crop_size=64, views=("aesthetic",))

    def fill_the_disk(figure, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        draw_views(image, views_of(image, spec), spec, tmp_path / "views.png")
    assert not list(tmp_path.iterdir())
