"""The gallery: the right photographs, each once, with pictures that browsers know."""

import base64
from dataclasses import replace
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from utils.checkpoint import load_model
from utils.reporting.gallery import PER_SECTION, THUMBNAIL_SIDE, choose, data_uri, make_gallery, thumbnails


def decoded(uri: str) -> Image.Image:
    head, content = uri.split(",")
    assert head in ("data:image/jpeg;base64", "data:image/png;base64")
    return Image.open(BytesIO(base64.b64decode(content)))


@pytest.fixture
def table() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    mos = generator.uniform(0.2, 0.9, 100)
    quality = mos + generator.normal(0, 0.1, 100)
    return pd.DataFrame({"mos": mos, "score": 3 * quality, "quality": quality})


def test_sections_hold_the_extremes_and_no_photograph_twice(table):
    chosen = choose(table)
    assert list(chosen) == ["over", "under", "best", "worst"]
    rows = [row for section in chosen.values() for row in section]
    assert len(rows) == len(set(rows)) == 4 * PER_SECTION
    error = (table["quality"] - table["mos"]).to_numpy()
    assert chosen["over"] == np.argsort(-error)[:PER_SECTION].tolist()
    assert chosen["under"] == np.argsort(error)[:PER_SECTION].tolist()
    rest = table["score"].drop(chosen["over"] + chosen["under"])
    assert chosen["best"] == rest.sort_values(ascending=False).index[:PER_SECTION].tolist()


@pytest.mark.parametrize("count", [1, 3, 12])
def test_few_photographs_are_each_in_one_section(table, count):
    rows = [row for section in choose(table[:count]).values() for row in section]
    assert sorted(rows) == list(range(count))


def test_without_a_mapping_ranks_tell_the_error(table):
    table = table.assign(quality=np.nan)
    error = table["score"].rank() - table["mos"].rank()
    assert choose(table)["over"][0] == error.idxmax()


def test_thumbnails_are_small_and_one_that_cannot_be_made_is_none(trained, tmp_path):
    paths = sorted(map(str, (trained.dataset / "test").iterdir()))[:2]
    (tmp_path / "text.jpg").write_text("no photograph")
    made = thumbnails([*paths, None, str(tmp_path / "text.jpg"), str(tmp_path / "absent.jpg")], 10**8)
    assert made[2:] == [None, None, None]
    assert [max(decoded(uri).size) for uri in made[:2]] == [THUMBNAIL_SIDE] * 2


@pytest.mark.parametrize("draws", [1, 3])
def test_a_card_has_the_photograph_and_each_view_with_its_map(trained, draws, tmp_path):
    loaded = load_model(trained.best)
    paths = dict(enumerate(sorted(map(str, (trained.dataset / "test").iterdir()))[:3]))
    (tmp_path / "text.jpg").write_text("no photograph")
    paths[3] = str(tmp_path / "text.jpg")
    gallery = make_gallery([2, 3, 0], paths, loaded, torch.device("cpu"), 8, 0, draws)
    assert sorted(gallery.layers) == [0, 2]
    layers = gallery.layers[2]
    assert [layer.name for layer in layers] == ["photograph", "aesthetic view", "distortion view", "salient view"]
    for layer in layers:
        assert decoded(layer.picture).mode == "RGB"
        assert decoded(layer.places).size == (2, 2)
    assert layers[0].places == layers[2].places
    assert layers[0].points is None
    assert "validation" in gallery.reference
    without = make_gallery([0], paths, replace(loaded, branch_means=None), torch.device("cpu"), 8, 0)
    assert "mean of each view" in without.reference


def test_pictures_survive_being_written_into_the_page():
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 4), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(decoded(data_uri(colours))), colours)
    grey = np.full((40, 50, 3), 128, np.uint8)
    assert np.abs(np.asarray(decoded(data_uri(grey))).astype(int) - 128).max() <= 1
