"""What a training writes down can be audited."""

import json
import math

import numpy as np
import pandas as pd

from data.tables import data_fingerprint
from utils.calibration import Calibration, fit_calibration
from utils.training.logs import format_validation


def test_options_say_what_the_run_depends_on(trained):
    content = json.loads((trained.logs / "options.json").read_text())
    assert {"command", "commit", "torch"} <= content["environment"].keys()
    splits = [pd.read_csv(trained.logs / f"split_{name}.csv") for name in ("train", "val")]
    assert content["fingerprint"] == " ".join(map(data_fingerprint, splits))
    labels = pd.read_csv(trained.dataset / "uhd-iqa-metadata.csv")
    assert set(splits[0]["image"]) == set(labels["image_name"][labels["set"] == "training"])


def test_a_validation_line_says_what_is_undefined():
    metrics = {"SRCC": 0.5, "MAE": 0.1}
    mapping = fit_calibration(np.arange(9.0), np.arange(9.0) ** 0.5, "validation")
    assert format_validation(metrics, 9, mapping) == "validation (9 images): SRCC 0.5000, MAE 0.1000"
    none = Calibration(None, "validation", "the scores are constant")
    line = format_validation(metrics | {"SRCC": math.nan}, 9, none)
    assert "NaN: correlations" in line
    assert "no mapping: the scores are constant" in line
