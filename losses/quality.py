"""The training objective: squared errors plus the fidelity loss of pairs."""

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
    """Return `lr_weight_pair * fidelity + lr_weight_L2 * (MSE(first) + MSE(second))` and its terms.

    Source: arXiv 2409.00749, Sec. 3.4; the two weights are those of the released training code.

    Args:
        first, second: scores of each pair, any shape.
        mos_first, mos_second: opinions, same shape.
        lr_weight_L2: weight of the squared errors.
        lr_weight_pair: weight of the fidelity loss.

    Returns:
        `loss`, `fidelity` and `mse` (the sum of the two MSEs), scalars.

    Raises:
        ValueError: shapes differ; broadcasting (B,) with (B, 1) would compare every score with every opinion.
    """
    shapes = {tuple(tensor.shape) for tensor in (first, second, mos_first, mos_second)}
    if len(shapes) > 1:
        raise ValueError(f"scores and opinions must have one shape; got {sorted(shapes)}")
    fidelity = fidelity_loss(first, second, mos_first, mos_second)
    mse = mse_loss(first, mos_first) + mse_loss(second, mos_second)
    return {"loss": lr_weight_pair * fidelity + lr_weight_L2 * mse, "fidelity": fidelity, "mse": mse}


def all_pairs_loss(
    scores: torch.Tensor,
    mos: torch.Tensor,
    lr_weight_L2: float,
    lr_weight_pair: float,
    sources: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Return the objective over all n (n - 1) / 2 pairs of a batch of n images.

    Differs from the paper: its batch of 24 images forms 12 pairs. All pairs are 276, from the same decoding and forward
    pass. The MSE is doubled, so that both weights mean the same as in `quality_loss`.

    Opinions of different studies do not share a scale, so that images of two data sets cannot be ranked: with sources
    only pairs within one are formed (mixed-data-set training, UNIQUE, Zhang et al., IEEE TIP 2021, Sec. III).

    Args:
        scores, mos: (n,) each. Without any pair, as with n = 1, the fidelity loss is 0.
        lr_weight_L2, lr_weight_pair: as in `quality_loss`.
        sources: (n,) number of the data set that each image is from; None if all are from one.

    Returns:
        `loss`, `fidelity` (the mean over pairs) and `mse` (twice the MSE), scalars.

    Raises:
        ValueError: shapes differ or are not (n,).
    """
    if scores.shape != mos.shape or scores.dim() != 1:
        raise ValueError(f"scores and opinions must be (n,) each; got {tuple(scores.shape)} and {tuple(mos.shape)}")
    first, second = torch.triu_indices(len(scores), len(scores), offset=1, device=scores.device)
    if sources is not None:
        comparable = sources[first] == sources[second]
        first, second = first[comparable], second[comparable]
    has_pairs = len(first) > 0
    fidelity = fidelity_loss(scores[first], scores[second], mos[first], mos[second]) if has_pairs else 0 * scores.sum()
    mse = 2 * mse_loss(scores, mos)
    return {"loss": lr_weight_pair * fidelity + lr_weight_L2 * mse, "fidelity": fidelity, "mse": mse}
