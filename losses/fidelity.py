"""The fidelity loss: how far the predicted probability that one image beats another is from the observed one."""

import torch

EPSILON = 1e-8


def pair_probability(difference: torch.Tensor) -> torch.Tensor:
    """Return Phi(difference), the probability that the first wins where differences have unit variance (Thurstone)."""
    return torch.special.ndtr(difference)


def fidelity_loss(
    first: torch.Tensor, second: torch.Tensor, mos_first: torch.Tensor, mos_second: torch.Tensor
) -> torch.Tensor:
    """Return the mean fidelity loss of pairs (Tsai et al., FRank, SIGIR 2007; arXiv 2409.00749, Sec. 3.4).

    With p = Phi(first - second) and g = Phi(mos_first - mos_second):
    `1 - sqrt(p g + 1e-8) - sqrt((1 - p)(1 - g) + 1e-8)`. It is 0 (to 1e-4) where p = g and at most 1.

    Args:
        first, second: scores of each pair, any shape.
        mos_first, mos_second: opinions, of the same shape.

    Returns:
        Scalar, float32 at least.
    """
    p = pair_probability(first - second)
    g = pair_probability(mos_first - mos_second)
    loss = 1 - torch.sqrt(p * g + EPSILON) - torch.sqrt((1 - p) * (1 - g) + EPSILON)
    return loss.mean()
