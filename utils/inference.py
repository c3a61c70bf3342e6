"""The one loop that scores photographs: for validation, test sets and loose files alike."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from data.datasets import collate_photographs
from utils.distributed import HostCopy
from utils.progress import Tally, progress_bar


@dataclass(frozen=True)
class Scores:
    """What became of a list of photographs.

    Attributes:
        scores: (n,) float64, NaN where a photograph could not be used.
        failures: (index, message) of those, in order.
        tally: images a second, and the share of the time in which the network waited for data.
    """

    scores: np.ndarray
    failures: list[tuple[int, str]]
    tally: Tally


def score_photographs(
    model: nn.Module,
    photographs: Dataset,
    device: torch.device,
    batch_size: int = 8,
    num_workers: int = 0,
    progress: str | None = None,
) -> Scores:
    """Score photographs; one that cannot be used is recorded and the rest go on.

    A score depends on the pixels, the model and the view specification alone: not on name, order, batch size (to 1e-5),
    worker count or process.

    Args:
        model: called with the views by name, gives (B, 1); put into evaluation mode and left there.
        photographs: samples as of `data.datasets.PhotographDataset`.
        device: where the model is.
        batch_size: photographs a forward pass.
        num_workers: processes (beside a GPU) or threads (on a CPU) that decode while the model works; 0 decodes between
            the batches.
        progress: label of a progress bar, shown on a terminal only; None for no bar.
    """
    count = len(photographs)
    scores = np.full(count, np.nan)
    failures: list[tuple[int, str]] = []
    tally = Tally()
    model.eval()
    under_way: tuple[np.ndarray, HostCopy] | None = None
    with torch.inference_mode(), progress_bar(count, progress) as bar:
        batches = _batches(photographs, batch_size, num_workers, device)
        for _ in range(0, count, batch_size):
            asked = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - asked
            failures += batch["errors"]
            launched = None
            if len(batch["index"]):
                views = {name: view.to(device, non_blocking=True) for name, view in batch["views"].items()}
                launched = batch["index"], HostCopy(model(**views).squeeze(1))
            # To fetch scores waits for them; those of one batch are fetched when a GPU has the next one to work on.
            if under_way:
                scores[under_way[0]] = under_way[1].read().double().numpy()
            under_way = launched
            tally.add(len(batch["index"]) + len(batch["errors"]), waited)
            bar.update(len(batch["index"]) + len(batch["errors"]))
        if under_way:
            scores[under_way[0]] = under_way[1].read().double().numpy()
    tally.stop()
    return Scores(scores, failures, tally)


def _batches(photographs: Dataset, batch_size: int, num_workers: int, device: torch.device) -> Iterator[dict]:
    """Yield the photographs in collated batches, the next two of which are under way."""
    if device.type != "cpu" or num_workers == 0:
        yield from DataLoader(
            photographs,
            batch_size=batch_size,
            num_workers=min(num_workers, len(photographs)),
            collate_fn=collate_photographs,
            pin_memory=device.type == "cuda",
        )
        return
    # The network fills the processor: threads decode without the copies of this process and of every batch that worker
    # processes would cost it. Beside a GPU they would hold up the thread that launches its kernels.
    with ThreadPoolExecutor(num_workers) as pool:
        try:
            ahead: deque = deque()
            for start in range(0, len(photographs), batch_size):
                indices = range(start, min(start + batch_size, len(photographs)))
                ahead.append([pool.submit(photographs.__getitem__, index) for index in indices])
                if len(ahead) > 2:
                    yield collate_photographs([sample.result() for sample in ahead.popleft()])
            for samples in ahead:
                yield collate_photographs([sample.result() for sample in samples])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
