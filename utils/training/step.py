"""One step of training: the gradient of the loss over a whole batch, however it is divided, and what follows."""

import argparse
from contextlib import nullcontext

import torch
from torch import nn

from data.datasets import TARGETS
from data.views import ViewSpec
from losses import all_pairs_loss, quality_loss
from utils.distributed import add_up, gather_rows, rank, world_size
from utils.training.state import TrainingState

LOSSES = ("loss", "fidelity", "mse")
AMP = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def training_step(
    state: TrainingState,
    batch: dict,
    counts: list[int],
    scale: dict[str, float],
    spec: ViewSpec,
    options: argparse.Namespace,
) -> torch.Tensor:
    """Learn from one batch; arguments and result as of `backward`."""
    state.optimizer.zero_grad(set_to_none=True)
    losses = backward(state, batch, counts, scale, spec, options)
    if options.clip_grad:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), options.clip_grad)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.average(options.ema)
    return losses


def backward(
    state: TrainingState,
    batch: dict,
    counts: list[int],
    scale: dict[str, float],
    spec: ViewSpec,
    options: argparse.Namespace,
) -> torch.Tensor:
    """Add the gradient of the loss over the whole batch, of which several processes have a part each.

    Args:
        state: whose parameters get it.
        batch: this process's part, as of `data.datasets.collate_pairs`; it may be empty. With `--distill_from` it has
            the `teacher`'s scores.
        counts: photographs of every process's part.
        scale: `mean` and `sd`; the loss sees (mos - mean) / sd.
        spec: how the views are cut.
        options: of the command line.

    Returns:
        The losses of the whole batch, LOSSES, (3,) float32, without gradients; the same in every process.
    """
    device = next(state.model.parameters()).device
    weights = options.lr_weight_L2, options.lr_weight_pair
    own = counts[rank()]
    views = {name: view.to(device, non_blocking=True) for name, view in batch["views"].items()}
    targets = [(batch[name].to(device, non_blocking=True) - scale["mean"]) / scale["sd"] for name in _targets(options)]
    if own == 0:  # a blank photograph of no weight, for every process has to take part in the sum of the gradients
        views = {name: torch.zeros(1, 3, side, side, device=device) for name, side in spec.view_sizes.items()}
    found = torch.zeros(len(LOSSES), device=device)
    parts = _parts(own, options)
    for number, part in enumerate(parts):
        # Gradients are summed over the processes once, with the last part.
        waits = world_size() > 1 and number + 1 < len(parts)
        with state.network.no_sync() if waits else nullcontext():
            with torch.autocast(device.type, AMP[options.amp], enabled=options.amp != "off"):
                scores = state.network(**{name: view[part] for name, view in views.items()}).squeeze(1)
            if options.pairing == "batch":
                # Every process has the loss of all pairs, and its gradient with respect to its own scores.
                all_scores = torch.cat(gather_rows(scores[:own], counts))
                of_targets = [
                    all_pairs_loss(all_scores, torch.cat(gather_rows(target, counts)), *weights) for target in targets
                ]
                share, told = 1.0, 1 / world_size()
            elif own:
                of_targets = [quality_loss(*scores.chunk(2), *target[part].chunk(2), *weights) for target in targets]
                share = told = len(scores) / sum(counts)
            else:
                of_targets, share, told = [dict.fromkeys(LOSSES, 0 * scores.sum())], 1.0, 1.0
            losses = _together(of_targets, options.distill_weight)
            loss = losses["loss"] if own else losses["loss"] + 0 * scores.sum()
            # DistributedDataParallel takes the mean of the gradients; their sum is wanted.
            state.scaler.scale(loss * (share * world_size())).backward()
        found += told * torch.stack([losses[name].detach() for name in LOSSES])
    return add_up(found)


def _targets(options: argparse.Namespace) -> tuple[str, ...]:
    """Return what the scores of a batch are held against."""
    return TARGETS if options.distill_from else TARGETS[:1]


def _together(of_targets: list[dict[str, torch.Tensor]], distill_weight: float) -> dict[str, torch.Tensor]:
    """Return the losses against the opinions, whose `loss` has a share of the loss against a teacher's scores."""
    opinions, *teacher = of_targets
    return opinions | {"loss": opinions["loss"] + sum(distill_weight * losses["loss"] for losses in teacher)}


def _parts(own: int, options: argparse.Namespace) -> list[slice | torch.Tensor]:
    """Return which photographs of a batch of firsts and seconds pass through the network together."""
    if options.accumulate == 1 or own == 0:
        return [slice(None)]
    pairs = torch.arange(own // 2).tensor_split(min(options.accumulate, own // 2))
    return [torch.cat([firsts, firsts + own // 2]) for firsts in pairs]
