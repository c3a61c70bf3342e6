"""The objective is the weighted sum of its two terms."""

import pytest
import torch

from losses import all_pairs_loss, fidelity_loss, quality_loss


@pytest.mark.parametrize(("l2", "pair"), [(0.1, 1.0), (2.0, 0.0), (0.0, 3.0), (0.0, 0.0)])
def test_it_is_the_weighted_sum_of_its_terms(l2, pair):
    first, second, mos_first, mos_second = torch.randn(4, 12)
    losses = quality_loss(first, second, mos_first, mos_second, lr_weight_L2=l2, lr_weight_pair=pair)
    mse = ((first - mos_first) ** 2).mean() + ((second - mos_second) ** 2).mean()
    torch.testing.assert_close(losses["mse"], mse)
    torch.testing.assert_close(losses["fidelity"], fidelity_loss(first, second, mos_first, mos_second))
    torch.testing.assert_close(losses["loss"], pair * losses["fidelity"] + l2 * mse)


@pytest.mark.parametrize("odd", range(4))
def test_shapes_that_would_broadcast_are_refused(odd):
    tensors = [torch.zeros(4, 1) if index == odd else torch.zeros(4) for index in range(4)]
    with pytest.raises(ValueError, match="one shape"):
        quality_loss(*tensors, lr_weight_L2=1.0, lr_weight_pair=1.0)


def test_the_loss_of_all_pairs_is_the_mean_over_pairs():
    scores, mos = torch.randn(7), torch.rand(7)
    losses = all_pairs_loss(scores, mos, lr_weight_L2=0.1, lr_weight_pair=1.0)
    pairs = [(i, j) for i in range(7) for j in range(i)]
    each = [fidelity_loss(*(values[[k]] for values in (scores, mos) for k in (i, j))) for i, j in pairs]
    torch.testing.assert_close(losses["fidelity"], torch.stack(each).mean())
    torch.testing.assert_close(losses["mse"], 2 * ((scores - mos) ** 2).mean())
    torch.testing.assert_close(losses["loss"], losses["fidelity"] + 0.1 * losses["mse"])


def test_a_single_score_has_no_pair():
    losses = all_pairs_loss(torch.tensor([0.5], requires_grad=True), torch.tensor([0.3]), 1.0, 1.0)
    assert losses["fidelity"] == 0
    losses["loss"].backward()


def test_all_pairs_refuses_other_shapes():
    with pytest.raises(ValueError, match="scores and opinions"):
        all_pairs_loss(torch.zeros(3), torch.zeros(2), 1.0, 1.0)


def test_only_images_of_one_source_form_pairs():
    scores, mos = torch.randn(7), torch.rand(7)
    sources = torch.tensor([0, 1, 0, 1, 1, 0, 2])
    losses = all_pairs_loss(scores, mos, 0.1, 1.0, sources)
    pairs = [(i, j) for i in range(7) for j in range(i) if sources[i] == sources[j]]
    each = [fidelity_loss(*(values[[k]] for values in (scores, mos) for k in (i, j))) for i, j in pairs]
    torch.testing.assert_close(losses["fidelity"], torch.stack(each).mean())
    torch.testing.assert_close(losses["mse"], 2 * ((scores - mos) ** 2).mean())
    assert all_pairs_loss(scores, mos, 0.1, 1.0, torch.arange(7))["fidelity"] == 0
