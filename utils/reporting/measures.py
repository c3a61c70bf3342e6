"""The measures of an evaluation in three protocols, within groups, and as tables for people."""

import numpy as np
import pandas as pd

from data.files import natural_order
from utils.calibration import fit_calibration
from utils.errors import RunError
from utils.metrics import MEASURES, bootstrap_intervals, mapped_metrics

RESAMPLES = 1000
MOST_GROUPS = 50


def evaluation_report(
    scores: np.ndarray, mos: np.ndarray, split: str, quality: np.ndarray | None, mapping: str, seed: int = 0
) -> dict:
    """Measure scores against opinions in the three protocols.

    Args:
        scores, mos: (n,) each, finite.
        split: name of the split, for the words.
        quality: (n,) the scores after the mapping fitted on validation data, or None if there is none.
        mapping: that mapping in words.
        seed: of the bootstrap.

    Returns:
        `split`, `n` and, for each protocol, the five measures with `ci95` (95 % intervals by `RESAMPLES` resamples, the
        mapping held fixed) and `mapping` (in words): `raw` scores; `val_fitted`, None without a mapping; and
        `test_fitted`, the mapping fitted on these very labels, which is how published tables are made.
    """
    own = fit_calibration(scores, mos, f"the {split} labels themselves")
    protocols = {"raw": (scores, "none: raw scores")}
    if quality is not None:
        protocols["val_fitted"] = (quality, mapping)
    protocols["test_fitted"] = (own(scores), own.describe())
    report = {"split": split, "n": len(scores), "raw": None, "val_fitted": None, "test_fitted": None}
    for name, (mapped, words) in protocols.items():
        report[name] = measured(scores, mapped, mos, seed) | {"mapping": words}
    return report


def protocol_words(report: dict) -> dict[str, str]:
    """Return what PLCC, RMSE and MAE of each protocol are of, and what that is worth."""
    worth = {
        "test": "; the honest figure",
        "val": "; flattered, for these images chose the epoch, too",
        "train": "; flattered, for the model has learnt these images",
    }
    words = {"raw": "no mapping, the scores as they are"}
    if report["val_fitted"]:
        mapping = report["val_fitted"]["mapping"]
        words["val_fitted"] = f"mapping {mapping}{worth[report['split']] if mapping == 'fitted on validation' else ''}"
    return words | {"test_fitted": f"mapping {report['test_fitted']['mapping']}; how published tables are made"}


def measured(scores: np.ndarray, mapped: np.ndarray, mos: np.ndarray, seed: int = 0) -> dict:
    """Return the five measures, and their 95 % intervals as `ci95`."""
    intervals = bootstrap_intervals(scores, mapped, mos, RESAMPLES, seed)
    return mapped_metrics(scores, mapped, mos) | {"ci95": intervals}


def group_report(table: pd.DataFrame, column: str) -> dict:
    """Measure scores within each group of photographs.

    Args:
        table: a row an image: mos, score, quality, and the column.
        column: whose entries are the groups; a photograph without an entry is in none.

    Returns:
        `column`; `protocol` in words: the mapping is that of the whole split, or none; `measures`: for each group, in
        natural order, `n` and the measures with `ci95`.

    Raises:
        RunError: as `group_names`.
    """
    names = group_names(table, column)
    mapped = "quality" if table["quality"].notna().all() else "score"
    groups = {}
    for name in names:
        rows = table[table[column] == name]
        found = measured(rows["score"].to_numpy(), rows[mapped].to_numpy(), rows["mos"].to_numpy())
        groups[str(name)] = {"n": len(rows)} | found
    words = "the mapping is that of the whole split" if mapped == "quality" else "raw scores"
    return {"column": column, "protocol": words, "measures": groups}


def group_names(table: pd.DataFrame, column: str) -> list:
    """Return the groups of a column, in natural order.

    Raises:
        RunError: no such column, or too many groups to be groups.
    """
    if column not in table:
        raise RunError(f"--group_by {column}: no such column; there are {', '.join(map(str, table.columns))}")
    names = sorted(table[column].dropna().unique(), key=lambda name: natural_order(str(name)))
    if len(names) > MOST_GROUPS:
        raise RunError(
            f"--group_by {column}: {len(names)} different entries; choose a column with at most {MOST_GROUPS}"
        )
    return names


def measures_table(rows: dict[str, dict | None]) -> str:
    """Return a table of measures with their intervals, one line for each named report."""
    width = max(map(len, rows)) + 2
    lines = [" " * width + "".join(f"{name:<24}" for name in MEASURES).rstrip()]
    for name, measures in rows.items():
        if measures is None:
            lines.append(f"{name:<{width}}not available")
            continue
        cells = [
            f"{measures[key]:.4f} [{measures['ci95'][key][0]:.3f}, {measures['ci95'][key][1]:.3f}]" for key in MEASURES
        ]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:<24}" for cell in cells).rstrip())
    return "\n".join(lines)
