"""Devices and processes: one process, or several that torchrun has started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

TIMEOUT = timedelta(minutes=30)  # for the slowest rank: rank 0 writes checkpoints and pictures while others wait


def select_device(name: str) -> torch.device:
    """Return the device a name means: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:i".

    Under torchrun "auto" and "cuda" are the GPU of this process's number on its machine.

    Raises:
        ValueError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:i")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name} is not there: {torch.cuda.device_count()} CUDA device(s) found")
    return device


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the other processes that torchrun started, if it did, for as long as the context lasts."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """Return how many processes work together; 1 outside `processes`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, 0 if it is alone. Rank 0 alone prints and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def agree(*numbers: int) -> list[list[int]]:
    """Return the whole numbers of every process, in the order of the ranks; no GPU is waited for."""
    if world_size() == 1:
        return [list(numbers)]
    gathered = [torch.empty(len(numbers), dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(gathered, torch.tensor(numbers, dtype=torch.int64))
    return [part.tolist() for part in gathered]


def gather_rows(rows: torch.Tensor, counts: list[int]) -> list[torch.Tensor]:
    """Return the rows of every process, in the order of the ranks; this process's own keep their gradients.

    Args:
        rows: (n, ...) of this process.
        counts: n of every process.
    """
    if world_size() == 1:
        return [rows]
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    parts = [part[:count] for part, count in zip(gathered, counts, strict=True)]
    parts[rank()] = rows
    return parts


def add_up(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of every process's tensor."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather_objects(content: object) -> list:
    """Return a plain object of every process, in the order of the ranks."""
    if world_size() == 1:
        return [content]
    gathered = [None] * world_size()
    dist.all_gather_object(gathered, content)
    return gathered


def share_state(model: nn.Module) -> None:
    """Give the models of all processes the first one's weights and buffers."""
    if world_size() > 1:
        for value in unwrap(model).state_dict().values():
            dist.broadcast(value, 0)


def wait_for_all() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        dist.barrier()


def default_workers() -> int:
    """Return a worker count for data loading: this process's part of the cores that may be used, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 16))


class HostCopy:
    """A tensor on its way to the host.

    `.item()` and `.cpu()` wait for all that the GPU has been given to do by then; `read` waits for no more than what it
    was given before this copy. So the next batch may be launched first, and the GPU does not stand idle meanwhile.
    """

    def __init__(self, tensor: torch.Tensor):
        self._copy = tensor.detach().to("cpu", non_blocking=True)  # torch takes page-locked memory for it
        self._arrived = None
        if tensor.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> torch.Tensor:
        """Return the tensor on the host, once it is there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copy


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DataParallel or DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else model
