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


def all_pairs_loss(
    scores: torch.Tensor, mos: torch.Tensor, lr_weight_L2: float, lr_weight_pair: float
) -> dict[str, torch.Tensor]:
    """Return the objective over every pair of a batch: n (n - 1) / 2 pairs from n scores.

    Differs from the paper: its 24 images make 12 pairs; here they make 276, for the same decoding and the same forward
    pass. The squared errors count twice their mean, so that the weights keep their meaning.

    Args:
        scores, mos: (n,) each. A single score has no pair: its fidelity loss is 0.
        lr_weight_L2, lr_weight_pair: as in `quality_loss`.

    Returns:
        `loss`, `fidelity` (the mean over pairs) and `mse` (twice the mean), scalars.

    Raises:
        ValueError: shapes differ or are not one-dimensional.
    """
    if scores.shape != mos.shape or scores.dim() != 1:
        raise ValueError(f"scores and opinions must be (n,) each; got {tuple(scores.shape)} and {tuple(mos.shape)}")
    if len(scores) > 1:
        first, second = torch.triu_indices(len(scores), len(scores), offset=1, device=scores.device)
        fidelity = fidelity_loss(scores[first], scores[second], mos[first], mos[second])
    else:
        fidelity = 0 * scores.sum()
    mse = 2 * mse_loss(scores, mos)
    return {"loss": lr_weight_pair * fidelity + lr_weight_L2 * mse, "fidelity": fidelity, "mse": mse}
