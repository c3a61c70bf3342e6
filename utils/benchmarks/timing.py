"""Timing and memory measurement that stay fair on a noisy machine."""

import ctypes
import gc
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

PEAK_SIDE = 1536  # of the square matrices whose product measures the machine's peak rate


@dataclass(frozen=True)
class Settings:
    """The options of a suite.

    Attributes:
        rounds: timed calls of each function.
        device: where the network runs.
        batch_size: images, or pairs, per pass.
        num_workers: that decode in the suite `evaluate`.
        backbone: a key of `models.backbones.SWIN_CONFIGS`.
        config: whose model the suite `latency` times instead.
        checkpoint: whose map the suite `map` tests, and whose scores the suite `precision` compares.
        photographs: files that the suites `precision` and `map` read; none for rendered ones.
    """

    rounds: int
    device: torch.device
    batch_size: int = 1
    num_workers: int = 1
    backbone: str = "swin_t"
    config: str | None = None
    checkpoint: str | None = None
    photographs: Sequence[str] = ()


@dataclass
class Measurement:
    """The result of a suite.

    Attributes:
        times: milliseconds of every timed call, (rounds,), by function.
        figures: medians and what is derived from them, under their JSON keys.
    """

    times: dict[str, np.ndarray] = field(default_factory=dict)
    figures: dict[str, object] = field(default_factory=dict)

    def add(self, times: dict[str, np.ndarray], suffix: str = "") -> dict[str, float]:
        """Add times and their medians; return the medians."""
        medians = {name: float(np.median(times_ms)) for name, times_ms in times.items()}
        self.times |= {name + suffix: times_ms for name, times_ms in times.items()}
        self.figures |= {f"{name}_ms{suffix}": median for name, median in medians.items()}
        return medians


def time_in_turn(
    functions: Mapping[str, Callable[[], object]], rounds: int, device: torch.device | None = None
) -> dict[str, np.ndarray]:
    """Time functions in turn, so that all of them see the same state of the machine.

    Each round calls every function twice and times the second call: the first one refills the caches and the heap that
    the previous function used.

    Args:
        functions: without arguments.
        rounds: timed calls of each.
        device: a CUDA device is synchronised before and after every timed call.

    Returns:
        The milliseconds of each function's calls, (rounds,).
    """

    def synchronise() -> None:
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)

    times = {name: np.empty(rounds) for name in functions}
    for index in range(rounds):
        for name, function in functions.items():
            function()
            synchronise()
            start = time.perf_counter()
            function()
            synchronise()
            times[name][index] = (time.perf_counter() - start) * 1e3
    return times


def matrix_product(device: torch.device) -> tuple[Callable[[], object], float]:
    """Return a function that multiplies two square float32 matrices, and its MACs; its rate is the machine's peak."""
    first, second = torch.randn(2, PEAK_SIDE, PEAK_SIDE, device=device)
    return lambda: first @ second, PEAK_SIDE**3


def peak_memory(function: Callable[..., object], *arguments: object) -> int:
    """Return by how many bytes the resident memory of a fresh process grows at most during a call.

    Args:
        function: importable from a module; called twice, and only the second call is measured, so that libraries that
            load on first use do not count.
        arguments: passed to it; their own size does not count.

    Raises:
        OSError: the system has no /proc, where Linux reports a process's peak memory.
    """
    return peak_memories(function, [arguments])[0]


def peak_memories(function: Callable[..., object], calls: Sequence[tuple]) -> list[int]:
    """Return the bytes of several calls, each as in `peak_memory`, one after another in one fresh process.

    Args:
        function: as for `peak_memory`.
        calls: the arguments of each call; an object in several of them is one object in the process, too.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_growths, (function, calls))


def _peak_growths(function: Callable[..., object], calls: Sequence[tuple]) -> list[int]:
    torch.set_num_threads(1)
    return [_peak_growth(function, arguments) for arguments in calls]


def _peak_growth(function: Callable[..., object], arguments: tuple) -> int:
    function(*arguments)
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)  # heap kept from the first call would hide what the second allocates
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak to what is resident now
    before = _status("VmRSS")
    function(*arguments)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    """Return a size from /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024
