"""Cutting a photograph into the network's views."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data.decode import ImageError
from data.fragments import sample_fragments
from data.saliency import salient_corner
from data.views import VIEW_NAMES, ViewSpec, crop, make_views, random_views, resize_short_side, sample_draws
from models.uiqa import UIQA
from utils.benchmarks.plain import plain_views

SMALL = ViewSpec(resize=72, crop_size=64, n_fragment=4, patch_size=16, salient_patch_dimension=48)
SHAPES = [(20, 20), (300, 4000), (828, 3840), (1001, 777), (480, 480), (512, 512)]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def generator(seed: int = 5) -> np.random.Generator:
    return np.random.default_rng(seed)


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_views_are_those_the_model_reads_in_its_order():
    assert UIQA.view_names == ViewSpec().views == VIEW_NAMES


def holds_nothing_else(view: torch.Tensor) -> bool:
    """Return whether a view fills its memory, channels last: no larger array is kept alive."""
    return view.permute(1, 2, 0).is_contiguous() and view.untyped_storage().nbytes() == view.nbytes


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_photograph_gives_three_views_of_480_pixels_with_memory_of_their_own(shape):
    views = make_views(noise(*shape), ViewSpec(), generator())
    assert tuple(views) == VIEW_NAMES
    for view in views.values():
        assert view.shape == (3, 480, 480)
        assert view.dtype == torch.uint8
        assert holds_nothing_else(view)


@pytest.mark.parametrize(
    "spec",
    [
        SMALL,
        ViewSpec(resize=64, crop_size=64, n_fragment=1, patch_size=50, salient_patch_dimension=33),
        ViewSpec(resize=65, crop_size=1, n_fragment=20, patch_size=1, salient_patch_dimension=500),
    ],
    ids=["small", "one patch", "one pixel"],
)
def test_a_specs_view_sizes_are_those_of_its_views(photograph, spec):
    views = make_views(photograph, spec, generator())
    assert {name: tuple(view.shape) for name, view in views.items()} == {
        name: (3, side, side) for name, side in spec.view_sizes.items()
    }
    assert all(holds_nothing_else(view) for view in views.values())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_views_equal_those_of_the_plain_implementation(shape):
    """Exactly for the salient view; within a grey level for the aesthetic view, and for an enlarged distortion view."""
    image = noise(*shape)
    views = make_views(image, ViewSpec(), generator())
    plain = plain_views(Image.fromarray(image), generator())
    tolerance = {"aesthetic": 1, "distortion": int(min(shape) < 480), "salient": 0}
    for name, view in views.items():
        difference = view.int() - (plain[name] * 255).round().int()
        assert difference.abs().max() <= tolerance[name], name


def test_the_salient_view_lies_where_the_saliency_method_says():
    image = noise(300, 500)
    image[:200] //= 16
    for method in ("center", "spectral"):
        view = make_views(image, ViewSpec(saliency=method, salient_patch_dimension=96), generator())["salient"]
        top, left = salient_corner(image, 96, method)
        assert np.array_equal(view.numpy().transpose(1, 2, 0), image[top : top + 96, left : left + 96])


@pytest.mark.parametrize("names", [("aesthetic",), ("distortion",), ("salient",), ("aesthetic", "salient")])
def test_leaving_views_out_does_not_change_the_others(photograph, names):
    spec = ViewSpec(**(SMALL.to_dict() | {"views": names}))
    some = make_views(photograph, spec, generator(), generator(6))
    every = make_views(photograph, SMALL, generator(), generator(6))
    assert equal(some, {name: every[name] for name in names})
    assert tuple(spec.view_sizes) == names


def test_without_a_crop_generator_only_the_fragments_are_drawn(photograph):
    first, other = (make_views(photograph, SMALL, generator(seed)) for seed in (1, 2))
    assert [name for name in VIEW_NAMES if torch.equal(first[name], other[name])] == ["aesthetic", "salient"]


def test_a_crop_generator_moves_the_aesthetic_crop_alone(photograph):
    first, other = (make_views(photograph, SMALL, generator(), generator(seed)) for seed in (1, 2))
    assert [name for name in VIEW_NAMES if torch.equal(first[name], other[name])] == ["distortion", "salient"]


def test_random_crops_stay_inside_and_reach_every_position():
    spec = ViewSpec(resize=16, crop_size=12, views=("aesthetic",))
    image = np.zeros((16, 20, 3), np.uint8)  # already of the resized size, so that a pixel's value is its position
    image[..., 0], image[..., 1] = np.indices((16, 20))
    crop_generator = generator()
    corners = set()
    for _ in range(1000):
        view = make_views(image, spec, generator(), crop_generator)["aesthetic"]
        top, left = view[:2, 0, 0].tolist()
        assert np.array_equal(view.numpy().transpose(1, 2, 0), image[top : top + 12, left : left + 12])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(5) for left in range(9)}


@pytest.mark.parametrize(
    ("shape", "expected"), [((300, 4000), (72, 960)), ((777, 500), (111, 72)), ((20, 20), (72, 72))]
)
def test_the_short_side_is_resized_and_the_long_side_in_proportion(shape, expected):
    assert resize_short_side(noise(*shape), 72).shape == (*expected, 3)


def test_what_lies_outside_the_image_is_black():
    image = noise(20, 30) | 1
    for top, left in ((-5, -7), (10, 12), (-5, 12), (0, 0), (-40, 0), (30, 40)):
        cut = crop(image, top, left, 25)
        rows, columns = np.arange(top, top + 25)[:, None], np.arange(left, left + 25)[None]
        inside = (rows >= 0) & (rows < 20) & (columns >= 0) & (columns < 30)
        assert (cut[~inside] == 0).all()
        assert np.array_equal(cut[inside], image[rows.clip(0, 19), columns.clip(0, 29)][inside])


def test_the_photograph_is_left_alone(photograph):
    before = photograph.copy()
    for view in make_views(photograph, SMALL, generator()).values():
        view.zero_()
    assert np.array_equal(photograph, before)


@pytest.mark.parametrize("channels_first", [False, True])
def test_no_view_holds_the_photographs_memory(channels_first):
    image = noise(48, 48)
    if channels_first:
        image = np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0)
    spec = ViewSpec(resize=48, crop_size=48, n_fragment=3, patch_size=16, salient_patch_dimension=48)
    for name, view in make_views(image, spec, generator()).items():
        assert not np.shares_memory(view.numpy(), image), name


@pytest.mark.parametrize("shape", [(1, 10_000), (10_000, 1)])
@pytest.mark.parametrize("name", ["aesthetic", "distortion"])
def test_a_shape_too_extreme_to_enlarge_is_an_image_error(shape, name):
    with pytest.raises(ImageError, match="--max_pixels"):
        make_views(noise(*shape), ViewSpec(views=(name,)), generator())


def test_the_fractions_of_evaluation_depend_on_seed_and_draw_alone():
    tables = {
        (seed, draw): ViewSpec(seed=seed).evaluation_fractions(draw).tobytes()
        for seed in (0, 1, 2**32 - 1)
        for draw in (0, 1, 2)
    }
    assert len(set(tables.values())) == len(tables)
    assert ViewSpec(resize=600, saliency="spectral").evaluation_fractions().tobytes() == tables[0, 0]


def test_kept_fractions_place_the_fragments(photograph):
    corner = replace(SMALL, fractions=(0,) * 32)
    cell_height, cell_width = photograph.shape[0] // 4, photograph.shape[1] // 4
    mosaic = make_views(photograph, corner)["distortion"]
    for row in range(4):
        for column in range(4):
            patch = photograph[row * cell_height :, column * cell_width :][:16, :16]
            view = mosaic[:, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
            assert np.array_equal(view.permute(1, 2, 0), patch)
    loaded = ViewSpec.from_dict(corner.to_dict())
    assert torch.equal(make_views(photograph, loaded)["distortion"], mosaic)


def test_a_specification_of_an_earlier_version_draws_its_fractions():
    fields = SMALL.to_dict()
    del fields["fractions"]
    assert ViewSpec.from_dict(fields) == SMALL


@pytest.mark.parametrize("fractions", [(0,) * 31, (0,) * 31 + (-1,), (0,) * 31 + (2**16,)], ids=["few", "low", "high"])
def test_fractions_out_of_range_are_refused(fractions):
    with pytest.raises(ValueError, match="fractions must be 32 integers"):
        replace(SMALL, fractions=fractions)


def test_fractions_of_another_type_are_refused():
    with pytest.raises(TypeError, match="fractions"):
        ViewSpec.from_dict(SMALL.to_dict() | {"fractions": [0.5] * 32})


def test_an_evaluation_draw_gives_a_photograph_the_same_mosaic_every_time(photograph):
    views = make_views(photograph, SMALL, SMALL.evaluation_fractions(draw=2))
    mosaic = sample_fragments(photograph, 4, 16, SMALL.evaluation_fractions(draw=2))
    assert torch.equal(views["distortion"], mosaic)


@pytest.mark.parametrize(
    "spec",
    [
        ViewSpec(),
        ViewSpec(600, 500, 7, 16, 224, "spectral", 10_000, 99, ("aesthetic",), "texture", 60, 2, (5,) * 98),
        ViewSpec(views=("salient", "distortion")),
    ],
    ids=["default", "all differ", "two views"],
)
def test_a_spec_survives_a_checkpoint(spec, tmp_path):
    torch.save(spec.to_dict(), tmp_path / "spec.pth")
    loaded = ViewSpec.from_dict(torch.load(tmp_path / "spec.pth", weights_only=True))
    assert loaded == spec
    assert hash(loaded) == hash(spec)


@pytest.mark.parametrize(
    "fields",
    [
        {"resize": 0, "crop_size": 0},
        {"crop_size": 0},
        {"crop_size": 513},
        {"resize": 479},
        {"n_fragment": 0},
        {"patch_size": -1},
        {"salient_patch_dimension": 0},
        {"max_pixels": 0},
        {"saliency": "centre"},
        {"views": ()},
        {"views": ("aesthetic", "salience")},
        {"views": "aesthetic"},
        {"patch_dimension": 0},
        {"patch_policy": "some"},
        {"patches": -1},
        {"patches": 10**9},
    ],
    ids=str,
)
def test_a_spec_out_of_range_is_a_value_error_that_names_the_field(fields):
    with pytest.raises(ValueError, match="|".join(fields)):
        ViewSpec(**fields)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_draw_equals_the_one_of_evaluation(shape):
    image = noise(*shape)
    draws = sample_draws(image, SMALL, 3)
    for draw in range(3):
        view = make_views(image, SMALL, SMALL.evaluation_fractions(draw))["distortion"]
        assert torch.equal(draws[draw], view)
    assert draws.permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.parametrize(
    "spec",
    [SMALL, replace(SMALL, views=("patches",), patch_dimension=50)]
    + [
        replace(SMALL, views=("patches",), patch_dimension=50, **more)
        for more in ({"patches": 4}, {"patch_policy": "texture"})
    ],
    ids=["views", "all patches", "some", "texture"],
)
@pytest.mark.parametrize("shape", [(120, 210), (30, 77)])
def test_the_predicted_shapes_are_those_of_the_views(spec, shape):
    views = make_views(noise(*shape), spec, spec.evaluation_fractions())
    assert spec.view_shapes(*shape) == {name: tuple(view.shape) for name, view in views.items()}
    assert {name: view.shape for name, view in random_views(spec.view_shapes(*shape)).items()} == {
        name: view.shape for name, view in views.items()
    }
