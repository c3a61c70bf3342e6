"""How long things take and how much memory, measured so that a noisy machine does not decide who wins."""

import ctypes
import gc
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

PEAK_SIDE = 1536  # of the square matrices whose product stands for what the machine can do


@dataclass
class Measured:
    """What a benchmark found.

    Attributes:
        times: milliseconds of every call, by what was called.
        figures: medians and what follows from them, by the names they have in the JSON.
    """

    times: dict[str, np.ndarray] = field(default_factory=dict)
    figures: dict[str, object] = field(default_factory=dict)

    def add(self, times: dict[str, np.ndarray], suffix: str = "") -> dict[str, float]:
        """Take in measured times; return their medians."""
        medians = {name: float(np.median(taken)) for name, taken in times.items()}
        self.times |= {name + suffix: taken for name, taken in times.items()}
        self.figures |= {f"{name}_ms{suffix}": median for name, median in medians.items()}
        return medians


def time_in_turn(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device | None = None
) -> dict[str, np.ndarray]:
    """Time several ways of doing a thing in turn, so that all of them see the same machine.

    In every round each way is called twice and the second call counts: a loop does the same thing again and again, and
    what another way left in caches and heap is not its fault.

    Args:
        ways: functions without arguments.
        rounds: calls of each that count.
        device: a CUDA device is waited for before and after every call.

    Returns:
        For each way the milliseconds of its calls, (rounds,).
    """

    def wait() -> None:
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)

    taken = {name: np.empty(rounds) for name in ways}
    for turn in range(rounds):
        for name, way in ways.items():
            way()
            wait()
            began = time.perf_counter()
            way()
            wait()
            taken[name][turn] = (time.perf_counter() - began) * 1e3
    return taken


def matrix_product(device: torch.device) -> tuple[Callable[[], object], float]:
    """Return a function that multiplies two square float32 matrices, and its MACs: the peak that others are held to."""
    first, second = torch.randn(2, PEAK_SIDE, PEAK_SIDE, device=device)
    return lambda: first @ second, PEAK_SIDE**3


def peak_memory(function: Callable[..., object], *arguments: object) -> int:
    """Return the bytes by which the resident memory of a fresh process grows at most while a function runs.

    Args:
        function: of a module's top level; called twice, first with the memory not looked at, so that libraries that
            load on first use do not count.
        arguments: handed to it; what they take is not counted.

    Raises:
        OSError: the system has no /proc, where Linux tells a process's peak.
    """
    return peak_memories(function, [arguments])[0]


def peak_memories(function: Callable[..., object], calls: Sequence[tuple]) -> list[int]:
    """Return the bytes of each of several calls as `peak_memory` does, one after another in one fresh process.

    Args:
        function: as for `peak_memory`.
        calls: the arguments of each; what several calls share is one object in the process, too.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_grown_peaks, (function, calls))


def _grown_peaks(function: Callable[..., object], calls: Sequence[tuple]) -> list[int]:
    torch.set_num_threads(1)
    return [_grown_peak(function, arguments) for arguments in calls]


def _grown_peak(function: Callable[..., object], arguments: tuple) -> int:
    function(*arguments)
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)  # what the first call left behind would hide what the second takes
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts at what is resident now
    before = _status("VmRSS")
    function(*arguments)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    """Return a size from /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024
