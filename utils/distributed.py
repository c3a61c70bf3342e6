"""Devices and ranks: one process, or several that torchrun has started."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from utils.errors import RunError

TIMEOUT = timedelta(minutes=30)  # for the slowest rank: rank 0 writes checkpoints and pictures while others wait


def select_device(name: str) -> torch.device:
    """Return the device of a name: "auto" (CUDA if available), "cpu", "cuda" or "cuda:i".

    Under torchrun "auto" and "cuda" are the GPU of the process's local rank.

    Raises:
        ValueError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and os.environ.get("LOCAL_RANK"):
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:i")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {name}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device


def launched_processes(variable: str = "WORLD_SIZE") -> int:
    """Return how many processes torchrun started, by its environment variable; 1 if it is not set, empty or 0."""
    value = os.environ.get(variable) or "1"
    if not value.isdecimal():
        raise RunError(f"the environment variable {variable} must be a number of processes; it is {value!r}")
    return max(1, int(value))


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group if torchrun started several processes, and leave it when the context ends."""
    if launched_processes() == 1:
        yield
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise RunError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} is not set: start the processes with "
            "torchrun, or unset WORLD_SIZE"
        )
    own_rank, port = (os.environ[name] for name in ("RANK", "MASTER_PORT"))
    if not port.isdecimal() or not own_rank.isdecimal() or int(own_rank) >= launched_processes():
        raise RunError(
            f"RANK {own_rank!r} must be a number below WORLD_SIZE {launched_processes()}, and MASTER_PORT {port!r} a "
            "number: start the processes with torchrun, or unset WORLD_SIZE"
        )
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # set by torchrun, which starts all processes
        address = f"{os.environ['MASTER_ADDR']}:{port}"
        print(
            f"WORLD_SIZE is {launched_processes()}: waiting at {address} for the other processes; unset it to use one",
            file=sys.stderr,
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """Return the number of ranks; 1 outside a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank, 0 outside a process group. Only rank 0 prints and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_gather_ints(*numbers: int) -> list[list[int]]:
    """Return the integers of every rank, in rank order, without waiting for the GPU."""
    if world_size() == 1:
        return [list(numbers)]
    gathered = [torch.empty(len(numbers), dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(gathered, torch.tensor(numbers, dtype=torch.int64))
    return [part.tolist() for part in gathered]


def gather_rows(rows: torch.Tensor, counts: list[int]) -> list[torch.Tensor]:
    """Return the rows of every rank, in rank order; this rank's own keep their gradients.

    Args:
        rows: (n, ...) of this rank.
        counts: n of every rank.
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


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of every rank's tensor."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def all_gather_objects(content: object) -> list:
    """Return a plain object of every rank, in rank order."""
    if world_size() == 1:
        return [content]
    gathered = [None] * world_size()
    dist.all_gather_object(gathered, content)
    return gathered


def broadcast_model(model: nn.Module) -> None:
    """Give every rank the weights and buffers of rank 0."""
    if world_size() > 1:
        for value in unwrap(model).state_dict().values():
            dist.broadcast(value, 0)


def barrier() -> None:
    """Wait until every rank has come here."""
    if world_size() > 1:
        dist.barrier()


def default_workers() -> int:
    """Return the default number of data workers: this process's part of the available cores, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // launched_processes("LOCAL_WORLD_SIZE"), 16))


class HostCopy:
    """A tensor being copied to the host without blocking.

    `.item()` and `.cpu()` wait for all work that was launched on the GPU before them; `read` waits only for what was
    launched before this copy. So the next batch can be launched first, and the GPU stays busy.
    """

    def __init__(self, tensor: torch.Tensor):
        self._copy = tensor.detach().to("cpu", non_blocking=True)  # torch uses pinned memory for it
        self._done = None
        if tensor.is_cuda:
            self._done = torch.cuda.Event()
            self._done.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> torch.Tensor:
        """Return the tensor on the host once the copy is complete."""
        if self._done is not None:
            self._done.synchronize()
        return self._copy


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DataParallel or DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) else model
