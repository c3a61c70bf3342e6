"""Devices and processes."""

import os

import torch
from torch import nn


def select_device(name: str) -> torch.device:
    """Return the device a name means: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:i".

    Raises:
        ValueError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:i")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name} is not there: {torch.cuda.device_count()} CUDA device(s) found")
    return device


def default_workers() -> int:
    """Return a worker count for data loading: the cores this process may use, at most 16."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)


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
    """Return the model inside DataParallel, or the model itself."""
    return model.module if isinstance(model, nn.DataParallel) else model
