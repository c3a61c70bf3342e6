"""Test whether two checkpoints differ significantly: a paired bootstrap over the same photographs."""

import os
import warnings

import numpy as np
import pandas as pd
from scipy import stats

from utils.errors import RunError
from utils.predictions import read_predictions

RESAMPLES = 10_000
BATCH = 500  # resamples computed at once: an array of 500 x 900 images x 8 bytes takes 4 MB


def compare(first: str | os.PathLike, second: str | os.PathLike, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """Test whether the SRCC and PLCC of two checkpoints differ.

    Images are drawn with replacement, the same ones for both checkpoints, so that easy and hard draws cancel out (Efron
    & Tibshirani 1993, ch. 16). p is two-sided: if in k of B resamples the difference is at least as far from the
    observed one as that is from 0, p = (k + 1) / (B + 1). The resampling covers the choice of images only: training one
    of the methods again with another seed gives other scores, and that variation is not included.

    Args:
        first, second: files of predictions for the same images with the same opinions.
        resamples: B.
        seed: of the resampling.

    Returns:
        `n`, `resamples`, `plcc_of` ("quality", or "score" if a file has no mapping) and for SRCC and PLCC the dict
        `first`, `second`, `difference` (second - first), `ci95`, `p`; NaN where a correlation is undefined.

    Raises:
        RunError: a file cannot be read, or the two do not hold the same images and opinions.
    """
    tables = [read_predictions(path).set_index("image") for path in (first, second)]
    _check_same(tables, (first, second))
    tables[1] = tables[1].loc[tables[0].index]
    mapped = "quality" if all(np.isfinite(table["quality"]).all() for table in tables) else "score"
    columns = [table[name].to_numpy() for table in tables for name in ("score", mapped)] + [tables[0]["mos"].to_numpy()]
    n = len(tables[0])
    observed, distribution = np.full((2, 2), np.nan), np.full((2, 0), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant scores: their correlation is NaN, and such resamples are left out
        if n > 1:
            observed = _correlations(*columns)
            distribution = stats.bootstrap(
                columns,
                lambda *resampled, axis: np.subtract(*_correlations(*resampled)[::-1]),
                n_resamples=resamples,
                batch=BATCH,
                vectorized=True,
                paired=True,
                method="percentile",
                rng=np.random.default_rng(seed),
            ).bootstrap_distribution
    rows = {name: _row(*observed[:, k], distribution[k]) for k, name in enumerate(("SRCC", "PLCC"))}
    return {"n": n, "resamples": resamples, "plcc_of": mapped, **rows}


def comparison_text(result: dict, first: str, second: str) -> str:
    """Return a comparison as a table for the terminal."""
    lines = [f"{result['n']} images; A: {first}; B: {second}", f"{'':<6}{'A':>8}{'B':>9}{'B - A':>9}  95 % interval"]
    for name in ("SRCC", "PLCC"):
        row = result[name]
        low, high = row["ci95"]
        lines.append(
            f"{name:<6}{row['first']:>8.4f}{row['second']:>9.4f}{row['difference']:>+9.4f}  "
            f"[{low:+.4f}, {high:+.4f}]   p = {row['p']:.4f}"
        )
    reason = ", because a file has no mapped quality" if result["plcc_of"] == "score" else ""
    lines += [
        f"Paired bootstrap over images, {result['resamples']} resamples; p is two-sided, for no difference. PLCC is of "
        f"the column {result['plcc_of']}{reason}.",
        "This compares two checkpoints, not two methods: the variation between training seeds is not included.",
    ]
    return "\n".join(lines)


def _check_same(tables: list[pd.DataFrame], paths: tuple) -> None:
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


def _correlations(
    first: np.ndarray, first_mapped: np.ndarray, second: np.ndarray, second_mapped: np.ndarray, mos: np.ndarray
) -> np.ndarray:
    """Return SRCC of scores and PLCC of mapped scores; (..., n) each -> (2 files, 2 measures, ...)."""
    *ranks, mos_ranks = stats.rankdata([first, second, mos], axis=-1)
    pairs = zip(ranks, (first_mapped, second_mapped), strict=True)
    return np.array([[_pearson(rank, mos_ranks), _pearson(mapped, mos)] for rank, mapped in pairs])


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return stats.pearsonr(x, y, axis=-1).statistic


def _row(first: float, second: float, differences: np.ndarray) -> dict:
    """Return the entry of one measure; resamples in which it is undefined are left out."""
    difference = second - first
    usable = differences[np.isfinite(differences)]
    row = {"first": float(first), "second": float(second), "difference": float(difference)}
    if not np.isfinite(difference) or not len(usable):
        return row | {"ci95": [float("nan")] * 2, "p": float("nan")}
    beyond = int((np.abs(usable - difference) >= abs(difference)).sum())
    return row | {"ci95": np.percentile(usable, [2.5, 97.5]).tolist(), "p": (beyond + 1) / (len(usable) + 1)}
