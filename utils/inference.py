"""The one loop that scores photographs: for validation, test sets and loose files alike."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from data.datasets import collate_photographs
from models.uiqa import QualityModel
from utils.calibration import Calibration
from utils.distributed import HostCopy, gather_objects, rank, unwrap, world_size
from utils.progress import Tally, progress_bar


@dataclass(frozen=True)
class Scores:
    """What became of a list of photographs.

    Attributes:
        scores: (n,) float64, NaN where a photograph could not be used.
        shares: for each view the points it adds to each score, (n,) float64; with the model's bias they sum to it.
        draws: of the fragments, over which a score is averaged.
        draw_sd: (n,) float64, s.d. of a score between draws (divisor draws - 1); NaN with one draw.
        maps: for each view, if asked for, the points of every place, (n, h, w) float32; shares are their means.
        failures: (index, message) of photographs that could not be used, in order.
        tally: images a second, and the share of the time in which the network waited for data.
    """

    scores: np.ndarray
    shares: dict[str, np.ndarray]
    draws: int
    draw_sd: np.ndarray
    maps: dict[str, np.ndarray] | None
    failures: list[tuple[int, str]]
    tally: Tally


def score_photographs(
    model: nn.Module,
    photographs: Dataset,
    device: torch.device,
    batch_size: int = 8,
    num_workers: int = 0,
    progress: str | None = None,
    maps: bool = False,
    together: bool = True,
) -> Scores:
    """Score photographs; one that cannot be used is recorded and the rest go on.

    A score depends on the pixels, the model and the view specification alone: not on name, order, batch size (to 1e-5),
    worker count or process. Scores and what each view and place adds to them come from one forward pass.

    Args:
        model: a `QualityModel`, alone or in DataParallel; put into evaluation mode and left there.
        photographs: samples as of `data.datasets.PhotographDataset`.
        device: where the model is.
        batch_size: photographs a forward pass; 1 where they differ in how many patches they have.
        num_workers: processes (beside a GPU) or threads (on a CPU) that decode while the model works; 0 decodes between
            the batches.
        progress: label of a progress bar, shown on a terminal only; None for no bar.
        maps: keep what every place adds.
        together: of several processes each scores its part, no photograph twice, and all get the whole result; False
            for work that one process does alone.
    """
    count = len(photographs)
    if getattr(photographs, "is_ragged", False):
        batch_size = 1
    mine = range(rank(), count, world_size()) if together else range(count)
    table = _Table(count, unwrap(model).view_names)
    tally = Tally()
    model.eval()
    network = _Contributions(unwrap(model), maps)
    if isinstance(model, nn.DataParallel):
        network = nn.DataParallel(network, model.device_ids)
    under_way: tuple[np.ndarray, dict[str, HostCopy]] | None = None
    with torch.inference_mode(), progress_bar(len(mine), progress if rank() == 0 else None) as bar:
        batches = _batches(Subset(photographs, mine), batch_size, num_workers, device)
        for _ in range(0, len(mine), batch_size):
            asked = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - asked
            table.failures += batch["errors"]
            launched = None
            if len(batch["index"]):
                views = {name: view.to(device, non_blocking=True) for name, view in batch["views"].items()}
                found = network(**views)
                launched = batch["index"], {name: HostCopy(values) for name, values in found.items()}
            # To fetch scores waits for them; those of one batch are fetched when a GPU has the next one to work on.
            if under_way:
                table.take(*under_way)
            under_way = launched
            tally.add(len(batch["index"]) + len(batch["errors"]), waited)
            bar.update(len(batch["index"]) + len(batch["errors"]))
        if under_way:
            table.take(*under_way)
    if together and world_size() > 1:
        table.gather(mine)
        tally.images = count
    tally.stop()
    shares = {name: table.columns[name] for name in unwrap(model).view_names}
    draws = getattr(photographs, "draws", 1)
    places = table.places if maps else None
    return Scores(table.columns["score"], shares, draws, table.columns["draw_sd"], places, table.failures, tally)


class _Table:
    """What is known of a list of photographs so far.

    Attributes:
        columns: score, share of each view and draw_sd, (n,) float64 each; NaN where not known.
        places: the maps, (n, h, w) float32 for each view, where they were asked for.
        failures: (index, message).
    """

    def __init__(self, count: int, views: tuple[str, ...]):
        self.columns = {name: np.full(count, np.nan) for name in ("score", *views, "draw_sd")}
        self.places: dict[str, np.ndarray] = {}
        self.failures: list[tuple[int, str]] = []

    def take(self, index: np.ndarray, copies: dict[str, HostCopy]) -> None:
        """Take in what `_Contributions` gave for photographs."""
        rows = copies.pop("table").read().double().numpy()
        self._put(index, rows, {name: copy.read().float().numpy() for name, copy in copies.items()})

    def gather(self, mine: range) -> None:
        """Take in what the other processes know; this one knows of `mine`."""
        rows = np.stack(list(self.columns.values()), axis=1)
        own = mine, rows[mine], {name: values[mine] for name, values in self.places.items()}, self.failures
        parts = gather_objects(own)
        for index, rows, places, _ in parts:
            self._put(index, rows, places)
        self.failures = sorted(failure for *_, failures in parts for failure in failures)

    def _put(self, index: np.ndarray | range, rows: np.ndarray, places: dict[str, np.ndarray]) -> None:
        for column, values in zip(self.columns.values(), rows.T, strict=True):
            column[index] = values
        count = len(self.columns["score"])
        for name, values in places.items():
            if name not in self.places:
                self.places[name] = np.full((count, *values.shape[1:]), np.nan, np.float32)
            self.places[name][index] = values


def predictions(result: Scores, calibration: Calibration | None) -> pd.DataFrame:
    """Return scores as a table.

    Returns:
        Columns `score`; `quality`, the score on the MOS scale, NaN without a mapping; with several draws of the
        fragments `draw_sd`, the s.d. of a score between draws, and `sampling_error`, the standard error of their mean;
        and for each view `points_<view>`, what it adds to the score.
    """
    quality = calibration(result.scores) if calibration else np.full(len(result.scores), np.nan)
    table = pd.DataFrame({"score": result.scores, "quality": quality})
    if result.draws > 1:
        table["draw_sd"] = result.draw_sd
        table["sampling_error"] = result.draw_sd / np.sqrt(result.draws)
    for name, shares in result.shares.items():
        table[f"points_{name}"] = shares
    return table


class _Contributions(nn.Module):
    """Gives what the loop keeps of `QualityModel.contributions`, as a module, so that DataParallel can spread it.

    Returns:
        `table` (B, 2 + views): score, share of each view, s.d. between draws; and the maps by name if asked for.
    """

    def __init__(self, model: QualityModel, maps: bool):
        super().__init__()
        self.model = model
        self.maps = maps

    def forward(self, **views: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.model.contributions(**views)
        maps = {name: found[name] for name in self.model.view_names}
        score = found["score"]
        of_draw = found.get("score_of_draw", score[:, None])
        draw_sd = of_draw.std(dim=1) if of_draw.shape[1] > 1 else torch.full_like(score, torch.nan)
        table = torch.stack([score, *(places.mean(dim=(1, 2)) for places in maps.values()), draw_sd], dim=1)
        return {"table": table} | (maps if self.maps else {})


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
