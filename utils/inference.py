"""The one loop that scores photographs: for validation, test sets and loose files alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from data.datasets import PhotographDataset, collate_photographs
from data.views import ViewSpec
from utils.progress import progress_bar


@dataclass(frozen=True)
class Scores:
    """What became of a list of photographs.

    Attributes:
        scores: (n,) float64, NaN where a photograph could not be used.
        failures: (index, message) of those, in order.
    """

    scores: np.ndarray
    failures: list[tuple[int, str]]


def score_photographs(
    model: nn.Module,
    paths: Sequence[str],
    spec: ViewSpec,
    device: torch.device,
    batch_size: int = 8,
    num_workers: int = 0,
    draw: int = 0,
    progress: str | None = None,
) -> Scores:
    """Score image files; one that cannot be used is recorded and the rest go on.

    A score depends on the file's pixels, the model and the view specification alone: not on name, order, batch size (to
    1e-5), worker count or process.

    Args:
        model: called with the views by name, gives (B, 1); put into evaluation mode and left there.
        paths: of the image files.
        spec: how views are cut.
        device: where the model is.
        batch_size: photographs a forward pass.
        num_workers: processes that decode while the model works; 0 decodes in this one.
        draw: which draw of the fragments.
        progress: label of a progress bar, shown on a terminal only; None for no bar.
    """
    loader = DataLoader(
        PhotographDataset(paths, spec, draw=draw),
        batch_size=batch_size,
        num_workers=min(num_workers, len(paths)),
        collate_fn=collate_photographs,
        pin_memory=device.type == "cuda",
    )
    scores = np.full(len(paths), np.nan)
    failures: list[tuple[int, str]] = []
    model.eval()
    with torch.inference_mode(), progress_bar(len(paths), progress) as bar:
        for batch in loader:
            failures += batch["errors"]
            if len(batch["index"]):
                views = {name: view.to(device, non_blocking=True) for name, view in batch["views"].items()}
                scores[batch["index"]] = model(**views).squeeze(1).double().cpu().numpy()
            bar.update(len(batch["index"]) + len(batch["errors"]))
    return Scores(scores, failures)
