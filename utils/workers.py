"""Data workers that die or find no shared memory end a run with one line, instead of a hang or a traceback."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.utils.data import get_worker_info

from utils.errors import RunError


def collate_in_shared_memory(collate: Callable, samples: Sequence) -> dict:
    """Collate samples to a batch that a data worker can hand over without allocating anything more.

    torch would move the tensors to shared memory in a thread of the worker, which prints an error and drops the batch,
    so that the parent waits forever. An error in the collate function reaches the parent.

    Args:
        collate: `data.datasets.collate_photographs` or `collate_pairs`.
        samples: its argument.
    """
    batch = collate(samples)
    if get_worker_info() is not None:
        for value in (*batch["views"].values(), *batch.values()):
            if isinstance(value, torch.Tensor):
                value.share_memory_()
    return batch


@contextmanager
def worker_failures() -> Iterator[None]:
    """Report what torch says about data workers as one line; it may raise anywhere in the main thread.

    Raises:
        RunError: a worker has died, or has no shared memory left.
    """
    try:
        yield
    except Exception as error:
        # The first error of a chain names the signal: torch says "exited unexpectedly" when it was waiting for the
        # worker, and a lock that was being taken says something else.
        messages = [_explain(str(link)) for link in _chain(error) if isinstance(link, RuntimeError)]
        message = next((message for message in reversed(messages) if message), None)
        if message is None:
            raise
        for link in _chain(error):
            traceback.clear_frames(link.__traceback__)  # they refer to the loader, which now ends the other workers
        raise RunError(message) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it followed from, the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _explain(text: str) -> str | None:
    """Return torch's message as one line with the remedy; None if it is about something else."""
    if "DataLoader worker" not in text:
        return None
    if "shared memory" in text or "Bus error" in text:
        return (
            "a data worker has no shared memory left: enlarge /dev/shm (docker run --shm-size 8g), or use "
            "--num_workers 0 or a smaller --batch_size"
        )
    if "killed by signal" in text or "exited unexpectedly" in text:
        return (
            f"{text.strip()[:100].rstrip(' .')}, perhaps because the machine ran out of memory: use fewer "
            "--num_workers; 0 loads the data in the main process"
        )
    return None
