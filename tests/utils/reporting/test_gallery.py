"""The gallery: the right photographs, each once and read once, with pictures that browsers display."""

import base64
import importlib
from dataclasses import replace
from functools import partial
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from utils.checkpoint import load_model
from utils.inference import score_photographs
from utils.reporting.gallery import PER_SECTION, THUMBNAIL_SIDE, data_uri, make_gallery, select_rows, thumbnails

SCORE = partial(score_photographs, device=torch.device("cpu"), batch_size=2)


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
    sections = select_rows(table)
    assert list(sections) == ["over", "under", "best", "worst"]
    rows = [row for section in sections.values() for row in section]
    assert len(rows) == len(set(rows)) == 4 * PER_SECTION
    error = (table["quality"] - table["mos"]).to_numpy()
    assert sections["over"] == np.argsort(-error)[:PER_SECTION].tolist()
    assert sections["under"] == np.argsort(error)[:PER_SECTION].tolist()
    rest = table["score"].drop(sections["over"] + sections["under"])
    assert sections["best"] == rest.sort_values(ascending=False).index[:PER_SECTION].tolist()


@pytest.mark.parametrize("count", [1, 3, 12])
def test_few_photographs_are_each_in_one_section(table, count):
    rows = [row for section in select_rows(table[:count]).values() for row in section]
    assert sorted(rows) == list(range(count))


def test_without_a_mapping_errors_are_differences_of_ranks(table):
    table = table.assign(quality=np.nan)
    error = table["score"].rank() - table["mos"].rank()
    assert select_rows(table)["over"][0] == error.idxmax()


def test_thumbnails_are_small_and_one_that_cannot_be_made_is_none(trained, tmp_path):
    paths = sorted(map(str, (trained.dataset / "test").iterdir()))[:2]
    (tmp_path / "text.jpg").write_text("no photograph")
    uris = thumbnails([*paths, None, str(tmp_path / "text.jpg"), str(tmp_path / "absent.jpg")], 10**8)
    assert uris[2:] == [None, None, None]
    assert [max(decoded(uri).size) for uri in uris[:2]] == [THUMBNAIL_SIDE] * 2


@pytest.mark.parametrize("draws", [1, 3])
def test_a_card_has_the_photograph_and_each_view_with_its_map(trained, draws, tmp_path):
    loaded = load_model(trained.best)
    paths = dict(enumerate(sorted(map(str, (trained.dataset / "test").iterdir()))[:3]))
    (tmp_path / "text.jpg").write_text("no photograph")
    paths[3] = str(tmp_path / "text.jpg")
    gallery = make_gallery({row: paths[row] for row in (2, 3, 0)}, loaded, draws, SCORE)
    assert sorted(gallery.layers) == [0, 2]
    layers = gallery.layers[2]
    assert [layer.name for layer in layers] == ["photograph", "aesthetic view", "distortion view", "salient view"]
    for layer in layers:
        assert decoded(layer.picture).mode == "RGB"
        assert decoded(layer.map).size == (2, 2)
    assert layers[0].map == layers[2].map
    assert layers[0].points is None
    assert "validation" in gallery.reference
    without = make_gallery({0: paths[0]}, replace(loaded, branch_means=None), 1, SCORE)
    assert "mean of each view" in without.reference


@pytest.mark.parametrize("workers", [0, 2])
def test_each_photograph_is_decoded_once_and_cut_once(trained, workers, monkeypatch):
    calls = []

    def counted(module: str, name: str) -> None:
        original = getattr(importlib.import_module(module), name)
        monkeypatch.setattr(f"{module}.{name}", lambda *given: calls.append(name) or original(*given))

    counted("utils.reporting.gallery", "decode_rgb")
    counted("data.datasets", "make_views")
    paths = dict(enumerate(sorted(map(str, (trained.dataset / "test").iterdir()))[:3]))
    gallery = make_gallery(paths, load_model(trained.best), 1, partial(SCORE, num_workers=workers))
    assert sorted(gallery.layers) == [0, 1, 2]
    assert sorted(calls) == ["decode_rgb"] * 3 + ["make_views"] * 3


def test_a_gallery_without_a_usable_photograph_has_no_cards(trained, tmp_path):
    gallery = make_gallery({5: str(tmp_path / "absent.jpg")}, load_model(trained.best), 1, SCORE)
    assert gallery.layers == {}
    assert gallery.limit > 0


def test_pictures_survive_being_written_into_the_page():
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 4), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(decoded(data_uri(colours))), colours)
    grey = np.full((40, 50, 3), 128, np.uint8)
    assert np.abs(np.asarray(decoded(data_uri(grey))).astype(int) - 128).max() <= 1
