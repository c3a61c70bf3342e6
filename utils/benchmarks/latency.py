"""Latency and peak memory of a model's forward pass, by branch and in total."""

import platform
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from data.decode import decode_rgb
from data.views import ViewSpec, random_views
from models import build_model
from models.uiqa import QualityModel
from utils.benchmarks.timing import Measurement, Settings, peak_memories, time_in_turn
from utils.command_line import parse_options, usage_errors
from utils.options import model_options, view_spec
from utils.training.options import train_parser

TOTAL = "total"


def latency(jpeg: bytes, settings: Settings) -> Measurement:
    """A pass of each branch and of the whole model, batch of one, from uint8 views to features or scores."""
    build, spec = configured_model(settings.config, settings.backbone)
    height, width = decode_rgb(jpeg).shape[:2]
    shapes = {name: (1, *shape) for name, shape in spec.view_shapes(height, width).items()}
    return measure_passes(build, shapes, settings.device, settings.rounds)


def configured_model(config: str | None, backbone: str = "swin_t") -> tuple[Callable[[], QualityModel], ViewSpec]:
    """Return a function that builds the model of a config, and its views; without a config the paper's model."""
    parser = train_parser()
    parser.prog = "benchmark.py"
    options = parse_options(parser, [f"--config={config}"] if config else [f"--backbone={backbone}"])
    with usage_errors(parser):
        spec = view_spec(options)
        return partial(build_model, **model_options(vars(options)), view_sizes=spec.view_sizes), spec


def measure_passes(
    build: Callable[[], QualityModel], shapes: Mapping[str, tuple[int, ...]], device: torch.device, rounds: int
) -> Measurement:
    """Time passes of a model and of its branches in evaluation mode.

    Args:
        build: returns the model; importable from a module, because on a CPU a fresh process measures the memory.
        shapes: of the views, by name, with a batch of one.
        device: where it runs.
        rounds: timed passes; each follows an untimed one.

    Returns:
        The times of each branch and of `total`. The figures are `device_name`, `precision`, `batch_size`, and by branch
        `latency_ms` (median) and `peak_memory_mb`: the growth of memory in a pass, without weights and views; None
        where the system does not report it. On CUDA it is memory allocated by torch; on a CPU the resident memory of a
        process with one thread.
    """
    model = build().eval().to(device)
    views = {name: view.to(device) for name, view in random_views(shapes).items()}
    names = [*model.trunks(), TOTAL]
    passes = {name: partial(run_pass, model, views, name) for name in names}
    times = time_in_turn(passes, rounds, device)
    peaks = _cuda_peaks(passes, device) if device.type == "cuda" else _cpu_peaks(build, shapes, names)
    figures = {
        "device_name": device_name(device),
        "precision": precision(model, device),
        "batch_size": 1,
        "latency_ms": {name: float(np.median(times_ms)) for name, times_ms in times.items()},
        "peak_memory_mb": {name: None if peak is None else peak / 1e6 for name, peak in zip(names, peaks, strict=True)},
    }
    return Measurement(times, figures)


@torch.inference_mode()
def run_pass(model: QualityModel, views: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Run a branch, to its features (K, C), or for TOTAL the whole model, to its scores (1, 1)."""
    if name == TOTAL:
        return model(**views)
    return model.trunks()[name](model.normalise(views[name].flatten(0, -4)))


def build_and_run_pass(build: Callable[[], QualityModel], shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Run a pass on the CPU; the first call builds the model."""
    run_pass(*_built(build, tuple(shapes.items())), name)


@lru_cache(maxsize=1)
def _built(build: Callable[[], QualityModel], shapes: tuple) -> tuple[QualityModel, dict[str, torch.Tensor]]:
    return build().eval(), random_views(dict(shapes))


def _cpu_peaks(
    build: Callable[[], QualityModel], shapes: Mapping[str, tuple[int, ...]], names: list[str]
) -> list[int | None]:
    if sys.platform != "linux":  # only Linux reports a process's peak memory
        return [None] * len(names)
    return peak_memories(build_and_run_pass, [(build, shapes, name) for name in names])


def _cuda_peaks(passes: Mapping[str, Callable[[], object]], device: torch.device) -> list[int]:
    peaks = []
    for run in passes.values():
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    return peaks


def device_name(device: torch.device) -> str:
    """Return the manufacturer's name of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def precision(model: QualityModel, device: torch.device) -> str:
    """Describe the precision of a model's arithmetic."""
    text = str(next(model.parameters()).dtype).removeprefix("torch.")
    if device.type == "cuda" and torch.backends.cudnn.allow_tf32:
        text += ", convolutions in TF32 where the GPU has it"
    return text
