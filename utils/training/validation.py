"""The measures of a validation, of one source of opinions or of several."""

from collections.abc import Mapping

import numpy as np

from utils.calibration import Calibration, fit_calibration
from utils.checkpoint import Source
from utils.metrics import MEASURES, mapped_metrics
from utils.training.data import TrainingData

ERRORS = ("RMSE", "MAE")  # measures on the scale of the opinions


def measure_validation(scores: np.ndarray, points: Mapping[str, np.ndarray], data: TrainingData) -> dict:
    """Measure the scores of the validation images.

    With several sources, each is measured on its own scale with a mapping of its own. Their mean, which selects the
    epoch, takes RMSE and MAE in units of the s.d. of the source's training opinions, so that no source counts more
    because its scale is wider.

    Args:
        scores: (n,) on the scale of the loss; NaN for images that could not be used.
        points: for each view (n,), what it adds to the scores.
        data: of the training.

    Returns:
        `metrics`: MEASURES, on the data set's scale or as the mean over sources. `calibration`: the mapping, and
        `branch_means`, the mean points of each view: of the source whose scale scores have, None if none
        of its images could be used. `sources`: for each source
        its scale, mapping and measures; None unless `--source_column` is given.
    """
    usable = np.isfinite(scores)
    metrics: dict[str, dict[str, float]] = {}
    calibrations: dict[str, Calibration] = {}
    for name, scale in data.training.mos_scales.items():
        rows = usable & (data.validation_sources == name)
        if not rows.any():
            continue
        scaled, mos = scores[rows] * scale["sd"] + scale["mean"], data.validation_mos[rows]
        calibrations[name] = fit_calibration(scaled, mos, f"validation{f' of {name}' if name else ''}")
        metrics[name] = mapped_metrics(scaled, calibrations[name](scaled), mos)
    sd = data.mos_scale["sd"]
    rows = usable & (data.validation_sources == data.score_scale)
    return {
        "metrics": mean_over_sources(metrics, data.training.mos_scales) if data.has_sources else metrics[""],
        "calibration": calibrations.get(data.score_scale),
        "branch_means": {name: float(values[rows].mean() * sd) for name, values in points.items()}
        if rows.any()
        else None,
        "sources": {
            name: Source(
                **data.training.mos_scales[name], calibration=calibrations.get(name), metrics=metrics.get(name)
            )
            for name in data.training.source_names
        }
        if data.has_sources
        else None,
    }


def mean_over_sources(
    metrics: Mapping[str, Mapping[str, float]], scales: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Return the mean of each measure over sources, RMSE and MAE in units of the s.d. of the source's opinions."""
    return {
        name: float(
            np.mean(
                [values[name] / (scales[source]["sd"] if name in ERRORS else 1) for source, values in metrics.items()]
            )
        )
        for name in MEASURES
    }
