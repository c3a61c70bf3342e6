"""Whether one model is better than another, or luck: a paired bootstrap over the same photographs."""

import os

import numpy as np
import pandas as pd
from scipy import stats

from utils.errors import RunError
from utils.metrics import mapped_metrics
from utils.predictions import read_predictions

RESAMPLES = 10_000
_AT_A_TIME = 500  # resamples ranked together: 500 x 900 images x 8 bytes are 4 MB


def compare(first: str | os.PathLike, second: str | os.PathLike, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """Tell the difference between two models' SRCC and PLCC from noise.

    Images are drawn with replacement, the same ones for both models, so that what makes a draw easy or hard cancels
    out (Efron & Tibshirani 1993, ch. 16). p is two-sided: with k of B resamples whose difference lies at least as far
    from the observed one as that lies from 0, p = (k + 1) / (B + 1).

    Args:
        first, second: files of predictions for the same images with the same opinions.
        resamples: B.
        seed: of the resampling.

    Returns:
        `n`, `resamples`, `plcc_of` ("quality", or "score" where a file has no mapping) and for SRCC and PLCC the dict
        `first`, `second`, `difference` (second - first), `ci95`, `p`; NaN where a correlation is undefined.

    Raises:
        RunError: a file cannot be read, or they do not hold the same images and opinions.
    """
    tables = [read_predictions(path).set_index("image") for path in (first, second)]
    _check_same(tables, (first, second))
    tables[1] = tables[1].loc[tables[0].index]
    mapped = "quality" if all(np.isfinite(table["quality"]).all() for table in tables) else "score"
    mos = tables[0]["mos"].to_numpy()
    values = {
        "SRCC": [table["score"].to_numpy() for table in tables],
        "PLCC": [table[mapped].to_numpy() for table in tables],
    }
    found = {name: [mapped_metrics(given, given, mos)[name] for given in both] for name, both in values.items()}
    differences = {name: np.empty(resamples) for name in values}
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _AT_A_TIME):
        count = min(_AT_A_TIME, resamples - start)
        index = generator.integers(0, len(mos), (count, len(mos)))
        ranks = stats.rankdata(mos[index], axis=1)
        rank_of = [stats.rankdata(given[index], axis=1) for given in values["SRCC"]]
        pieces = {
            "SRCC": _correlation(rank_of[1], ranks) - _correlation(rank_of[0], ranks),
            "PLCC": _correlation(values["PLCC"][1][index], mos[index])
            - _correlation(values["PLCC"][0][index], mos[index]),
        }
        for name, piece in pieces.items():
            differences[name][start : start + count] = piece
    return {
        "n": len(mos),
        "resamples": resamples,
        "plcc_of": mapped,
        **{name: _verdict(*found[name], differences[name]) for name in values},
    }


def comparison_words(result: dict, first: str, second: str) -> str:
    """Return a comparison for people."""
    lines = [f"{result['n']} images; A: {first}; B: {second}", f"{'':<6}{'A':>8}{'B':>9}{'B - A':>9}  95 % interval"]
    for name in ("SRCC", "PLCC"):
        row = result[name]
        low, high = row["ci95"]
        lines.append(
            f"{name:<6}{row['first']:>8.4f}{row['second']:>9.4f}{row['difference']:>+9.4f}  "
            f"[{low:+.4f}, {high:+.4f}]   p = {row['p']:.4f}"
        )
    lines.append(
        f"Paired bootstrap, {result['resamples']} resamples; p is two-sided, for no difference. PLCC is of the "
        f"column {result['plcc_of']}"
        + (", because a file has no mapped quality." if result["plcc_of"] == "score" else ".")
    )
    return "\n".join(lines)


def _check_same(tables: list[pd.DataFrame], paths: tuple) -> None:
    for here, there in ((0, 1), (1, 0)):
        lone = tables[here].index.difference(tables[there].index)
        if len(lone):
            raise RunError(
                f"{len(lone)} image(s) of {paths[here]} are not in {paths[there]} ({lone[0]} for one); "
                "compare predictions for the same images"
            )
    mos = [table["mos"].loc[tables[0].index].to_numpy() for table in tables]
    apart = np.flatnonzero(~np.isclose(*mos, rtol=0, atol=1e-6))
    if len(apart):
        name = tables[0].index[apart[0]]
        raise RunError(
            f"{name} has the opinion {mos[0][apart[0]]:g} in {paths[0]} and {mos[1][apart[0]]:g} in {paths[1]}; "
            "compare predictions for the same labels"
        )


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of each row, (rows, n) twice -> (rows,); NaN where a row is constant."""
    first = first - first.mean(axis=1, keepdims=True)
    second = second - second.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (first * second).sum(axis=1) / np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))


def _verdict(first: float, second: float, differences: np.ndarray) -> dict:
    difference = second - first
    usable = differences[np.isfinite(differences)]
    if not np.isfinite(difference) or not len(usable):
        nan = float("nan")
        return {"first": first, "second": second, "difference": difference, "ci95": [nan, nan], "p": nan}
    beyond = int((np.abs(usable - difference) >= abs(difference)).sum())
    return {
        "first": first,
        "second": second,
        "difference": difference,
        "ci95": [float(limit) for limit in np.percentile(usable, [2.5, 97.5])],
        "p": (beyond + 1) / (len(usable) + 1),
    }
