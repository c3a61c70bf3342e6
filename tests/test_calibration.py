"""The logistic mapping: recovered where it is there, and an honest word where it cannot be fitted."""

import numpy as np
import pytest

from utils.calibration import Calibration, fit_calibration, load_calibration, logistic

GENERATOR = np.random.default_rng(5)
SCORES = GENERATOR.uniform(-2, 2, 200)
MOS = logistic(SCORES, 0.9, 0.3, 0.2, 0.5) + GENERATOR.normal(0, 0.01, 200)


def test_a_logistic_is_recovered():
    calibration = fit_calibration(SCORES, logistic(SCORES, 0.9, 0.3, 0.2, 0.5), "validation")
    assert calibration.parameters == pytest.approx((0.9, 0.3, 0.2, 0.5), abs=1e-4)
    assert calibration.describe() == "fitted on validation"


@pytest.mark.parametrize(("scale", "shift"), [(1000, 5), (1e-3, 0), (1, 1e4), (0.05, 0.7)])
def test_the_mapped_values_do_not_depend_on_the_scores_scale(scale, shift):
    moved = SCORES * scale + shift
    expected = fit_calibration(SCORES, MOS, "validation")(SCORES)
    np.testing.assert_allclose(fit_calibration(moved, MOS, "validation")(moved), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("scores", "reason"), [(np.arange(4.0), "too few"), (np.full(50, 0.7), "constant"), (np.array([]), "too few")]
)
def test_what_cannot_be_fitted_stays_raw_and_says_why(scores, reason):
    calibration = fit_calibration(scores, np.linspace(0, 1, len(scores)), "validation")
    assert calibration.parameters is None
    assert reason in calibration.describe()
    np.testing.assert_array_equal(calibration(scores), scores)


@pytest.mark.parametrize("seed", range(8))
def test_noise_gives_finite_values_whatever_comes_of_the_fit(seed):
    generator = np.random.default_rng(seed)
    scores, mos = generator.standard_cauchy(12), generator.normal(0, 1, 12)
    assert np.isfinite(fit_calibration(scores, mos, "validation")(scores)).all()


def test_a_round_trip_keeps_everything():
    for calibration in (fit_calibration(SCORES, MOS, "validation"), Calibration(None, "validation", "too few")):
        assert Calibration.from_dict(calibration.to_dict()) == calibration


def test_a_released_file_means_upper_lower_middle_and_width(tmp_path):
    np.save(tmp_path / "UIQA.npy", [0.9, 0.2, 0.5, -0.1])
    calibration = load_calibration(tmp_path / "UIQA.npy")
    scores = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(calibration(scores), 0.2 + 0.7 / (1 + np.exp(-(scores - 0.5) / 0.1)))
    assert "UIQA.npy" in calibration.describe()


@pytest.mark.parametrize(
    "content", [np.zeros(5), np.array([1, np.nan, 0, 1]), np.array([{"a": 1}] * 4), np.array(["a"] * 4)]
)
def test_other_files_are_refused_by_name(tmp_path, content):
    np.save(tmp_path / "other.npy", content, allow_pickle=True)
    with pytest.raises(ValueError, match=r"other\.npy"):
        load_calibration(tmp_path / "other.npy")


def test_missing_and_damaged_files_are_refused_by_name(tmp_path):
    (tmp_path / "text.npy").write_text("0.9 0.2 0.5 0.1")
    for name in ("text.npy", "missing.npy"):
        with pytest.raises(ValueError, match=name):
            load_calibration(tmp_path / name)
