"""Test whether two checkpoints differ significantly: a paired bootstrap over the same photographs."""

import os

import numpy as np
import pandas as pd

from utils.errors import RunError
from utils.metrics import bootstrap_distribution, plcc, srcc
from utils.options import several_sources_note
from utils.predictions import read_predictions
from utils.reporting.measures import few_groups_note, resampled_text, resampling_groups

RESAMPLES = 10_000
SCOPE = "two checkpoints, not two methods: the variation between training seeds is not included"


def compare(
    first: str | os.PathLike,
    second: str | os.PathLike,
    resamples: int = RESAMPLES,
    seed: int = 0,
    resample_by: str | None = None,
) -> dict:
    """Test whether the SRCC and PLCC of two checkpoints differ.

    Images are drawn with replacement, the same ones for both checkpoints, so that easy and hard draws cancel out (Efron
    & Tibshirani 1993, ch. 16). p is two-sided: if in k of B resamples the difference is at least as far from the
    observed one as that is from 0, p = (k + 1) / (B + 1). The resampling covers the choice of images only: training one
    of the methods again with another seed gives other scores, and that variation is not included.

    Args:
        first, second: files of predictions for the same images with the same opinions.
        resamples: B.
        seed: of the resampling.
        resample_by: column of the first file of which whole groups are drawn.

    Returns:
        `compares` (what the test covers), `n`, `resamples`, `resampled` (what was drawn), `notes` (warnings),
        `plcc_of` ("quality", or "score" if a file has no mapping) and for SRCC and PLCC the dict `first`, `second`,
        `difference` (second - first), `ci95`, `p`; NaN where a correlation is undefined.

    Raises:
        RunError: a file cannot be read, or the two do not hold the same images and opinions; or as
            `resampling_groups`.
    """
    tables = _read_same(first, second)
    result = _compare(tables, resamples, seed, resample_by)
    return result | {"notes": [*result["notes"], *several_sources_note(tables[0])]}


def compare_sources(
    first: str | os.PathLike, second: str | os.PathLike, column: str, resample_by: str | None = None
) -> dict[str, dict]:
    """Return for each data set, named in a column of the first file, what `compare` returns for its photographs.

    Raises:
        RunError: there is no such column; or as `compare`.
    """
    tables = _read_same(first, second)
    if column not in tables[0]:
        raise RunError(f"--source_column {column}: no such column in {first}")
    return {
        str(name): _compare([rows, tables[1].loc[rows.index]], RESAMPLES, 0, resample_by)
        for name, rows in tables[0].groupby(column, sort=False)
    }


def _compare(tables: list[pd.DataFrame], resamples: int, seed: int, resample_by: str | None) -> dict:
    """Compare two tables of the same images in the same order, see `compare`."""
    groups = resampling_groups(tables[0], resample_by)
    mapped = "quality" if all(np.isfinite(table["quality"]).all() for table in tables) else "score"
    mos, n = tables[0]["mos"].to_numpy(), len(tables[0])
    scores, qualities = (np.array([table[name] for table in tables]) for name in ("score", mapped))  # (2 files, n)

    def differences(index: np.ndarray) -> np.ndarray:  # (2 measures,)
        return np.diff(_correlations(scores[:, index], qualities[:, index], mos[index]))[:, 0]

    observed, drawn = np.full((2, 2), np.nan), np.full((2, 0), np.nan)
    if n > 1:
        observed = _correlations(scores, qualities, mos)
        drawn = bootstrap_distribution(differences, n, groups, resamples, seed)
    rows = {name: _row(*observed[k], drawn[k]) for k, name in enumerate(("SRCC", "PLCC"))}
    return {
        "compares": SCOPE,
        "n": n,
        "resamples": resamples,
        "resampled": resampled_text(n, groups, resample_by),
        "notes": few_groups_note(groups, resample_by),
        "plcc_of": mapped,
        **rows,
    }


def comparison_text(result: dict, first: str, second: str) -> str:
    """Return a comparison as a table for the terminal."""
    lines = [
        f"Two checkpoints, {result['n']} images; A: {first}; B: {second}",
        f"{'':<6}{'A':>8}{'B':>9}{'B - A':>9}  95 % interval",
    ]
    for name in ("SRCC", "PLCC"):
        row = result[name]
        low, high = row["ci95"]
        lines.append(
            f"{name:<6}{row['first']:>8.4f}{row['second']:>9.4f}{row['difference']:>+9.4f}  "
            f"[{low:+.4f}, {high:+.4f}]   p = {row['p']:.4f}"
        )
    reason = ", because a file has no mapped quality" if result["plcc_of"] == "score" else ""
    lines += [
        f"Paired bootstrap, {result['resamples']:,} resamples of {result['resampled']}; p is two-sided, for no "
        f"difference. PLCC is of the column {result['plcc_of']}{reason}.",
        f"This compares {result['compares']}.",
    ]
    return "\n".join(lines)


def _read_same(*paths: str | os.PathLike) -> list[pd.DataFrame]:
    """Read two files of predictions; return them with the images of the first, in its order.

    Raises:
        RunError: a file cannot be read, or they do not hold the same images and opinions.
    """
    tables = [read_predictions(path).set_index("image", drop=False) for path in paths]
    for one, other in ((0, 1), (1, 0)):
        unmatched = tables[one].index.difference(tables[other].index)
        if len(unmatched):
            raise RunError(
                f"{len(unmatched)} image(s) of {paths[one]} are not in {paths[other]} (for example {unmatched[0]}); "
                "compare predictions for the same images"
            )
    mos = [table["mos"].loc[tables[0].index].to_numpy() for table in tables]
    differing = np.flatnonzero(~np.isclose(*mos, rtol=0, atol=1e-6))
    if len(differing):
        row = differing[0]
        raise RunError(
            f"{tables[0].index[row]} has MOS {mos[0][row]:g} in {paths[0]} and {mos[1][row]:g} in {paths[1]}; "
            "compare predictions for the same labels"
        )
    return [tables[0], tables[1].loc[tables[0].index]]


def _correlations(scores: np.ndarray, qualities: np.ndarray, mos: np.ndarray) -> np.ndarray:
    """Return SRCC of scores and PLCC of qualities, (2 files, n) each, as (2 measures, 2 files); NaN where undefined."""
    return np.array([[srcc(row, mos) for row in scores], [plcc(row, mos) for row in qualities]])


def _row(first: float, second: float, differences: np.ndarray) -> dict:
    """Return the entry of one measure; resamples in which it is undefined are left out."""
    difference = second - first
    usable = differences[np.isfinite(differences)]
    row = {"first": float(first), "second": float(second), "difference": float(difference)}
    if not np.isfinite(difference) or not len(usable):
        return row | {"ci95": [float("nan")] * 2, "p": float("nan")}
    beyond = int((np.abs(usable - difference) >= abs(difference)).sum())
    return row | {"ci95": np.percentile(usable, [2.5, 97.5]).tolist(), "p": (beyond + 1) / (len(usable) + 1)}
