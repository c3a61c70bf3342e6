"""Batches of scores, one by one, for what is written while the scoring goes on."""

from collections.abc import Iterator, Sequence

import numpy as np

from utils.distributed import all_gather_objects, world_size
from utils.inference import Photographs, ScoredBatch, Scores, assemble_scores
from utils.progress import Tally


def gather_batches(
    batches: Iterator[ScoredBatch], photographs: Photographs, batch_size: int = 8
) -> Iterator[ScoredBatch]:
    """Yield the batches of `score_batches`, under torchrun each together with those of the other ranks.

    So rows can be written while the scoring goes on, in the order of the photographs. The maps, views and images of
    other ranks are left where they are.

    Args:
        batches: of this rank. Every rank must take all batches, because they are exchanged one by one.
        photographs, batch_size: as for `score_batches`.
    """
    batch_size = 1 if photographs.is_ragged else batch_size
    for _ in range(0, -(-len(photographs) // world_size()), batch_size):
        batch = next(batches, ScoredBatch(np.zeros(0, np.int64), {}, [], {}, [], 0.0))
        if world_size() > 1:
            outputs = {name: rows for name, rows in batch.outputs.items() if rows.ndim == 1}
            parts = all_gather_objects((batch.index, outputs, batch.failures))
            names = dict.fromkeys(name for _, outputs, _ in parts for name in outputs)
            batch = ScoredBatch(
                index=np.concatenate([index for index, *_ in parts]),
                outputs={name: np.concatenate([part[1][name] for part in parts if name in part[1]]) for name in names},
                failures=[failure for *_, failures in parts for failure in failures],
                views={},
                images=[],
                waited=batch.waited,
            )
        yield batch


def scores_of_batch(batch: ScoredBatch, draws: int, view_names: Sequence[str]) -> tuple[np.ndarray, Scores]:
    """Return one batch as scores, in the order of the data set, and the (n,) positions of its n photographs in it."""
    positions = np.sort(np.concatenate([batch.index, [index for index, _ in batch.failures]]).astype(np.int64))
    failures = [(int(np.searchsorted(positions, index)), message) for index, message in batch.failures]
    part = np.searchsorted(positions, batch.index), batch.outputs, failures
    return positions, assemble_scores([part], len(positions), draws, view_names, Tally())
