"""From scores to the MOS scale: the 4-parameter logistic mapping, or the raw scores if it cannot be fitted."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit

from data.files import one_line
from utils.weights_file import check_download


@dataclass(frozen=True)
class Calibration:
    """A mapping of scores to quality on the MOS scale.

    Attributes:
        parameters: (upper, lower, middle, width) of `lower + (upper - lower) / (1 + exp(-(score - middle) / |width|))`,
            in the order of the released `UIQA.npy`; None if scores stay as they are.
        fitted_on: which data the mapping was fitted on.
        reason: why there are no parameters; empty if there are.
    """

    parameters: tuple[float, float, float, float] | None
    fitted_on: str
    reason: str = ""

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Return quality on the MOS scale, in the shape of the scores."""
        scores = np.asarray(scores, float)
        return scores.copy() if self.parameters is None else logistic(scores, *self.parameters)

    def describe(self) -> str:
        """Return on which data the mapping was fitted, or why there is none, to follow the word "mapping"."""
        return f"fitted on {self.fitted_on}" if self.parameters else f"not possible ({self.reason}), scores are raw"

    def to_dict(self) -> dict:
        """Return plain values, for a checkpoint."""
        parameters = None if self.parameters is None else list(self.parameters)
        return {"parameters": parameters, "fitted_on": self.fitted_on, "reason": self.reason}

    @classmethod
    def from_dict(cls, fields: dict) -> "Calibration":
        """Undo `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: a field is missing or wrong.
        """
        parameters = fields["parameters"]
        if parameters is not None:
            upper, lower, middle, width = map(float, parameters)
            parameters = (upper, lower, middle, width)
            if not np.isfinite(parameters).all() or width == 0:
                raise ValueError(f"a mapping has four finite numbers, the last (the width) not 0: got {parameters}")
        if not isinstance(fields["fitted_on"], str) or not isinstance(fields["reason"], str):
            raise TypeError("fitted_on and reason must be text")
        return cls(parameters, fields["fitted_on"], fields["reason"])


def logistic(scores: np.ndarray, upper: float, lower: float, middle: float, width: float) -> np.ndarray:
    """Return the 4-parameter logistic of scores (VQEG 2000, as in the released evaluation code)."""
    return lower + (upper - lower) * expit((scores - middle) / np.abs(width))


def logistic_jacobian(scores: np.ndarray, upper: float, lower: float, middle: float, width: float) -> np.ndarray:
    """Return the derivatives of `logistic` by its four parameters, (n, 4) for n scores."""
    fraction = expit((scores - middle) / np.abs(width))
    slope = (upper - lower) * fraction * (1 - fraction) / np.abs(width)
    return np.stack([fraction, 1 - fraction, -slope, -slope * (scores - middle) / width], axis=1)


def fit_calibration(scores: np.ndarray, mos: np.ndarray, fitted_on: str) -> Calibration:
    """Fit the logistic mapping of scores to opinions by least squares.

    Differs from the paper: the fit runs on standardised scores, so its start suits any spread (the published start, a
    width of 0.5, is flat for scores that span 0.1), and it gives up after 20,000 evaluations instead of never.

    Args:
        scores, mos: (n,) each, finite.
        fitted_on: which data these are, for reports.

    Returns:
        The mapping; without parameters but with a reason for fewer than five images, for constant scores and if the fit
        does not converge.
    """
    scores, mos = np.asarray(scores, float), np.asarray(mos, float)
    if len(scores) < 5:
        return Calibration(None, fitted_on, f"{len(scores)} images are too few to fit four parameters")
    centre, spread = scores.mean(), scores.std()
    if spread <= 1e-12 * max(1.0, abs(centre)):
        return Calibration(None, fitted_on, "the scores are constant")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # about the covariance, which is not used
            warnings.simplefilter("ignore", RuntimeWarning)
            (upper, lower, middle, width), _ = curve_fit(
                logistic,
                (scores - centre) / spread,
                mos,
                p0=[mos.max(), mos.min(), 0.0, 1.0],
                # "lm", MINPACK's in scipy 1.17, gave two results for one ill-conditioned fit, by chance
                method="trf",
                jac=logistic_jacobian,
                max_nfev=20_000,
            )
    except (RuntimeError, ValueError, np.linalg.LinAlgError):  # not finite on the way, also
        return Calibration(None, fitted_on, "the logistic fit did not converge")
    parameters = (upper, lower, middle * spread + centre, abs(width) * spread)
    calibration = Calibration(tuple(map(float, parameters)), fitted_on)
    if not np.isfinite(parameters).all() or parameters[3] == 0 or not np.isfinite(calibration(scores)).all():
        return Calibration(None, fitted_on, "the logistic fit did not converge")
    return calibration


def load_calibration(path: str | os.PathLike) -> Calibration:
    """Read a released calibration file (`UIQA.npy`: four numbers).

    Raises:
        ValueError: it is missing or holds something else. Pickled objects are never loaded.
        CheckpointError: it is a web page or the like.
    """
    try:
        # Memory-mapped, so that a header with a huge shape cannot fill the memory.
        parameters = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises several types for damaged files
        check_download(Path(path))
        raise ValueError(f"{path}: cannot be read as a calibration file: {one_line(error)}") from error
    is_numeric = isinstance(parameters, np.ndarray) and parameters.dtype.kind in "fiu"
    if not is_numeric or parameters.shape != (4,) or not np.isfinite(parameters).all() or parameters[3] == 0:
        raise ValueError(f"{path}: a calibration file holds four finite numbers, the last (the width) not 0")
    return Calibration(tuple(map(float, parameters)), f"{Path(path).name} (as released)")
