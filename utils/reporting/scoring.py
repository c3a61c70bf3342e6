"""The scores of a split: from a model, from a file, or from baselines that ignore the photograph's content."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from data.datasets import PhotographDataset
from data.tables import LabelTable
from models import build_model
from utils.calibration import fit_calibration
from utils.errors import RunError
from utils.loaded_model import LoadedModel
from utils.predictions import predictions_table, read_predictions
from utils.progress import Tally
from utils.reporting.measures import measure


@dataclass(frozen=True)
class ScoredSplit:
    """The scores of a split.

    Attributes:
        table: the table of predictions, one row per photograph that has a score.
        paths: the photographs' files by image name; None for each if no label file was read.
        failures: `image` and `error` of the photographs that could not be scored.
        tally: the speed of scoring; None for scores read from a file.
    """

    table: pd.DataFrame
    paths: Mapping[str, str | None]
    failures: list[dict]
    tally: Tally | None


def score_split(
    loaded: LoadedModel, rows: pd.DataFrame, draws: int, group_by: str | None, score: Callable
) -> ScoredSplit:
    """Score the photographs of a split.

    Args:
        loaded: the model, on the device.
        rows: of the label table.
        draws: fragment draws per photograph.
        group_by: column of the rows to add to the table of predictions.
        score: `utils.inference.score_photographs` with device, batch size and workers filled in.

    Raises:
        RunError: none of them could be scored.
    """
    rows = rows.reset_index(drop=True)
    scores = score(loaded.model, PhotographDataset(rows["path"], loaded.view_spec, draws=draws), progress="scoring")
    failures = [{"image": rows["image"][index], "error": message} for index, message in scores.failures]
    table = rows[["image", "mos"]].join(predictions_table(scores, loaded.calibration))[np.isfinite(scores.scores)]
    if table.empty:
        raise RunError(f"none of the {len(rows)} images could be scored; the first: {failures[0]['error']}")
    return ScoredSplit(*_join_labels(table, rows, group_by), failures, scores.tally)


def read_split(path: str, labels: LabelTable | None, split: str, group_by: str | None) -> ScoredSplit:
    """Read predictions, and find their photographs and groups in the label file's split if there is one.

    Raises:
        RunError: the file cannot be used, or none of its images is in the split.
    """
    table = read_predictions(path)
    rows = labels.split(split) if labels else table.assign(path=None)
    if not table["image"].isin(rows["image"]).any():
        raise RunError(f"{path}: none of its images is in the {split} split of {labels.source}")
    return ScoredSplit(*_join_labels(table, rows, group_by), [], None)


def _join_labels(table: pd.DataFrame, rows: pd.DataFrame, group_by: str | None) -> tuple[pd.DataFrame, dict]:
    """Return predictions with the column to group by, matched by image name, and the rows' files by image name."""
    if group_by and group_by not in table and group_by in rows:
        table = table.join(rows.set_index("image")[group_by], on="image")
    return table, dict(zip(rows["image"], rows["path"], strict=True))


def measure_controls(scored: ScoredSplit, loaded: LoadedModel, draws: int, score: Callable) -> dict[str, dict]:
    """Measure two scores that contain no knowledge of quality; a trained model has to exceed both.

    Their mapping is fitted on the split's own labels, which favours them.
    """
    paths = [scored.paths[image] for image in scored.table["image"]]
    torch.manual_seed(0)
    untrained = build_model(**loaded.architecture, view_sizes=loaded.view_spec.view_sizes)
    untrained.to(next(loaded.model.parameters()).device)
    photographs = PhotographDataset(paths, loaded.view_spec, draws=draws)
    candidates = {
        "untrained": score(untrained, photographs, progress="untrained model", distributed=False).scores,
        "file_size": np.array([Path(path).stat().st_size for path in paths], float),
    }
    mos = scored.table["mos"].to_numpy()
    return {
        name: measure(scores, fit_calibration(scores, mos, "the split's own labels")(scores), mos)
        for name, scores in candidates.items()
    }
