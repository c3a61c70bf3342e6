"""The loss of a batch that may be divided over ranks and over several passes through the network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from losses import all_pairs_loss, quality_loss
from utils.distributed import gather_rows, world_size

LOSSES = ("loss", "fidelity", "mse")
AMP_DTYPES = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Objective:
    """The training loss: the paper's pairs, or all pairs of a batch.

    Attributes:
        pairing: "partner": the first half of the scores is paired with the second; "batch": all pairs, across ranks.
        lr_weight_L2, lr_weight_pair: weights of the squared errors and of the fidelity loss.
        distill_weight: weight of the same loss against a teacher's scores, where a batch has them.
    """

    pairing: str
    lr_weight_L2: float
    lr_weight_pair: float
    distill_weight: float

    def __call__(
        self,
        scores: torch.Tensor,
        targets: list[torch.Tensor],
        counts: list[int],
        sources: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of a part of the batch.

        Args:
            scores: (n,) of this rank's part; n may be 0.
            targets: opinions and, with a teacher, its scores; (n,) each.
            counts: photographs of the whole batch on every rank.
            sources: (n,) number of the data set of each photograph of this rank, which only "batch" needs: partners are
                of one data set.

        Returns:
            The loss to differentiate: summed over parts and ranks, its gradients are those of the whole batch. And
            LOSSES as numbers, (3,) without gradients: summed over parts and ranks, those of the whole batch.
        """
        weights = self.lr_weight_L2, self.lr_weight_pair
        if self.pairing == "batch":
            # Every rank computes the loss of all pairs, and its gradient with respect to its own scores.
            all_scores = torch.cat(gather_rows(scores, counts))
            all_sources = None if sources is None else torch.cat(gather_rows(sources, counts))
            losses = [
                all_pairs_loss(all_scores, torch.cat(gather_rows(target, counts)), *weights, all_sources)
                for target in targets
            ]
            weight, reported_weight = 1.0, 1 / world_size()
        elif len(scores):
            losses = [quality_loss(*scores.chunk(2), *target.chunk(2), *weights) for target in targets]
            weight = reported_weight = len(scores) / sum(counts)
        else:  # no photograph on this rank: a zero that still reaches every parameter
            losses, weight, reported_weight = [dict.fromkeys(LOSSES, scores.sum())], 1.0, 1.0
        total = losses[0]["loss"] + sum(self.distill_weight * teacher["loss"] for teacher in losses[1:])
        values = torch.stack([total, losses[0]["fidelity"], losses[0]["mse"]]).detach()
        return weight * total, reported_weight * values


def split_batch(
    batch: dict, target_names: Sequence[str], accumulate: int, view_sizes: dict[str, int], device: torch.device
) -> Iterator[tuple[dict[str, torch.Tensor], list[torch.Tensor], bool]]:
    """Yield a rank's batch in the parts that pass through the network at once, on the device.

    Args:
        batch: of `data.datasets.collate_pairs`; it may be empty.
        target_names: what the scores are compared with, of `data.datasets.TARGETS`.
        accumulate: number of parts; each keeps first images and partners together.
        view_sizes: side of each view, pixels.
        device: where the network is.

    Yields:
        Views by name, the targets (n,) each, and whether it is the last part. An empty batch yields one blank
        photograph without targets, because DistributedDataParallel needs a backward pass from every rank.
    """
    views = {name: view.to(device, non_blocking=True) for name, view in batch["views"].items()}
    targets = [batch[name].to(device, non_blocking=True) for name in target_names]
    count = len(targets[0])
    if count == 0:
        views = {name: torch.zeros(1, 3, size, size, device=device) for name, size in view_sizes.items()}
    if accumulate == 1 or count == 0:
        yield views, targets, True
        return
    first_images = torch.arange(count // 2).tensor_split(min(accumulate, count // 2))
    for number, first in enumerate(first_images, start=1):
        index = torch.cat([first, first + count // 2])
        part = {name: view[index] for name, view in views.items()}
        yield part, [target[index] for target in targets], number == len(first_images)
