"""What a training consists of besides its data, and how it goes on after an interruption."""

import argparse
import copy
import math
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from data.files import one_line
from models.uiqa import QualityModel
from utils.checkpoint import Checkpoint, ResumeState, load_checkpoint
from utils.distributed import rank, unwrap, wait_for_all, world_size
from utils.errors import CheckpointError, RunError
from utils.training.options import train_parser
from utils.weights_file import previous_of

# Options that do not change what a training comes to; all others must be as they were when it is resumed.
HARMLESS = {
    *("config", "run", "snapshot", "logdir", "overwrite", "resume", "print_samples", "save_every_steps", "num_epochs"),
    *("device", "num_workers", "compile", "multi_gpu", "deterministic", "database_dir", "metadata"),
    *("pretrained_path", "init"),  # of no account once there are weights
}


@dataclass
class TrainingState:
    """A training between two steps.

    Attributes:
        network: what is called, the model or what wraps it.
        optimizer, scheduler, scaler: as of torch; the scaler of fp16 is switched off for other precisions.
        averaged: the model whose weights are the moving average, or None.
        epoch: finished epochs.
        step: finished steps of the epoch under way.
        totals: sums of that epoch's losses.
        history, speeds: an entry an epoch.
        best, best_epoch: the best criterion so far, and when.
        skipped: images that could not be used, with the message.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    averaged: QualityModel | None
    epoch: int = 0
    step: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    speeds: list[dict] = field(default_factory=list)
    best: float = -math.inf
    best_epoch: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    PLAIN = ("epoch", "step", "totals", "history", "speeds", "best", "best_epoch", "skipped")

    @property
    def model(self) -> QualityModel:
        """The model that is trained."""
        return unwrap(self.network)

    @property
    def evaluated(self) -> nn.Module:
        """The model that is validated and kept: the averaged one where there is one."""
        return self.network if self.averaged is None else self.averaged

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the state dict of the model that is kept, on the CPU."""
        return _on_cpu(unwrap(self.evaluated).state_dict())

    def to_resume(self) -> ResumeState:
        """Return what `resume` needs beside the weights."""
        return ResumeState(
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            scaler=self.scaler.state_dict(),
            trained_weights=None if self.averaged is None else _on_cpu(self.model.state_dict()),
            progress={name: copy.copy(getattr(self, name)) for name in self.PLAIN},
        )

    def resume(self, path: Path, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint was saved.

        Raises:
            CheckpointError: a part of it is not what it should be.
        """
        try:
            resume = checkpoint.resume
            self.model.load_state_dict(resume.trained_weights or checkpoint.state_dict)
            if self.averaged is not None:
                self.averaged.load_state_dict(checkpoint.state_dict)
            for name in ("optimizer", "scheduler", "scaler"):
                getattr(self, name).load_state_dict(getattr(resume, name))
            for name in self.PLAIN:
                setattr(self, name, resume.progress[name])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            cause = f"{type(error).__name__}: {one_line(error)}"
            raise CheckpointError(f"{path}: damaged: this training cannot be resumed ({cause})") from error
        # Stopped after the last step of an epoch, the scheduler comes first now: the optimizer took its steps before.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move the averaged weights towards the trained ones: decay x averaged + (1 - decay) x trained."""
        if self.averaged is None:
            return
        trained = self.model.state_dict()
        for name, value in self.averaged.state_dict().items():
            if value.is_floating_point():
                value.lerp_(trained[name].to(value.dtype), 1 - decay)
            else:
                value.copy_(trained[name])


def begin(model: QualityModel, device: torch.device, options: argparse.Namespace) -> TrainingState:
    """Return a training that has not begun, of a model that is on its device."""
    network = model
    if world_size() > 1:  # every process gets the first one's weights
        network = nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    elif options.multi_gpu and options.device != "cpu":
        network = nn.DataParallel(model)
    averaged = copy.deepcopy(model).requires_grad_(False) if options.ema else None
    if options.compile:
        model.compile_trunks()
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    return TrainingState(
        network=network,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.StepLR(optimizer, options.decay_interval, options.decay_ratio),
        scaler=torch.amp.GradScaler(device.type, enabled=options.amp == "fp16"),
        averaged=averaged,
    )


def find_checkpoint(wanted: str, last: Path) -> tuple[Path, Checkpoint] | None:
    """Return the checkpoint to resume from, and its content; None where "auto" finds none.

    With "auto" a damaged last.pth gives way, with a warning, to the one before it. It is renamed, or the next save
    would keep it as the one before.

    Args:
        wanted: "auto" for the run's own, or a path.
        last: the run's last.pth.

    Raises:
        CheckpointError: there is no such file, or none that can be read.
        RunError: it is no checkpoint of a training.
    """
    path = last if wanted == "auto" else Path(wanted)
    if wanted == "auto" and not path.exists():
        path = previous_of(last)
        if not path.exists():
            return None
    try:
        content = load_checkpoint(path)
    except CheckpointError as error:
        if wanted != "auto" or path != last or not previous_of(last).exists():
            raise
        path, content = previous_of(last), load_checkpoint(previous_of(last))
        print(f"warning: {error}; going on from {path}", file=sys.stderr)
        wait_for_all()  # every process has to see the damage
        if rank() == 0:
            last.replace(last.with_name(last.name + ".damaged"))
    if content is None or content.resume is None:
        raise RunError(f"{path}: holds weights but no training to resume; start one from it with --pretrained_path")
    return path, content


def check_same_training(path: Path, checkpoint: Checkpoint, options: argparse.Namespace, fingerprint: str) -> None:
    """Check that a training goes on as it began.

    Raises:
        RunError: options that change the result differ, or the data do; the message names them.
    """
    # An option that is newer than the checkpoint had its default then.
    before, now = vars(train_parser().parse_args([])) | checkpoint.options, vars(options)
    changed = [
        f"--{name} {now.get(name)} (was {before.get(name)})"
        for name in sorted({*before, *now} - HARMLESS)
        if before.get(name) != now.get(name)
    ]
    if checkpoint.fingerprint != fingerprint:
        changed.append("other images or opinions")
    if changed:
        raise RunError(
            f"{path} was trained otherwise: {'; '.join(changed)}. Resume with the same options, or start a new run "
            "with --run NAME (--pretrained_path starts it from these weights)"
        )


class Interruption:
    """Whether somebody has asked the training to stop.

    Attributes:
        signal: the signal's number, 0 if there was none.
    """

    def __init__(self):
        self.signal = 0

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells have it."""
        return 128 + self.signal


@contextmanager
def interruptions() -> Iterator[Interruption]:
    """Note SIGINT and SIGTERM instead of dying of them, once: a second signal leaves at once."""
    interruption = Interruption()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        interruption.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        for number in before:
            signal.signal(number, note)
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_the_parent(worker: int) -> None:
    """Let a data worker ignore Ctrl-C, which a terminal sends to all, and die of SIGTERM, which its parent sends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _on_cpu(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.cpu() for name, value in state.items()}
