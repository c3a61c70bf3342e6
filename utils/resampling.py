"""Bootstrap resamples as counts of how often each image was drawn, and correlations of images so weighted.

With counts, values are sorted once for all resamples, and whole groups of images can be drawn although the resamples
then differ in size. Counts are (b, n): b resamples of n images. A correlation is NaN in a resample that leaves it
undefined.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

ELEMENTS = 2**20  # of an array that is computed at once: 8 MB


def resample_counts(groups: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw groups of images with replacement, as many as there are.

    Args:
        groups: (n,) the group of each image; all different to resample single images.
        resamples: number of resamples.
        seed: of the draws.

    Yields:
        Counts (b, n) float64, `resamples` rows in all.
    """
    codes, names = pd.factorize(groups)
    generator = np.random.default_rng(seed)
    size = max(1, ELEMENTS // max(1, len(codes)))
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = generator.integers(0, len(names), (rows, len(names)))
        drawn += len(names) * np.arange(rows)[:, None]  # so that one bincount serves all rows
        counts = np.bincount(drawn.ravel(), minlength=rows * len(names)).reshape(rows, len(names))
        yield counts[:, codes].astype(float)


def pearson(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the correlation of x and y, (n,) or (b, n) each, in every resample: (b,)."""
    x, y = _centre(x, counts), _centre(y, counts)
    with np.errstate(invalid="ignore"):
        spread = np.sqrt((counts * x * x).sum(1)) * np.sqrt((counts * y * y).sum(1))
        return np.clip((counts * x * y).sum(1) / spread, -1, 1)


def _centre(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return values less their mean in each resample, (b, n); exactly 0 where all values of a resample are equal."""
    drawn = counts > 0
    is_constant = np.where(drawn, values, -np.inf).max(1) == np.where(drawn, values, np.inf).min(1)
    centred = values - (counts * values).sum(1, keepdims=True) / counts.sum(1, keepdims=True)
    centred[is_constant] = 0
    return centred


class _Ranking:
    """The order of n values of which some may be equal; m of them are different."""

    def __init__(self, values: np.ndarray):
        _, self.value_of = np.unique(values, return_inverse=True)  # (n,) which of the m values each is
        self.order = np.argsort(self.value_of, kind="stable")
        self.starts = np.searchsorted(self.value_of[self.order], np.arange(self.value_of.max() + 1))

    def value_counts(self, counts: np.ndarray) -> np.ndarray:
        """Return how often each value is in each resample, (b, m)."""
        return np.add.reduceat(counts[:, self.order], self.starts, axis=1)

    def ranks(self, counts: np.ndarray) -> np.ndarray:
        """Return the values' ranks in each resample, (b, n); equal values share their mean rank."""
        value_counts = self.value_counts(counts)
        return (np.cumsum(value_counts, axis=1) - (value_counts - 1) / 2)[:, self.value_of]

    def tied_pairs(self, counts: np.ndarray) -> np.ndarray:
        """Return the number of pairs of equal values in each resample, (b,)."""
        value_counts = self.value_counts(counts)
        return (value_counts * (value_counts - 1)).sum(1) / 2


class Spearman:
    """Spearman's rank correlation of x and y, (n,) each; called with counts, (b, n) -> (b,)."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self.rankings = _Ranking(x), _Ranking(y)

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        return pearson(*(ranking.ranks(counts) for ranking in self.rankings), counts)


class Kendall:
    """Kendall's tau-b of x and y, (n,) each; called with counts, (b, n) -> (b,).

    Discordant pairs are counted as in Knight's algorithm (JASA 1966), by merge sort, but for all resamples at once: in
    each merge a pair has one image in the left half and one in the right, and is discordant if the left one's y is
    larger.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self.x, self.y = _Ranking(x), _Ranking(y)
        self.both = _Ranking(self.x.value_of * len(self.y.starts) + self.y.value_of)
        order = np.lexsort((y, x))  # of equal x by y, so that they are never discordant
        place = np.arange(len(order))
        self.merges = []
        half = 1
        while half < len(order):
            merged = np.lexsort((place, y[order], place // (2 * half)))  # of equal y the left one first
            right = np.flatnonzero(merged // half % 2)
            last = np.minimum((right // (2 * half) + 1) * 2 * half, len(order)) - 1  # of the merge that each is in
            self.merges.append((order[merged], right, last))
            half *= 2

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        discordant = np.zeros(len(counts))
        for merged, right, last in self.merges:
            left = counts[:, merged]
            weights = left[:, right]
            left[:, right] = 0
            left = np.cumsum(left, axis=1)
            discordant += (weights * (left[:, last] - left[:, right])).sum(1)
        total = counts.sum(1)
        pairs = total * (total - 1) / 2
        x, y, both = (ranking.tied_pairs(counts) for ranking in (self.x, self.y, self.both))
        with np.errstate(invalid="ignore"):
            return np.clip((pairs - x - y + both - 2 * discordant) / np.sqrt(pairs - x) / np.sqrt(pairs - y), -1, 1)
