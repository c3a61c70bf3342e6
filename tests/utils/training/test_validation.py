"""The measures of a validation: of each source on its own scale, and their mean."""

from types import SimpleNamespace

import numpy as np
import pytest

from utils.metrics import mapped_metrics, selection_criterion
from utils.training.validation import mean_over_sources, measure_validation

SCALES = {"narrow": {"mean": 0.5, "sd": 0.1}, "wide": {"mean": 50.0, "sd": 10.0}}


@pytest.fixture
def validation() -> tuple[np.ndarray, SimpleNamespace]:
    """Return 40 standardised scores, and validation images of two sources with the same errors in units of the s.d."""
    generator = np.random.default_rng(0)
    scores = np.tile(generator.normal(size=20), 2)
    standardised = np.tile(scores[:20] + generator.normal(size=20) / 2, 2)
    sources = np.repeat(["narrow", "wide"], 20)
    mos = np.array(
        [y * SCALES[name]["sd"] + SCALES[name]["mean"] for y, name in zip(standardised, sources, strict=True)]
    )
    training = SimpleNamespace(mos_scales=SCALES, source_names=tuple(SCALES))
    return scores, SimpleNamespace(
        training=training,
        validation_sources=sources,
        validation_mos=mos,
        score_scale="wide",
        mos_scale=SCALES["wide"],
        has_sources=True,
    )


def test_a_source_counts_the_same_whatever_its_scale(validation):
    result = measure_validation(validation[0], {}, validation[1])
    narrow, wide = (result["sources"][name].metrics for name in SCALES)
    assert narrow["SRCC"] == pytest.approx(wide["SRCC"])
    assert narrow["RMSE"] == pytest.approx(wide["RMSE"] / 100, rel=1e-3)
    assert result["metrics"]["RMSE"] == pytest.approx(wide["RMSE"] / 10, rel=1e-3)


def test_the_criterion_is_the_mean_over_sources(validation):
    scores, data = validation
    data.validation_mos[:10] = data.validation_mos[:10][::-1]  # the sources now differ
    result = measure_validation(scores, {}, data)
    each = []
    for name, source in result["sources"].items():
        errors = {key: source.metrics[key] / SCALES[name]["sd"] for key in ("RMSE", "MAE")}
        each.append(selection_criterion(source.metrics | errors))
    assert selection_criterion(result["metrics"]) == pytest.approx(np.mean(each))
    assert each[0] != each[1]


def test_mapping_and_points_are_those_of_the_source_whose_scale_scores_have(validation):
    scores, data = validation
    result = measure_validation(scores, {"aesthetic": np.repeat([0.0, 0.3], 20)}, data)
    rows = data.validation_sources == "wide"
    quality = result["calibration"](scores[rows] * 10 + 50)
    assert result["sources"]["wide"].metrics == mapped_metrics(
        scores[rows] * 10 + 50, quality, data.validation_mos[rows]
    )
    assert result["branch_means"] == {"aesthetic": pytest.approx(3.0)}


def test_images_that_could_not_be_used_are_left_out(validation):
    scores, data = validation
    whole = measure_validation(scores[:], {}, data)
    scores[:20] = np.nan
    result = measure_validation(scores, {}, data)
    assert result["sources"]["narrow"].metrics is None
    assert result["sources"]["wide"] == whole["sources"]["wide"]


def test_one_source_keeps_the_data_sets_scale():
    metrics = {"": dict.fromkeys(("SRCC", "KRCC", "PLCC"), 0.5) | {"RMSE": 3.0, "MAE": 2.0}}
    assert mean_over_sources(metrics, {"": {"mean": 0.0, "sd": 1.0}}) == metrics[""]
