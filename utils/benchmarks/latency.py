"""How long a pass of a model takes on this machine, branch by branch, and how much memory it needs."""

import platform
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from data.views import random_views
from models.uiqa import QualityModel
from utils.benchmarks.timing import peak_memories, time_in_turn

PASSES = 5  # that count; as many go before them
TOTAL = "total"


def measure_passes(
    build: Callable[[], QualityModel], shapes: Mapping[str, tuple[int, ...]], device: torch.device, passes: int = PASSES
) -> dict:
    """Time passes of a model and of its branches in evaluation, from uint8 views on the device to scores or features.

    Args:
        build: returns the model; of a module's top level, because on a CPU a fresh process measures the memory.
        shapes: of the views, by name, with a batch of one.
        device: where it runs.
        passes: that are measured; as many unmeasured ones go before them.

    Returns:
        `device`, `device_name`, `precision`, `batch_size`, `threads` (of the timed passes), `passes`, and as `rows` for
        each branch and for `total`: `latency_ms` (median), `quartiles_ms`, and `peak_memory_mb`: by how much memory
        grows at most in a pass, weights and views not counted (None where the system does not tell). On CUDA it is what
        torch's allocator gave out; on a CPU the resident memory of a process with one thread.
    """
    model = build().eval().to(device)
    views = {name: view.to(device) for name, view in random_views(shapes).items()}
    names = [*model.trunks(), TOTAL]
    ways = {name: lambda name=name: run_pass(model, views, name) for name in names}
    times = time_in_turn(ways, passes, device)
    peaks = _cuda_peaks(ways, device) if device.type == "cuda" else _cpu_peaks(build, shapes, names)
    return {
        "device": str(device),
        "device_name": device_name(device),
        "precision": precision(model, device),
        "batch_size": 1,
        "threads": torch.get_num_threads(),
        "passes": passes,
        "rows": {
            name: {
                "latency_ms": float(np.median(times[name])),
                "quartiles_ms": np.percentile(times[name], [25, 75]).tolist(),
                "peak_memory_mb": None if peak is None else peak / 1e6,
            }
            for name, peak in zip(names, peaks, strict=True)
        },
    }


@torch.inference_mode()
def run_pass(model: QualityModel, views: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Run a branch, to its features (K, C), or with TOTAL the whole model, to its scores (1, 1)."""
    if name == TOTAL:
        return model(**views)
    return model.trunks()[name](model.normalise(views[name].flatten(0, -4)))


def run_pass_of_built(build: Callable[[], QualityModel], shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Run a pass on the CPU of a model that is built at the first call."""
    run_pass(*_built(build, tuple(shapes.items())), name)


@lru_cache(maxsize=1)
def _built(build: Callable[[], QualityModel], shapes: tuple) -> tuple[QualityModel, dict[str, torch.Tensor]]:
    return build().eval(), random_views(dict(shapes))


def _cpu_peaks(
    build: Callable[[], QualityModel], shapes: Mapping[str, tuple[int, ...]], names: list[str]
) -> list[int | None]:
    if sys.platform != "linux":  # only Linux tells the peak of a process
        return [None] * len(names)
    return peak_memories(run_pass_of_built, [(build, shapes, name) for name in names])


def _cuda_peaks(ways: Mapping[str, Callable[[], object]], device: torch.device) -> list[int]:
    peaks = []
    for way in ways.values():
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        way()
        torch.cuda.synchronize(device)
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    return peaks


def device_name(device: torch.device) -> str:
    """Return what the maker calls a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def precision(model: QualityModel, device: torch.device) -> str:
    """Return in which precision a model computes, in words."""
    words = str(next(model.parameters()).dtype).removeprefix("torch.")
    if device.type == "cuda" and torch.backends.cudnn.allow_tf32:
        words += ", convolutions in TF32 where the GPU has it"
    return words
