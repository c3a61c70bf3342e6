"""The table of predictions: what scoring writes, and what measuring, comparing and distillation read.

A row an image, with the columns

- `image`, its name in the label file, and `mos`, its opinion on the data set's scale (files of test.py);
- `score`, what the network says, and `quality`, the score on the MOS scale, NaN without a mapping;
- `points_<view>`, what each view adds to the score;
- with several draws of the fragments `draw_sd`, the s.d. of a score between draws, and `sampling_error`, the standard
  error of their mean.
"""

import os

import numpy as np
import pandas as pd

from data.files import one_line
from utils.calibration import Calibration
from utils.errors import RunError
from utils.inference import Scores


def predictions_table(scores: Scores, calibration: Calibration | None) -> pd.DataFrame:
    """Return scores as a table, a row a photograph in their order, with the columns from `score` on."""
    quality = calibration(scores.scores) if calibration else np.full(len(scores.scores), np.nan)
    table = pd.DataFrame({"score": scores.scores, "quality": quality})
    if scores.draws > 1:
        table["draw_sd"] = scores.draw_sd
        table["sampling_error"] = scores.draw_sd / np.sqrt(scores.draws)
    for name, points in scores.points.items():
        table[f"points_{name}"] = points
    return table


def read_predictions(path: str | os.PathLike) -> pd.DataFrame:
    """Read a file of predictions as test.py writes it.

    Returns:
        At least the columns image, mos, score and quality; quality is NaN where there was no mapping. Images are
        text, each once; opinions and scores are finite.

    Raises:
        RunError: the file cannot be read, or lacks a column or a value; the message names the line.
    """
    try:
        table = pd.read_csv(path, dtype={"image": str})
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise RunError(f"{path}: cannot be read as a CSV of predictions: {one_line(error)}") from error
    missing = [name for name in ("image", "mos", "score") if name not in table]
    if missing:
        raise RunError(f"{path}: has no column {', '.join(missing)}; give a predictions_<split>.csv of test.py")
    if table.empty:
        raise RunError(f"{path}: holds no predictions")
    table["quality"] = table.get("quality", np.nan)
    for name in ("mos", "score", "quality"):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    unusable = table["image"].isna() | ~np.isfinite(table["mos"]) | ~np.isfinite(table["score"])
    if unusable.any():
        line = int(np.flatnonzero(unusable)[0]) + 2
        raise RunError(f"{path}: line {line}: an image needs a name and finite numbers as mos and score")
    repeated = table["image"][table["image"].duplicated()]
    if len(repeated):
        raise RunError(f"{path}: {repeated.iloc[0]} is listed more than once")
    return table
