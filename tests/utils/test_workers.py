"""A data worker that dies or finds no shared memory ends a run with one line; other errors pass unchanged."""

import os
import signal
import threading
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from utils.errors import RunError
from utils.workers import collate_in_shared_memory, worker_failures


class Numbers(Dataset):
    """Twenty batches; in worker 0 the third item is an accident."""

    def __init__(self, accident=lambda: None):
        self.accident = accident

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> int:
        if index == 2:
            self.accident()
        return index


def collate(numbers: list[int]) -> dict:
    return {"views": {"salient": torch.full((3, 4), numbers[0])}, "mos": torch.tensor(numbers), "errors": []}


def load(accident=lambda: None, workers: int = 1) -> list[dict]:
    loader = DataLoader(
        Numbers(accident), batch_size=2, num_workers=workers, collate_fn=partial(collate_in_shared_memory, collate)
    )
    with worker_failures():
        return list(loader)


def test_batches_are_those_of_the_collate_function():
    for workers in (0, 2):
        batches = load(workers=workers)
        assert [batch["mos"].tolist() for batch in batches] == [[n, n + 1] for n in range(0, 20, 2)]
        assert [batch["views"]["salient"][2, 3].item() for batch in batches] == list(range(0, 20, 2))


def test_a_killed_worker_is_one_line_with_the_remedy():
    with pytest.raises(RunError, match=r"^DataLoader worker .*killed by signal: Killed, perhaps .*--num_workers"):
        load(lambda: os.kill(os.getpid(), signal.SIGKILL))


def release_after(message: str) -> None:
    """Raise what leaving a lock raises that an error has kept from being taken."""
    try:
        raise RuntimeError(message)
    finally:
        threading.RLock().release()


def test_the_cause_is_named_when_the_signal_interrupts_a_lock_that_is_being_taken():
    """torch raises wherever the main thread is; what is interrupted may fail while it is left."""
    with pytest.raises(RunError, match="killed by signal: Killed"), worker_failures():
        release_after("DataLoader worker (pid 123) is killed by signal: Killed. ")


def test_an_error_that_followed_from_another_passes_unchanged():
    with pytest.raises(RuntimeError, match="un-acquired lock"), worker_failures():
        release_after("the graph has two roots")


def test_a_bus_error_is_a_lack_of_shared_memory():
    with pytest.raises(RunError, match="/dev/shm"):
        load(lambda: os.kill(os.getpid(), signal.SIGBUS))


def test_a_batch_without_room_in_shared_memory_is_not_lost(monkeypatch):
    """Otherwise the parent would wait for it forever."""

    def full(self):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(RunError, match=r"--shm-size 8g.*--num_workers 0") as caught:
        load()
    assert "\n" not in str(caught.value)
    assert len(load(workers=0)) == 10, "the main process needs none"


@pytest.mark.parametrize("error", [RuntimeError("shared memory of a kernel"), ValueError("DataLoader worker")])
def test_other_errors_pass(error):
    with pytest.raises(type(error), match=str(error)), worker_failures():
        raise error


def test_an_error_of_the_data_set_passes_with_its_traceback():
    def fail():
        raise RuntimeError("a fault of the code")

    with pytest.raises(RuntimeError, match=r"(?s)Caught RuntimeError.*a fault of the code") as caught:
        load(fail)
    assert not isinstance(caught.value, RunError)
