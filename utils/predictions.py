"""The table of predictions: written after scoring, read for measuring, comparison and distillation.

One row per image, with the columns

- `image`, its name in the label file, and `mos`, its mean opinion score (in the files of test.py);
- `score`, the network's output, and `quality`, the score mapped to the MOS scale, NaN without a mapping;
- `draw_sd`, the s.d. of a score between fragment draws, and `sampling_error`, the standard error of their mean (only
  with several draws);
- `points_<view>`, what each view adds to the score.

Rows of a file are identified by `image`, never by their position: readers align them by name.
"""

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd

from data.csv_files import CsvError, read_csv_table, to_numbers
from data.files import one_line, utf8
from utils.batches import scores_of_batch
from utils.calibration import Calibration
from utils.errors import RunError
from utils.inference import ScoredBatch, Scores

NUMBERS = ("mos", "score", "quality", "draw_sd", "sampling_error")  # columns; also points_<view>


def predictions_table(scores: Scores, calibration: Calibration | None) -> pd.DataFrame:
    """Return the columns from `score` on as a table, one row per photograph, in the order of the scores."""
    quality = calibration(scores.scores) if calibration else np.full(len(scores.scores), np.nan)
    table = pd.DataFrame({"score": scores.scores, "quality": quality})
    if scores.draws > 1:
        table["draw_sd"] = scores.draw_sd
        table["sampling_error"] = scores.draw_sd / np.sqrt(scores.draws)
    for name, points in scores.points.items():
        table[f"points_{name}"] = points
    return table


def batch_predictions(
    batch: ScoredBatch, images: Sequence[str], draws: int, view_names: Sequence[str], calibration: Calibration | None
) -> pd.DataFrame:
    """Return one batch as rows in the order of the photographs: `image`, `predictions_table`'s columns, and `error`.

    Args:
        batch: of `utils.inference.score_batches` or `gather_batches`.
        images: paths of all photographs of the data set; rows have them as `data.files.utf8` writes them.
        draws, view_names: of the data set and the model.
        calibration: mapping of scores to quality.
    """
    positions, scores = scores_of_batch(batch, draws, view_names)
    table = predictions_table(scores, calibration)
    table.insert(0, "image", [utf8(images[position]) for position in positions])
    errors = {row: utf8(message) for row, message in scores.failures}
    table["error"] = pd.Series([errors.get(row) for row in range(len(table))], dtype=object)
    return table


def read_predictions(path: str | os.PathLike) -> pd.DataFrame:
    """Read a file of predictions written by test.py.

    Returns:
        At least the columns image, mos, score and quality. Image names are strings without duplicates; mos and score
        are finite; quality is NaN where there was no mapping.

    Raises:
        RunError: the file cannot be read, a column is missing, or a line is unusable; the message names the line.
    """
    try:
        table = read_csv_table(path)
    except (OSError, CsvError) as error:
        raise RunError(f"{path}: cannot be read as a CSV file of predictions: {one_line(error)}") from error
    missing = [name for name in ("image", "mos", "score") if name not in table]
    if missing:
        raise RunError(f"{path}: has no column {', '.join(missing)}; give a predictions_<split>.csv written by test.py")
    if table.empty:
        raise RunError(f"{path}: contains no predictions")
    table["quality"] = table.get("quality", "")
    for name in table:
        if name in NUMBERS or name.startswith("points_"):
            table[name] = to_numbers(table[name])
        elif name != "image":
            table[name] = table[name].replace("", None)
    unusable = (table["image"] == "") | ~np.isfinite(table["mos"]) | ~np.isfinite(table["score"])
    if unusable.any():
        line = int(np.flatnonzero(unusable)[0]) + 2
        raise RunError(f"{path}: line {line}: an image needs a name and finite numbers as mos and score")
    duplicates = table["image"][table["image"].duplicated()]
    if len(duplicates):
        raise RunError(f"{path}: {duplicates.iloc[0]} is listed more than once")
    return table
