"""The scoring loop shared by validation, evaluation and prediction."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from data.datasets import collate_photographs
from models.uiqa import QualityModel
from utils.distributed import HostCopy, all_gather_objects, rank, unwrap, world_size
from utils.precision import autocast
from utils.progress import Tally, progress_bar
from utils.workers import collate_in_shared_memory

NOT_FINITE = "its score is not a finite number"


class Photographs(Protocol):
    """What the scoring loop needs of a data set.

    Attributes:
        paths: names of the photographs, for messages.
        draws: fragment draws of each photograph's distortion view.
        is_ragged: whether photographs differ in how many patches they have, so that they cannot be stacked.
    """

    paths: Sequence
    draws: int
    is_ragged: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict:
        """Return a sample as `data.datasets.PhotographDataset` does: views, or an `error`."""
        ...


@dataclass(frozen=True)
class ScoredBatch:
    """One batch after the forward pass. b photographs were scored, the others failed.

    Attributes:
        index: (b,) int64, positions in the data set.
        outputs: `score`, `draw_sd` and `points_<view>`, (b,) float32 each, and on request `map_<view>`, (b, h, w).
        failures: (index, message) of the photographs that could not be used.
        views: what the model read, (b, ...) uint8 each on the CPU.
        images: the decoded photographs, (H, W, 3) uint8 each, if the data set keeps them; else empty.
        waited: seconds for which the loop waited for this batch's data.
        reduced: what the data set reduced each photograph to, if it does; else empty.
    """

    index: np.ndarray
    outputs: dict[str, np.ndarray]
    failures: list[tuple[int, str]]
    views: dict[str, torch.Tensor]
    images: list[np.ndarray]
    waited: float
    reduced: list = field(default_factory=list)


@dataclass(frozen=True)
class Scores:
    """The scores of a list of n photographs.

    Attributes:
        scores: (n,) float64, NaN where a photograph could not be used.
        points: for each view what it adds to each score, (n,) float64; with the model's bias they sum to the score.
        draws: number of fragment draws that a score is averaged over.
        draw_sd: (n,) float64, s.d. of a score between draws (divisor draws - 1); NaN with one draw.
        maps: for each view the points of every place, (n, h, w) float32, whose means are `points`; empty if they were
            not requested or no photograph could be used.
        failures: (index, message) of the photographs that could not be used, in order.
        tally: images per second, and the fraction of the time spent waiting for data.
    """

    scores: np.ndarray
    points: dict[str, np.ndarray]
    draws: int
    draw_sd: np.ndarray
    maps: dict[str, np.ndarray]
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
    precision: str = "fp32",
) -> Scores:
    """Score photographs; unusable ones are recorded, the others scored.

    A score depends only on the pixels, the model and the view specification, not on file name, order, batch size (to
    1e-5), worker count or rank.

    Its nine parameters are those of `score_batches` and `collect_scores`; see there.
    """
    batches = score_batches(model, photographs, device, batch_size, num_workers, maps, distributed, precision)
    return collect_scores(batches, photographs, unwrap(model).view_names, progress, distributed)


def score_batches(
    model: nn.Module,
    photographs: Photographs,
    device: torch.device,
    batch_size: int = 8,
    num_workers: int = 0,
    maps: bool = False,
    distributed: bool = True,
    precision: str = "fp32",
) -> Iterator[ScoredBatch]:
    """Score photographs batch by batch, in order.

    Args:
        model: a `QualityModel`, bare or in DataParallel; it is put into evaluation mode and stays there.
        photographs: what to score.
        device: where the model is.
        batch_size: photographs per forward pass; ragged photographs are scored one by one.
        num_workers: processes (with a GPU) or threads (on a CPU) that decode while the model runs; 0 decodes between
            batches.
        maps: also output the points of every place.
        distributed: under torchrun score only this rank's photographs.
        precision: of the trunks, a key of `utils.precision.DTYPES`.
    """
    batch_size = 1 if photographs.is_ragged else batch_size
    own = _own_indices(photographs, distributed)
    model.eval()
    network = _Contributions(unwrap(model), maps, precision)
    if isinstance(model, nn.DataParallel):
        network = nn.DataParallel(network, model.device_ids)
    batches = load_batches(Subset(photographs, own), batch_size, num_workers, device)
    previous = None
    for _ in range(0, len(own), batch_size):
        started = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - started
        outputs = {}
        if len(batch["index"]):
            with torch.inference_mode():
                views = {name: view.to(device, non_blocking=True) for name, view in batch["views"].items()}
                outputs = {name: HostCopy(values) for name, values in network(**views).items()}
        # Reading outputs waits for them, so the previous batch is read only after the GPU has received this one.
        if previous is not None:
            yield _read_batch(*previous, photographs.paths)
        previous = batch, outputs, waited
    if previous is not None:
        yield _read_batch(*previous, photographs.paths)


def collect_scores(
    batches: Iterable[ScoredBatch],
    photographs: Photographs,
    view_names: Sequence[str],
    progress: str | None = None,
    distributed: bool = True,
) -> Scores:
    """Gather the batches of `score_batches` into one result.

    Args:
        batches: all batches of this rank.
        photographs, distributed: as for `score_batches`. Under torchrun every rank receives the scores of all.
        view_names: the model's.
        progress: label of a progress bar, shown on terminals only; None for no bar.
    """
    count, parts, tally = len(photographs), [], Tally()
    with progress_bar(len(_own_indices(photographs, distributed)), progress if rank() == 0 else None) as bar:
        for batch in batches:
            parts.append((batch.index, batch.outputs, batch.failures))
            images = len(batch.index) + len(batch.failures)
            tally.add(images, batch.waited)
            bar.update(images)
    if distributed:
        parts = [part for parts_of_rank in all_gather_objects(parts) for part in parts_of_rank]
        tally.images = count
    tally.stop()
    return assemble_scores(parts, count, photographs.draws, view_names, tally)


def assemble_scores(
    parts: Sequence[tuple[np.ndarray, dict[str, np.ndarray], list[tuple[int, str]]]],
    count: int,
    draws: int,
    view_names: Sequence[str],
    tally: Tally,
) -> Scores:
    """Return the index, outputs and failures of batches as scores in the order of their `count` photographs."""
    columns = ["score", "draw_sd", *(f"points_{name}" for name in view_names)]
    values = {name: np.full(count, np.nan) for name in columns}
    for index, outputs, _ in parts:
        for name, rows in outputs.items():
            if name not in values:
                values[name] = np.full((count, *rows.shape[1:]), np.nan, np.float32)
            values[name][index] = rows
    return Scores(
        scores=values["score"],
        points={name: values[f"points_{name}"] for name in view_names},
        draws=draws,
        draw_sd=values["draw_sd"],
        maps={name: values[f"map_{name}"] for name in view_names if f"map_{name}" in values},
        failures=sorted(failure for *_, failures in parts for failure in failures),
        tally=tally,
    )


def _own_indices(photographs: Photographs, distributed: bool) -> range:
    """Return the photographs that this rank scores."""
    return range(rank(), len(photographs), world_size()) if distributed else range(len(photographs))


def _read_batch(batch: dict, outputs: dict[str, HostCopy], waited: float, paths: Sequence) -> ScoredBatch:
    """Wait for the outputs of a collated batch; a score that is not finite is a failure of its photograph."""
    arrays = {name: output.read().float().numpy() for name, output in outputs.items()}
    index, failures, views = batch["index"], list(batch["errors"]), batch["views"]
    images, reduced = batch.get("images", []), batch.get("reduced", [])
    finite = np.isfinite(arrays["score"]) if arrays else np.ones(0, bool)
    if not finite.all():
        failures += [
            (int(position), f"{paths[position]}: {NOT_FINITE}, but {score}; are the weights sound?")
            for position, score in zip(index[~finite], arrays["score"][~finite], strict=True)
        ]
        index = index[finite]
        arrays = {name: rows[finite] for name, rows in arrays.items()}
        views = {name: view[torch.from_numpy(finite)] for name, view in views.items()}
        images, reduced = (
            [entry for entry, is_finite in zip(entries, finite, strict=False) if is_finite]
            for entries in (images, reduced)
        )
    return ScoredBatch(index, arrays, failures, views, images, waited, reduced)


class _Contributions(nn.Module):
    """Computes the outputs of a `ScoredBatch`; a module, so that DataParallel can replicate it."""

    def __init__(self, model: QualityModel, maps: bool, precision: str):
        super().__init__()
        self.model = model
        self.maps = maps
        self.precision = precision

    def forward(self, **views: torch.Tensor) -> dict[str, torch.Tensor]:
        with autocast(self.precision, next(iter(views.values())).device):  # here, because threads do not inherit it
            contributions = self.model.contributions(**views)
        score = contributions["score"]
        score_of_draw = contributions.get("score_of_draw", score[:, None])  # (B, K)
        has_spread = score_of_draw.shape[1] > 1
        outputs = {
            "score": score,
            "draw_sd": score_of_draw.std(dim=1) if has_spread else torch.full_like(score, torch.nan),
        }
        for name in self.model.view_names:
            outputs[f"points_{name}"] = contributions[name].mean(dim=(1, 2))
            if self.maps:
                outputs[f"map_{name}"] = contributions[name]
        return outputs


def load_batches(photographs: Dataset, batch_size: int, num_workers: int, device: torch.device) -> Iterator[dict]:
    """Yield collated batches while the next two are being decoded."""
    if device.type != "cpu" or num_workers == 0:
        yield from DataLoader(
            photographs,
            batch_size=batch_size,
            num_workers=min(num_workers, len(photographs)),
            collate_fn=partial(collate_in_shared_memory, collate_photographs),
            pin_memory=device.type == "cuda",
        )
        return
    # Threads on a CPU, because worker processes would copy this process and every batch. Processes with a GPU, because
    # threads would delay the one that launches its kernels.
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
