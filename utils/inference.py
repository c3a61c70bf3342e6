"""The one loop that scores photographs: for validation, test sets and loose files alike."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from data.datasets import collate_photographs
from models.uiqa import QualityModel
from utils.distributed import HostCopy, gather_objects, rank, unwrap, world_size
from utils.progress import Tally, progress_bar


class Photographs(Protocol):
    """What the scoring loop needs of a data set.

    Attributes:
        draws: fragment draws of each photograph's distortion view.
        is_ragged: whether photographs differ in how many patches they have, so that they cannot be stacked.
    """

    draws: int
    is_ragged: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict:
        """Return a sample as `data.datasets.PhotographDataset` does: views, or an `error`."""
        ...


@dataclass(frozen=True)
class Scores:
    """The scores of a list of n photographs.

    Attributes:
        scores: (n,) float64, NaN where a photograph could not be used.
        points: for each view what it adds to each score, (n,) float64; with the model's bias they sum to the score.
        draws: number of fragment draws that a score is averaged over.
        draw_sd: (n,) float64, s.d. of a score between draws (divisor draws - 1); NaN with one draw.
        maps: for each view, if asked for, the points of every place, (n, h, w) float32; `points` are their means.
        failures: (index, message) of the photographs that could not be used, in order.
        tally: images per second, and the fraction of the time in which the network waited for data.
    """

    scores: np.ndarray
    points: dict[str, np.ndarray]
    draws: int
    draw_sd: np.ndarray
    maps: dict[str, np.ndarray] | None
    failures: list[tuple[int, str]]
    tally: Tally


def score_photographs(
    model: nn.Module,
    photographs: Photographs,
    device: torch.device,
    batch_size: int = 8,
    num_workers: int = 0,
    progress: str | None = None,
    maps: bool = False,
    distributed: bool = True,
) -> Scores:
    """Score photographs; one that cannot be used is recorded and the rest go on.

    A score depends on the pixels, the model and the view specification alone: not on name, order, batch size (to 1e-5),
    worker count or process. Scores and what each view and place adds to them come from one forward pass.

    Eight parameters, because this is the one loop for every caller: what to score, where, how fast, and what to keep.

    Args:
        model: a `QualityModel`, alone or in DataParallel; put into evaluation mode and left there.
        photographs: what to score.
        device: where the model is.
        batch_size: photographs per forward pass; 1 is used if they are ragged.
        num_workers: processes (with a GPU) or threads (on a CPU) that decode while the model works; 0 decodes between
            the batches.
        progress: label of a progress bar, shown on a terminal only; None for no bar.
        maps: keep the points of every place.
        distributed: under torchrun each rank scores its part, no photograph twice, and all ranks get the whole result;
            False for work that one rank does alone.
    """
    count = len(photographs)
    batch_size = 1 if photographs.is_ragged else batch_size
    own = range(rank(), count, world_size()) if distributed else range(count)
    results = _Results(count)
    tally = Tally()
    model.eval()
    network = _Contributions(unwrap(model), maps)
    if isinstance(model, nn.DataParallel):
        network = nn.DataParallel(network, model.device_ids)
    in_flight: tuple[np.ndarray, dict[str, HostCopy]] | None = None
    with torch.inference_mode(), progress_bar(len(own), progress if rank() == 0 else None) as bar:
        batches = _batches(Subset(photographs, own), batch_size, num_workers, device)
        for _ in range(0, len(own), batch_size):
            asked = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - asked
            results.failures += batch["errors"]
            launched = None
            if len(batch["index"]):
                views = {name: view.to(device, non_blocking=True) for name, view in batch["views"].items()}
                outputs = network(**views)
                launched = batch["index"], {name: HostCopy(values) for name, values in outputs.items()}
            # Reading scores waits for them, so the previous batch is read once the GPU has this one to work on.
            if in_flight:
                results.put(*in_flight)
            in_flight = launched
            tally.add(len(batch["index"]) + len(batch["errors"]), waited)
            bar.update(len(batch["index"]) + len(batch["errors"]))
        if in_flight:
            results.put(*in_flight)
    if distributed and world_size() > 1:
        results.gather(own)
        tally.images = count
    tally.stop()
    names = unwrap(model).view_names
    return Scores(
        scores=results.column("score"),
        points={name: results.column(f"points_{name}") for name in names},
        draws=photographs.draws,
        draw_sd=results.column("draw_sd"),
        maps={name: results.values[f"map_{name}"] for name in names if f"map_{name}" in results.values}
        if maps
        else None,
        failures=results.failures,
        tally=tally,
    )


class _Results:
    """The outputs for a list of photographs as they come in.

    Attributes:
        values: each output by name, (n, ...), NaN where it has not come in.
        failures: (index, message).
    """

    def __init__(self, count: int):
        self.count = count
        self.values: dict[str, np.ndarray] = {}
        self.failures: list[tuple[int, str]] = []

    def column(self, name: str) -> np.ndarray:
        """Return an output of one number a photograph, (n,) float64; all NaN if no photograph has it."""
        return self.values.get(name, np.full(self.count, np.nan)).astype(float)

    def put(self, index: np.ndarray | range, outputs: dict[str, HostCopy | np.ndarray]) -> None:
        """Store the outputs of `_Contributions` for the photographs of an index."""
        for name, output in outputs.items():
            rows = output.read().float().numpy() if isinstance(output, HostCopy) else output
            if name not in self.values:
                self.values[name] = np.full((self.count, *rows.shape[1:]), np.nan, np.float32)
            self.values[name][index] = rows

    def gather(self, own: range) -> None:
        """Exchange results with the other ranks; this one has scored the photographs of `own`."""
        parts = gather_objects((own, {name: values[own] for name, values in self.values.items()}, self.failures))
        for index, outputs, _ in parts:
            self.put(index, outputs)
        self.failures = sorted(failure for *_, failures in parts for failure in failures)


class _Contributions(nn.Module):
    """Returns what the loop keeps of `QualityModel.contributions`, as a module that DataParallel can replicate.

    Returns:
        By name: `score`, `draw_sd` (NaN with one draw) and `points_<view>`, (B,) each; and, if asked for, `map_<view>`,
        (B, h, w).
    """

    def __init__(self, model: QualityModel, maps: bool):
        super().__init__()
        self.model = model
        self.maps = maps

    def forward(self, **views: torch.Tensor) -> dict[str, torch.Tensor]:
        contributions = self.model.contributions(**views)
        score = contributions["score"]
        score_of_draw = contributions.get("score_of_draw", score[:, None])  # (B, K)
        several = score_of_draw.shape[1] > 1
        outputs = {
            "score": score,
            "draw_sd": score_of_draw.std(dim=1) if several else torch.full_like(score, torch.nan),
        }
        for name in self.model.view_names:
            outputs[f"points_{name}"] = contributions[name].mean(dim=(1, 2))
            if self.maps:
                outputs[f"map_{name}"] = contributions[name]
        return outputs


def _batches(photographs: Subset, batch_size: int, num_workers: int, device: torch.device) -> Iterator[dict]:
    """Yield collated batches; the next two are already being decoded."""
    if device.type != "cpu" or num_workers == 0:
        yield from DataLoader(
            photographs,
            batch_size=batch_size,
            num_workers=min(num_workers, len(photographs)),
            collate_fn=collate_photographs,
            pin_memory=device.type == "cuda",
        )
        return
    # On a CPU threads decode: worker processes would copy this process and every batch. With a GPU they would hold up
    # the thread that launches its kernels.
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
