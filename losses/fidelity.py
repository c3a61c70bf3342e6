"""The fidelity loss: compares the predicted probability that one image is better than another with the observed one."""

import torch

EPSILON = 1e-8


def fidelity_loss(
    first: torch.Tensor, second: torch.Tensor, mos_first: torch.Tensor, mos_second: torch.Tensor
) -> torch.Tensor:
    """Return the mean fidelity loss of pairs (Tsai et al., FRank, SIGIR 2007; arXiv 2409.00749, Sec. 3.4).

    The probability that the first image is better is predicted as p = Phi(first - second) and observed as
    g = Phi(mos_first - mos_second) (Thurstone's model). The loss is
    `1 - sqrt(p g + 1e-8) - sqrt((1 - p)(1 - g) + 1e-8)`: 0 (to 1e-4) for p = g, and at most 1.

    Args:
        first, second: scores of each pair, any shape.
        mos_first, mos_second: opinions, same shape.

    Returns:
        Scalar.
    """
    p = torch.special.ndtr(first - second)
    g = torch.special.ndtr(mos_first - mos_second)
    loss = 1 - torch.sqrt(p * g + EPSILON) - torch.sqrt((1 - p) * (1 - g) + EPSILON)
    return loss.mean()
