"""The logistic mapping: recovered where it is there, and an honest word where it cannot be fitted."""

import numpy as np
import pytest
import torch

from utils.calibration import Calibration, fit_calibration, load_calibration, logistic, logistic_jacobian
from utils.errors import CheckpointError

GENERATOR = np.random.default_rng(5)
SCORES = GENERATOR.uniform(-2, 2, 200)
PARAMETERS = (0.9, 0.3, 0.2, 0.5)
MOS = logistic(SCORES, *PARAMETERS) + GENERATOR.normal(0, 0.01, 200)


def test_a_logistic_is_recovered():
    calibration = fit_calibration(SCORES, logistic(SCORES, *PARAMETERS), "validation")
    assert calibration.parameters == pytest.approx(PARAMETERS, abs=1e-4)
    assert calibration.describe() == "fitted on validation"


@pytest.mark.parametrize(("scale", "shift"), [(1000, 5), (1e-3, 0), (1, 1e4), (0.05, 0.7)])
def test_the_mapped_values_do_not_depend_on_the_scores_scale(scale, shift):
    moved = SCORES * scale + shift
    expected = fit_calibration(SCORES, MOS, "validation")(SCORES)
    np.testing.assert_allclose(fit_calibration(moved, MOS, "validation")(moved), expected, atol=1e-4)


def test_five_images_are_enough():
    scores = np.linspace(-1, 1, 5)
    assert fit_calibration(scores, logistic(scores, *PARAMETERS), "validation").parameters is not None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("scores", "mos", "reason"),
    [
        (np.array([]), np.array([]), "too few"),
        (np.arange(4.0), np.arange(4.0), "too few"),
        (np.full(50, 0.7), np.linspace(0, 1, 50), "constant"),
        (np.arange(10.0), np.exp(np.arange(10.0)), "did not converge"),  # ever closer as upper and middle run away
        (np.arange(10.0) * 1e300, np.arange(10.0), "did not converge"),
    ],
)
def test_what_cannot_be_fitted_stays_raw_and_says_why(scores, mos, reason):
    calibration = fit_calibration(scores, mos, "validation")
    assert calibration.parameters is None
    assert reason in calibration.describe()
    mapped = calibration(scores)
    np.testing.assert_array_equal(mapped, scores)
    assert not np.shares_memory(mapped, scores)


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
    "content",
    [
        np.zeros(5),
        np.ones((4, 1)),
        np.array([0.9, np.nan, 0.5, 0.1]),
        np.array([0.9, np.inf, 0.5, 0.1]),
        np.array([0.9, 0.2, 0.5, 0.0]),  # a width of 0 has no quality at the middle
        np.array([0.9, 0.2, 0.5, 0.1j]),
        np.array([True] * 4),
        np.array(["a"] * 4),
    ],
    ids=["five", "column", "nan", "inf", "zero width", "complex", "bool", "words"],
)
def test_other_arrays_are_refused_by_name(tmp_path, content):
    np.save(tmp_path / "other.npy", content)
    with pytest.raises(ValueError, match=r"other\.npy"):
        load_calibration(tmp_path / "other.npy")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("0.9 0.2 0.5 0.1"),
        lambda path: torch.save({"quality.0.weight": torch.zeros(4)}, path),
    ],
    ids=["missing", "folder", "empty", "text", "weights"],
)
def test_what_is_no_array_file_is_refused_by_name(write, tmp_path):
    write(tmp_path / "other.npy")
    with pytest.raises(ValueError, match=r"other\.npy"):
        load_calibration(tmp_path / "other.npy")


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickled_objects_are_refused_and_not_run(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([Malicious(tmp_path / "owned")] * 4), allow_pickle=True)
    with pytest.raises(ValueError, match=r"evil\.npy"):
        load_calibration(tmp_path / "evil.npy")
    assert not (tmp_path / "owned").exists()


def test_a_web_page_in_place_of_a_calibration_is_named(tmp_path):
    (tmp_path / "UIQA.npy").write_text("<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(CheckpointError, match=r"UIQA\.npy: is a web page.*dl=1"):
        load_calibration(tmp_path / "UIQA.npy")


@pytest.mark.parametrize("width", [0.7, -0.7])
def test_the_derivatives_of_the_logistic_are_its_own(width):
    scores, parameters, step = np.linspace(-2, 2, 7), np.array([0.9, 0.2, 0.1, width]), 1e-6
    differences = [
        (logistic(scores, *(parameters + shift)) - logistic(scores, *(parameters - shift))) / (2 * step)
        for shift in step * np.eye(4)
    ]
    np.testing.assert_allclose(logistic_jacobian(scores, *parameters), np.stack(differences, axis=1), atol=1e-8)
