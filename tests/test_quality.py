"""The objective is the weighted sum of its two terms."""

import pytest
import torch

from losses import fidelity_loss, quality_loss


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
    tensors = [torch.zeros(4, 1) if place == odd else torch.zeros(4) for place in range(4)]
    with pytest.raises(ValueError, match="one shape"):
        quality_loss(*tensors, lr_weight_L2=1.0, lr_weight_pair=1.0)
