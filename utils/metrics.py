"""Agreement between scores and opinions: the field's five measures, with bootstrap intervals."""

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

DRAWN_AT_ONCE = 2**22  # indices of resampled images, 32 MB
MEASURES = ("SRCC", "KRCC", "PLCC", "RMSE", "MAE")


def iqa_metrics(scores: np.ndarray, mos: np.ndarray) -> dict[str, float]:
    """Return SRCC, KRCC, PLCC, RMSE and MAE of scores as they are.

    For PLCC, RMSE and MAE on the opinions' scale, map the scores first (`utils.calibration`); SRCC and KRCC need no
    mapping. Correlations of constant scores or opinions, or of fewer than two images, are undefined: NaN.

    Args:
        scores, mos: (n,) each.

    Raises:
        ValueError: lengths differ, or a value is not finite.
    """
    return mapped_metrics(scores, scores, mos)


def mapped_metrics(scores: np.ndarray, mapped: np.ndarray, mos: np.ndarray) -> dict[str, float]:
    """Return SRCC and KRCC of raw scores, PLCC, RMSE and MAE of mapped ones.

    The ranks are those of raw scores because a fitted mapping may decrease, which would turn a negative SRCC positive.

    Args:
        scores, mapped, mos: (n,) each.

    Raises:
        ValueError: lengths differ, or a value is not finite.
    """
    scores, mos = _check(scores, mos)
    mapped, _ = _check(mapped, mos)
    measures = dict.fromkeys(MEASURES, float("nan"))
    if len(mos):
        error = mapped - mos
        measures |= {"RMSE": float(np.sqrt(np.mean(error**2))), "MAE": float(np.mean(np.abs(error)))}
    measures |= {"SRCC": srcc(scores, mos), "PLCC": plcc(mapped, mos)}
    if _is_defined(scores, mos):
        measures["KRCC"] = float(stats.kendalltau(scores, mos).statistic)
    return measures


def srcc(scores: np.ndarray, mos: np.ndarray) -> float:
    """Return Spearman's rank correlation of (n,) scores and opinions; NaN if it is undefined."""
    return plcc(_ranks(scores), _ranks(mos))


def plcc(scores: np.ndarray, mos: np.ndarray) -> float:
    """Return Pearson's correlation of (n,) scores and opinions; NaN if it is undefined.

    scipy's takes 30 times as long, and bootstrap intervals call this thousands of times.
    """
    if not _is_defined(scores, mos):
        return float("nan")
    units = []
    for values in (scores, mos):
        centred = values - values.mean()
        centred /= np.abs(centred).max()  # so that no square is beyond float64
        units.append(centred / np.linalg.norm(centred))
    return float(np.clip(np.dot(*units), -1, 1))


def selection_criterion(measures: dict[str, float]) -> float:
    """Return SRCC + PLCC + KRCC - RMSE - MAE, which selects the best epoch (as in the released training code)."""
    return measures["SRCC"] + measures["PLCC"] + measures["KRCC"] - measures["RMSE"] - measures["MAE"]


def bootstrap_intervals(
    scores: np.ndarray,
    mapped: np.ndarray,
    mos: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> dict[str, list[float]]:
    """Return 95 % intervals of `mapped_metrics` by the paired percentile bootstrap (Efron & Tibshirani 1993, ch. 13).

    Images are drawn with replacement, score and opinion together; the mapping is held fixed. Images of one scene are
    alike and say less than as many independent ones: with `groups`, whole groups are drawn. Resamples in which a
    measure is undefined (all scores equal, for example) are left out of its interval.

    Args:
        scores, mapped, mos: (n,) each.
        resamples: number of resamples.
        seed: of the resampling.
        groups: (n,) the group of each image; None to draw single images.

    Returns:
        For each measure [low, high]; NaN for fewer than two images or groups.
    """
    scores, mos = _check(scores, mos)
    mapped, _ = _check(mapped, mos)
    if _number_of_groups(len(mos), groups) < 2:
        return {name: [float("nan"), float("nan")] for name in MEASURES}

    def measures_of(index: np.ndarray) -> list[float]:
        return list(mapped_metrics(scores[index], mapped[index], mos[index]).values())

    distribution = bootstrap_distribution(measures_of, len(mos), groups, resamples, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a measure that is undefined in all resamples
        limits = np.nanpercentile(distribution, [2.5, 97.5], axis=1).T
    return {name: [float(low), float(high)] for name, (low, high) in zip(MEASURES, limits, strict=True)}


def bootstrap_distribution(
    statistics: Callable[[np.ndarray], list[float]], n: int, groups: np.ndarray | None, resamples: int, seed: int
) -> np.ndarray:
    """Compute statistics of images drawn with replacement.

    Args:
        statistics: returns S numbers for the indices of the images drawn.
        n: number of images.
        groups: (n,) the group of each image, to draw as many whole groups as there are; None to draw single images.
        resamples: number of resamples, B.
        seed: of the draws.

    Returns:
        (S, B) float64.
    """
    if groups is None:
        members = None
    else:
        codes = pd.factorize(groups)[0]
        members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])

    def of_resample(drawn: np.ndarray) -> list[float]:
        return statistics(drawn if members is None else np.concatenate([members[group] for group in drawn]))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about resamples in which a statistic is undefined
        units = _number_of_groups(n, groups)
        return stats.bootstrap(
            (np.arange(units),),
            of_resample,
            n_resamples=resamples,
            batch=max(1, DRAWN_AT_ONCE // units),
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution


def _number_of_groups(n: int, groups: np.ndarray | None) -> int:
    return n if groups is None else len(pd.unique(groups))


def _is_defined(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether the correlation of the two is defined."""
    return len(first) > 1 and np.ptp(first) > 0 and np.ptp(second) > 0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value from 1 on, (n,) float64; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _check(scores: np.ndarray, mos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, mos = np.asarray(scores, float).ravel(), np.asarray(mos, float).ravel()
    if scores.shape != mos.shape:
        raise ValueError(f"{len(scores)} scores do not match {len(mos)} opinions")
    if not (np.isfinite(scores).all() and np.isfinite(mos).all()):
        raise ValueError("scores and opinions must be finite")
    return scores, mos
