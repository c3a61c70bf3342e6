"""Resamples: each is what copying the drawn images would give, and groups are drawn as wholes."""

import warnings

import numpy as np
import pytest
from scipy import stats

from utils.resampling import ELEMENTS, Kendall, Spearman, pearson, resample_counts


def all_counts(groups: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    return np.concatenate(list(resample_counts(groups, resamples, seed)))


@pytest.mark.parametrize("n", [2, 3, 7, 64, 65])
@pytest.mark.parametrize("decimals", [0, 9])
def test_a_resample_has_the_correlations_that_scipy_gives_its_copied_images(n, decimals):
    """Few images make undefined resamples, and rounding makes ties."""
    generator = np.random.default_rng(n)
    x = generator.normal(size=n).round(decimals)
    y = (x + generator.normal(size=n)).round(decimals)
    counts = all_counts(np.arange(n), 30)
    results = Spearman(x, y)(counts), Kendall(x, y)(counts), pearson(x, y, counts)
    for row, drawn in enumerate(counts.astype(int)):
        copied = np.repeat(np.arange(n), drawn)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about constant values
            tests = [test(x[copied], y[copied]) for test in (stats.spearmanr, stats.kendalltau, stats.pearsonr)]
        expected = [test.statistic for test in tests]
        np.testing.assert_allclose([values[row] for values in results], expected, atol=1e-10)


def test_images_are_drawn_as_scipy_draws_them():
    index = np.random.default_rng(4).integers(0, 50, (20, 50))
    expected = [np.bincount(row, minlength=50) for row in index]
    np.testing.assert_array_equal(all_counts(np.arange(50), 20, seed=4), expected)


def test_the_images_of_a_group_are_drawn_together_and_as_many_groups_as_there_are():
    groups = np.array(["b", "a", "b", "c", "a", "b"])
    counts = all_counts(groups, 200)
    for name in "abc":
        members = counts[:, groups == name]
        assert (members == members[:, :1]).all()
    firsts = counts[:, [0, 1, 3]]
    assert (firsts.sum(1) == 3).all()
    assert firsts.mean(0) == pytest.approx(1, abs=0.2)


def test_many_images_are_resampled_in_pieces_that_do_not_change_the_draws():
    groups = np.arange(ELEMENTS // 4)
    pieces = list(resample_counts(groups, 6, 0))
    assert [len(piece) for piece in pieces] == [4, 2]
    index = np.random.default_rng(0).integers(0, len(groups), (6, len(groups)))
    np.testing.assert_array_equal(pieces[1][-1], np.bincount(index[-1], minlength=len(groups)))
