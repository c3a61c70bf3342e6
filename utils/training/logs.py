"""What a training writes down and says: what it depends on, its history in every form, lines for the log."""

import argparse
import math
import shutil
import time
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from data.files import write_csv, write_json
from data.tables import LabelTable
from models.uiqa import QualityModel
from utils.calibration import Calibration
from utils.distributed import world_size
from utils.environment import environment
from utils.progress import say
from utils.training.curves import draw_curves
from utils.training.state import TrainingState


def start_logs(
    logs: Path, table: LabelTable, options: argparse.Namespace, fingerprint: str, resumed: bool
) -> SummaryWriter:
    """Write down what the run depends on; return where its curves go."""
    content = {"options": vars(options), "fingerprint": fingerprint, "environment": environment()}
    if resumed:
        write_json(logs / f"options_resumed_{time.strftime('%Y%m%d-%H%M%S')}.json", content)
    else:
        # An earlier run's curves would lie over this one's.
        shutil.rmtree(logs / "tensorboard", ignore_errors=True)
        write_json(logs / "options.json", content)
    for name in ("train", "val"):
        write_csv(logs / f"split_{name}.csv", table.split(name)[["image", "mos"]])
    return SummaryWriter(logs / "tensorboard")


def write_logs(logs: Path, state: TrainingState, curves: SummaryWriter, measures: dict[str, float]) -> None:
    """Write the history after an epoch, in every form."""
    write_csv(logs / "history.csv", state.history)
    write_csv(logs / "speed.csv", state.speeds)
    draw_curves(state.history, logs / "curves.png")
    if state.skipped:
        skipped = [{"image": path, "error": message} for path, message in sorted(state.skipped.items())]
        write_csv(logs / "skipped.csv", skipped)
    for name, value in (state.history[-1] | state.speeds[-1]).items():
        curves.add_scalar(f"{'validation' if name in measures else 'epoch'}/{name}", value, state.epoch)
    curves.flush()


def say_what_runs(
    options: argparse.Namespace,
    table: LabelTable,
    model: QualityModel,
    start: str,
    device: torch.device,
    snapshots: Path,
) -> None:
    """Print what a reader of the log needs to know before the first epoch."""
    counts = ", ".join(f"{len(table.split(name))} {name}" for name in ("train", "val"))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    shared = options.multi_gpu and world_size() == 1 and device.type == "cuda"
    devices = torch.cuda.device_count() if shared else world_size()
    say(f"Labels: {table.source} ({counts}; {table.split_rule})")
    for note in table.notes:
        say(f"Note: {note}")
    say(f"Model: {options.model} with {options.backbone}, {parameters / 1e6:.2f} M parameters, from {start}")
    say(f"Device: {device.type} x {devices}, {options.num_workers} data workers; checkpoints in {snapshots}")


def validation_words(measures: dict[str, float], count: int, calibration: Calibration) -> str:
    """Return the validation measures for the log."""
    words = ", ".join(f"{name} {value:.4f}" for name, value in measures.items())
    undefined = "" if math.isfinite(measures["SRCC"]) else " | NaN: correlations of constant scores are undefined"
    mapping = "" if calibration.parameters else f" | no mapping: {calibration.reason}"
    return f"validation ({count} images): {words}{mapping}{undefined}"
