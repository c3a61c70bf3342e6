"""The model that comes with the repository: it scores without an option, the same digits everywhere."""

import json

import numpy as np
import pytest
from PIL import Image

import hubconf
import predict
from data.seeding import Purpose, derive_generator
from data.synthetic import degrade, render_scene
from utils.checkpoint import OWN_MODEL, load_model

SCORE, QUALITY = 0.6594, 0.6573


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return render_scene(derive_generator(Purpose.SCENE, 1), 480, 640)


def test_it_is_small_enough_for_the_repository():
    assert OWN_MODEL.stat().st_size < 25e6


def test_it_scores_a_photograph_to_four_digits(photograph):
    result = load_model().score(photograph)
    assert (result.score, result.quality) == (pytest.approx(SCORE, abs=5e-5), pytest.approx(QUALITY, abs=5e-5))


def test_blur_lowers_the_score(photograph):
    model, generator = load_model(), derive_generator(Purpose.DEGRADATION, 1)
    sharp, blurred = model.score([photograph, degrade(photograph, "blur", 3.0, generator)])
    assert blurred.score < sharp.score


def test_predict_needs_no_option_and_says_which_model_scored(photograph, tmp_path, capsys, monkeypatch):
    Image.fromarray(photograph).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    assert predict.main(["photo.png", "--map", "out", "--json", "scores.json"]) == 0
    assert "1 of 1 images scored by " in capsys.readouterr().err
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (tmp_path / scores["checkpoint"]).resolve() == OWN_MODEL
    assert scores["images"][0]["score"] == pytest.approx(load_model().score(photograph).score, abs=1e-5)
    assert (tmp_path / "out" / "photo_map.png").is_file()


def test_torch_hub_has_it(photograph):
    assert hubconf.uiqa().score(photograph).score == pytest.approx(load_model().score(photograph).score)


def test_its_options_name_no_place_outside_the_repository():
    paths = [value for value in load_model().options.values() if isinstance(value, str) and value.startswith("/")]
    assert not paths
