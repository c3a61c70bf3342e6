"""The five measures and their intervals."""

import math

import numpy as np
import pytest
from scipy import stats

from utils import metrics
from utils.metrics import (
    MEASURES,
    bootstrap_distribution,
    bootstrap_intervals,
    iqa_metrics,
    mapped_metrics,
    selection_criterion,
)


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    mos = generator.normal(0.7, 0.05, 120)
    return mos + generator.normal(0, 0.03, 120), mos


def test_the_measures_are_the_fields(sample):
    scores, mos = sample
    measures = iqa_metrics(scores, mos)
    assert list(measures) == list(MEASURES)
    rank = lambda values: np.argsort(np.argsort(values))  # noqa: E731
    assert measures["SRCC"] == pytest.approx(np.corrcoef(rank(scores), rank(mos))[0, 1])
    assert measures["KRCC"] == pytest.approx(stats.kendalltau(scores, mos).statistic)
    assert measures["PLCC"] == pytest.approx(np.corrcoef(scores, mos)[0, 1])
    assert measures["RMSE"] == pytest.approx(math.sqrt(np.mean((scores - mos) ** 2)))
    assert measures["MAE"] == pytest.approx(np.abs(scores - mos).mean())


@pytest.mark.parametrize("scale", [1e-300, 1e-3, 1, 1e300])
def test_correlations_are_scipys_also_with_ties_and_at_any_scale(scale):
    generator = np.random.default_rng(3)
    for n in (2, 3, 20, 200):
        scores, mos = (np.append([0, 9], generator.integers(0, 9, n - 2)) * scale for _ in range(2))
        measures = iqa_metrics(scores, mos)
        assert measures["SRCC"] == pytest.approx(stats.spearmanr(scores, mos).statistic, abs=1e-12)
        assert measures["KRCC"] == pytest.approx(stats.kendalltau(scores, mos).statistic, abs=1e-12)
        assert measures["PLCC"] == pytest.approx(stats.pearsonr(scores / scale, mos / scale).statistic, abs=1e-12)


def test_a_rising_transform_leaves_the_ranks_alone(sample):
    scores, mos = sample
    plain, bent = iqa_metrics(scores, mos), iqa_metrics(np.exp(5 * scores), mos)
    assert bent["SRCC"] == pytest.approx(plain["SRCC"])
    assert bent["KRCC"] == pytest.approx(plain["KRCC"])
    assert bent["PLCC"] != pytest.approx(plain["PLCC"])


def test_ranks_are_of_raw_scores_even_where_the_mapping_falls(sample):
    scores, mos = sample
    measures = mapped_metrics(-scores, scores, mos)
    rising = iqa_metrics(scores, mos)
    assert measures == pytest.approx(rising | {"SRCC": -rising["SRCC"], "KRCC": -rising["KRCC"]})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("scores", "mos"), [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([1], [2])])
def test_undefined_correlations_are_nan_without_a_warning_and_errors_are_not(scores, mos):
    measures = iqa_metrics(np.array(scores), np.array(mos))
    assert all(math.isnan(measures[name]) for name in ("SRCC", "KRCC", "PLCC"))
    assert math.isfinite(measures["RMSE"])
    assert math.isfinite(measures["MAE"])


def test_no_images_have_no_measures():
    assert all(math.isnan(value) for value in iqa_metrics(np.array([]), np.array([])).values())


@pytest.mark.parametrize(
    ("scores", "mos"), [([1.0, np.nan], [1.0, 2.0]), ([1.0, 2.0], [np.inf, 1.0]), ([1.0], [1.0, 2.0])]
)
def test_values_that_cannot_be_compared_are_refused(scores, mos):
    with pytest.raises(ValueError, match=r"finite|match"):
        iqa_metrics(np.array(scores), np.array(mos))


def test_the_criterion_rewards_correlation_and_punishes_error():
    measures = {"SRCC": 0.8, "KRCC": 0.6, "PLCC": 0.7, "RMSE": 0.05, "MAE": 0.04}
    assert selection_criterion(measures) == pytest.approx(0.8 + 0.6 + 0.7 - 0.05 - 0.04)


def test_intervals_are_reproducible_and_hold_the_measure(sample):
    scores, mos = sample
    intervals = bootstrap_intervals(scores, scores, mos, resamples=300)
    assert intervals == bootstrap_intervals(scores, scores, mos, resamples=300)
    assert intervals != bootstrap_intervals(scores, scores, mos, resamples=300, seed=1)
    for name, value in iqa_metrics(scores, mos).items():
        assert intervals[name][0] < value < intervals[name][1]


def test_more_images_make_narrower_intervals(sample):
    scores, mos = sample
    few = bootstrap_intervals(scores[:20], scores[:20], mos[:20], resamples=300)["SRCC"]
    many = bootstrap_intervals(scores, scores, mos, resamples=300)["SRCC"]
    assert many[1] - many[0] < few[1] - few[0]


def test_perfect_scores_leave_no_doubt(sample):
    _, mos = sample
    intervals = bootstrap_intervals(mos, mos, mos, resamples=100)
    for name, limits in intervals.items():
        assert limits == pytest.approx([1, 1] if name.endswith("CC") else [0, 0])


def test_the_interval_of_the_mean_error_is_the_textbooks():
    """MAE of normal errors: the percentile bootstrap must come close to mean +- 1.96 standard errors."""
    errors = np.random.default_rng(4).normal(0, 1, 400)
    low, high = bootstrap_intervals(errors, errors, np.zeros(400), resamples=1000)["MAE"]
    mean, half = np.abs(errors).mean(), 1.96 * np.abs(errors).std() / 20
    assert low == pytest.approx(mean - half, abs=0.1 * half)
    assert high == pytest.approx(mean + half, abs=0.1 * half)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
def test_two_images_have_intervals_and_fewer_have_none(n):
    """Of few images many resamples hold only one, which has no correlation; they must not spoil the others."""
    scores = np.arange(n, dtype=float)
    intervals = bootstrap_intervals(scores, scores, scores, resamples=100)
    assert list(intervals) == list(MEASURES)
    assert np.isfinite(list(intervals.values())).all() == (n >= 2)


def widths(intervals: dict[str, list[float]]) -> np.ndarray:
    return np.array([high - low for low, high in intervals.values()])


def test_images_that_are_groups_of_their_own_are_resampled_as_without_groups(sample):
    scores, mos = sample
    names = np.array([f"{number}" for number in range(len(mos))])
    assert bootstrap_intervals(scores, scores, mos, groups=names) == bootstrap_intervals(scores, scores, mos)


def test_copies_of_images_add_nothing_if_they_are_resampled_together(sample):
    """Five copies of each image make the intervals of single images too narrow by sqrt(5), and those of groups not."""
    scores, mos = sample
    copied = np.repeat(scores, 5), np.repeat(scores, 5), np.repeat(mos, 5)
    once = bootstrap_intervals(scores, scores, mos)
    together = bootstrap_intervals(*copied, groups=np.repeat(np.arange(len(mos)), 5))
    apart = bootstrap_intervals(*copied)
    np.testing.assert_allclose(widths(together), widths(once), rtol=1e-9)
    np.testing.assert_allclose(widths(once) / widths(apart), math.sqrt(5), rtol=0.15)


def test_one_group_has_no_intervals(sample):
    scores, mos = sample
    assert np.isnan(widths(bootstrap_intervals(scores, scores, mos, groups=np.zeros(len(mos))))).all()


@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(10), 4)])
def test_the_draws_do_not_depend_on_how_many_are_held_in_memory(groups, monkeypatch):
    def draw() -> np.ndarray:
        return bootstrap_distribution(lambda index: [float(index.sum()), float(len(index))], 40, groups, 50, seed=3)

    whole = draw()
    monkeypatch.setattr(metrics, "DRAWN_AT_ONCE", 100)
    np.testing.assert_array_equal(draw(), whole)
