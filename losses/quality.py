"""The training objective: absolute accuracy and ranking of pairs together."""

import torch
from torch.nn.functional import mse_loss

from losses.fidelity import fidelity_loss


def quality_loss(
    first: torch.Tensor,
    second: torch.Tensor,
    mos_first: torch.Tensor,
    mos_second: torch.Tensor,
    lr_weight_L2: float,
    lr_weight_pair: float,
) -> dict[str, torch.Tensor]:
    """Return `lr_weight_pair * fidelity + lr_weight_L2 * (MSE(first) + MSE(second))` and its parts.

    Source: arXiv 2409.00749, Sec. 3.4, and the released training code for the two weights.

    Args:
        first, second: scores of each pair, any shape.
        mos_first, mos_second: opinions, of the same shape.
        lr_weight_L2: weight of the squared errors.
        lr_weight_pair: weight of the fidelity loss.

    Returns:
        `loss`, `fidelity` and `mse` (the sum of both means), scalars.

    Raises:
        ValueError: shapes differ; broadcasting (B,) against (B, 1) would compare every score with every opinion.
    """
    shapes = {tuple(tensor.shape) for tensor in (first, second, mos_first, mos_second)}
    if len(shapes) > 1:
        raise ValueError(f"scores and opinions must have one shape; got {sorted(shapes)}")
    fidelity = fidelity_loss(first, second, mos_first, mos_second)
    mse = mse_loss(first, mos_first) + mse_loss(second, mos_second)
    return {"loss": lr_weight_pair * fidelity + lr_weight_L2 * mse, "fidelity": fidelity, "mse": mse}
