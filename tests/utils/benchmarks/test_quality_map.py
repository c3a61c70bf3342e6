"""Suites of the quality map."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from utils.benchmarks import quality_map as map_suites
from utils.benchmarks.timing import Settings
from utils.benchmarks.views import encode
from utils.checkpoint import load_model
from utils.errors import RunError


def settings(**options) -> Settings:
    return Settings(device=torch.device("cpu"), batch_size=2, backbone="swin_nano", **options)


def test_contributions_sum_to_the_scores_of_a_plain_pass():
    jpeg = encode(np.random.default_rng(0).integers(0, 256, (500, 700, 3), np.uint8))
    figures = map_suites.contributions(jpeg, settings(rounds=2)).figures
    assert figures["max_abs_diff"] < 1e-5
    assert figures["draws_over_branches"] == pytest.approx(figures["draws_over_one"] / (10 / 3))


def test_one_quarter_is_blurred_and_the_others_are_not(photograph):
    blurred = map_suites.blur_quarter(photograph, 1, 0)
    changed = (blurred != photograph).any(axis=2)
    height, width = changed.shape[0] // 2, changed.shape[1] // 2
    assert changed[height:, :width].mean() > 0.9
    changed[height:, :width] = False
    assert not changed.any()


@pytest.mark.parametrize("side", [4, 15])
@pytest.mark.parametrize("quarter", map_suites.QUARTERS)
def test_the_quarter_with_the_largest_drop_is_named(side, quarter):
    before = np.random.default_rng(0).normal(size=(side, side))
    after = before - 0.01
    row, column = (0 if half == 0 else side - 1 for half in quarter)
    after[row, column] -= 1
    assert map_suites.quarter_of_largest_drop(before, after) == quarter


def test_maps_are_averaged_over_one_draw_and_over_many(trained, photograph):
    loaded = load_model(trained.best)
    maps = map_suites.distortion_maps(loaded.model, loaded.view_spec, photograph)
    expected = loaded.score(photograph, maps=True).maps["distortion"]
    assert set(maps) == {1, map_suites.MANY_DRAWS}
    np.testing.assert_allclose(maps[1], expected, atol=1e-5)
    assert not np.allclose(maps[map_suites.MANY_DRAWS], expected, atol=1e-4)


def test_a_trained_models_map_is_compared_with_an_untrained_ones(trained, monkeypatch):
    monkeypatch.setattr(map_suites, "HEIGHT", 240)
    monkeypatch.setattr(map_suites, "WIDTH", 320)
    figures = map_suites.quality_map(b"", settings(rounds=2, checkpoint=trained.best)).figures
    assert figures["cases"] == 8
    rows = {f"{name}, {draws} draw(s)" for name in ("trained", "untrained") for draws in (1, map_suites.MANY_DRAWS)}
    assert set(figures["blurred_quarter_falls_most"]) == rows
    assert 1 < figures["score_sd_falls_by"] < 20


def test_a_model_without_the_distortion_view_is_refused(trained, monkeypatch):
    loaded = load_model(trained.best)
    other = replace(loaded, view_spec=replace(loaded.view_spec, views=("aesthetic",)))
    monkeypatch.setattr(map_suites, "load_model", lambda path: other)
    with pytest.raises(RunError, match="distortion view; this one has none"):
        map_suites.quality_map(b"", settings(rounds=1, checkpoint=trained.best))
