"""The scores of a split: from a model, from a file, or from baselines that ignore the photograph's content."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from data.datasets import PhotographDataset
from data.files import listing
from data.tables import LabelTable
from models import build_model
from utils.calibration import fit_calibration
from utils.errors import RunError
from utils.loaded_model import LoadedModel
from utils.predictions import predictions_table, read_predictions
from utils.progress import Tally
from utils.reporting.measures import measure, resampling_groups


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
    loaded: LoadedModel,
    rows: pd.DataFrame,
    draws: int,
    columns: Sequence[str],
    score: Callable,
    source_column: str | None = None,
) -> ScoredSplit:
    """Score the photographs of a split.

    Args:
        loaded: the model, on the device.
        rows: of the label table.
        draws: fragment draws per photograph.
        columns: of the rows to add to the table of predictions, such as the one to group by.
        score: `utils.inference.score_photographs` with device, batch size and workers filled in.
        source_column: column that says which data set a photograph is from; see `on_scale_of_source`.

    Raises:
        RunError: none of them could be scored.
    """
    rows = rows.reset_index(drop=True)
    scores = score(loaded.model, PhotographDataset(rows["path"], loaded.view_spec, draws=draws), progress="scoring")
    failures = [{"image": rows["image"][index], "error": message} for index, message in scores.failures]
    if source_column:
        for failure, (index, _) in zip(failures, scores.failures, strict=True):
            failure["source"] = rows[source_column][index]
    table = rows[["image", "mos"]].join(predictions_table(scores, loaded.calibration))
    if source_column and loaded.sources:
        table = on_scale_of_source(table, rows[source_column], loaded)
    table = table[np.isfinite(scores.scores)]
    if table.empty:
        raise RunError(f"none of the {len(rows)} images could be scored; the first: {failures[0]['error']}")
    return ScoredSplit(*_join_labels(table, rows, columns), failures, scores.tally)


def on_scale_of_source(table: pd.DataFrame, sources: pd.Series, loaded: LoadedModel) -> pd.DataFrame:
    """Bring predictions to the scale of the data set that each photograph is from.

    A model that was trained on several data sets scores on the scale of one. Scores of photographs from another are
    moved to the mean and s.d. of its training opinions, and have its own mapping to quality. Photographs of a data set
    that the model was not trained on keep their scores, and have no quality.

    Args:
        table: predictions.
        sources: the data set of each row.
        loaded: a model with `sources`.
    """
    table, own = table.copy(), loaded.sources[loaded.options["score_scale"]]
    scales = [name for name in table if name.startswith("points_") or name in ("draw_sd", "sampling_error")]
    for name in sources.unique():
        rows = sources == name
        source = loaded.sources.get(name)
        if source is None:
            table.loc[rows, "quality"] = np.nan
            continue
        table.loc[rows, scales] *= source.sd / own.sd
        scores = (table.loc[rows, "score"] - own.mean) / own.sd * source.sd + source.mean
        table.loc[rows, "score"] = scores
        table.loc[rows, "quality"] = source.calibration(scores.to_numpy()) if source.calibration else np.nan
    return table


def by_source(scored: ScoredSplit, column: str | None) -> dict[str | None, ScoredSplit]:
    """Divide a scored split by the data sets that its photographs are from; without a column it is returned as None's.

    Raises:
        RunError: there is no such column.
    """
    if column is None:
        return {None: scored}
    if column not in scored.table:
        raise RunError(f"--source_column {column}: no such column; choose from {listing(scored.table.columns)}")
    empty = scored.table.loc[scored.table[column].isna(), "image"]
    if len(empty):
        raise RunError(f"--source_column {column}: {len(empty)} images have no entry in this column: {listing(empty)}")
    parts = {}
    for name, part in scored.table.groupby(column, sort=False):
        failures = [failure for failure in scored.failures if failure["source"] == name]
        parts[name] = replace(scored, table=part.reset_index(drop=True), failures=failures)
    return parts


def read_split(path: str, labels: LabelTable | None, split: str, columns: Sequence[str]) -> ScoredSplit:
    """Read predictions, and find their photographs and further columns in the label file's split if there is one.

    Raises:
        RunError: the file cannot be used, its images are not in the split, or it holds other opinions.
    """
    table = read_predictions(path)
    rows = labels.split(split) if labels else table.assign(path=None)
    if labels:
        _check_labels(path, table, labels, split)
    return ScoredSplit(*_join_labels(table, rows, columns), [], None)


def _check_labels(path: str, table: pd.DataFrame, labels: LabelTable, split: str) -> None:
    rows = labels.split(split)
    if not table["image"].isin(rows["image"]).any():
        raise RunError(f"{path}: none of its images is in the {split} split of {labels.source}")
    elsewhere = set(labels.frame["image"]) - set(rows["image"])
    outside = table.loc[table["image"].isin(elsewhere), "image"]
    if len(outside):
        raise RunError(
            f"{path}: {len(outside)} of its {len(table)} images are not in the {split} split of {labels.source}: "
            f"{listing(outside)}; give their split with --split (all, if they are of several)"
        )
    both = table.merge(rows, on="image", suffixes=("", "_of_labels"))
    different = both[(both["mos"] - both["mos_of_labels"]).abs() > 1e-6 + 0.01 * rows["mos"].std(ddof=0)]
    if len(different):
        row = different.iloc[0]
        raise RunError(
            f"{path}: {row['image']} has MOS {row['mos']:g}, and in {labels.source} {row['mos_of_labels']:g}; measure "
            "predictions with the labels they were made with (see --mos_column and --lower_is_better)"
        )


def _join_labels(table: pd.DataFrame, rows: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, dict]:
    """Return predictions with further columns, matched by image name, and the rows' files by image name."""
    missing = [name for name in dict.fromkeys(columns) if name not in table and name in rows]
    table = table.join(rows.set_index("image")[missing], on="image")
    return table, dict(zip(rows["image"], rows["path"], strict=True))


def measure_controls(
    scored: ScoredSplit, loaded: LoadedModel, draws: int, score: Callable, resample_by: str | None = None
) -> dict[str, dict]:
    """Measure two scores that contain no knowledge of quality; a trained model has to exceed both.

    Their mapping is fitted on the split's own labels, which favours them.
    """
    paths = [scored.paths[image] for image in scored.table["image"]]
    torch.manual_seed(0)
    untrained = build_model(**loaded.architecture, view_sizes=loaded.view_spec.view_sizes)
    untrained.set_normalisation(**loaded.model.normalisation)
    untrained.to(next(loaded.model.parameters()).device)
    photographs = PhotographDataset(paths, loaded.view_spec, draws=draws)
    candidates = {
        "untrained": score(untrained, photographs, progress="untrained model", distributed=False).scores,
        "file_size": np.array([Path(path).stat().st_size for path in paths], float),
    }
    mos, groups = scored.table["mos"].to_numpy(), resampling_groups(scored.table, resample_by)
    return {
        name: measure(scores, fit_calibration(scores, mos, "the split's own labels")(scores), mos, groups)
        for name, scores in candidates.items()
    }
