"""What a training writes down can be audited."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.tables import data_fingerprint
from utils.calibration import Calibration, fit_calibration
from utils.training.logs import draw_curves, format_validation

HISTORY = [
    {"epoch": epoch, "loss": 1 / epoch, "fidelity": 0.1, "mse": 0.2, "SRCC": 0.5, "KRCC": 0.4, "PLCC": 0.5, "RMSE": 0.1}
    | {"MAE": 0.1, "criterion": criterion}
    for epoch, criterion in enumerate([0.1, 0.5, float("nan")], start=1)
]


def test_options_say_what_the_run_depends_on(trained):
    content = json.loads((trained.logs / "options.json").read_text())
    assert {"command", "commit", "torch"} <= content["environment"].keys()
    splits = [pd.read_csv(trained.logs / f"split_{name}.csv") for name in ("train", "val")]
    assert content["fingerprint"].split()[:2] == list(map(data_fingerprint, splits))
    labels = pd.read_csv(trained.dataset / "uhd-iqa-metadata.csv")
    assert set(splits[0]["image"]) == set(labels["image_name"][labels["set"] == "training"])


def test_a_validation_line_says_what_is_undefined():
    metrics = {"SRCC": 0.5, "MAE": 0.1}
    mapping = fit_calibration(np.arange(9.0), np.arange(9.0) ** 0.5, "validation")
    assert format_validation(metrics, 9, 9, mapping) == (
        "validation (9 images): SRCC 0.5000, MAE 0.1000 | PLCC, RMSE, MAE val-fitted"
    )
    assert format_validation(metrics, 8, 9, mapping).startswith("validation (8 of 9 images):")
    none = Calibration(None, "validation", "the scores are constant")
    line = format_validation(metrics | {"SRCC": math.nan}, 9, 9, none)
    assert "NaN: correlations" in line
    assert "no mapping: the scores are constant" in line


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:1], HISTORY[2:]])
def test_curves_are_drawn_from_the_first_epoch_on(history, tmp_path):
    draw_curves(history, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
