"""The fidelity loss and its formula."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from losses.fidelity import fidelity_loss


def test_it_is_the_papers_formula():
    first, second, mos_first, mos_second = np.random.default_rng(0).normal(0, 1.5, (4, 50))
    p, g = norm.cdf(first - second), norm.cdf(mos_first - mos_second)
    expected = (1 - np.sqrt(p * g + 1e-8) - np.sqrt((1 - p) * (1 - g) + 1e-8)).mean()
    loss = fidelity_loss(*(torch.tensor(values) for values in (first, second, mos_first, mos_second)))
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_the_loss_is_zero_if_scores_differ_as_the_opinions_do():
    mos = torch.randn(2, 40)
    assert fidelity_loss(mos[0] + 3, mos[1] + 3, mos[0], mos[1]).abs() < 1e-4


def test_swapping_the_images_of_a_pair_changes_nothing():
    first, second, mos_first, mos_second = torch.randn(4, 30, dtype=torch.float64)
    forwards = fidelity_loss(first, second, mos_first, mos_second)
    torch.testing.assert_close(forwards, fidelity_loss(second, first, mos_second, mos_first))


def test_the_loss_grows_the_further_a_pair_is_reversed():
    mos = torch.tensor([1.0]), torch.tensor([0.0])
    losses = [fidelity_loss(torch.tensor([-d]), torch.tensor([d]), *mos).item() for d in (-0.5, 0.0, 0.5, 2.0)]
    assert losses == sorted(losses)
    assert losses[0] < 1e-4
    assert losses[-1] <= 1


@pytest.mark.parametrize("opinions", [-50.0, 1.0, 50.0])
@pytest.mark.parametrize("difference", [-50.0, 0.0, 50.0])
def test_loss_and_gradients_stay_finite_for_extreme_differences(difference, opinions):
    first = torch.tensor([difference], requires_grad=True)
    loss = fidelity_loss(first, torch.zeros(1), torch.tensor([opinions]), torch.zeros(1))
    loss.backward()
    assert -1.1e-4 < loss.item() <= 1
    assert torch.isfinite(first.grad).all()
