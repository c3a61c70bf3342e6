"""Everything of a training that changes from step to step."""

import argparse
import copy
import math
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from data.files import one_line
from models.uiqa import QualityModel
from utils.checkpoint import Checkpoint, ResumeState
from utils.distributed import unwrap, world_size
from utils.errors import CheckpointError


@dataclass
class TrainingState:
    """A training between two steps.

    Attributes:
        network: the model, or its DataParallel or DistributedDataParallel wrapper.
        optimizer, scheduler, scaler: torch's; the gradient scaler is disabled unless `--amp fp16`.
        averaged: moving average of the weights, or None.
        epoch: finished epochs.
        step: finished steps of the current epoch.
        totals: sums of the current epoch's losses.
        history, speeds: an entry per epoch.
        best, best_epoch: the best criterion so far, and its epoch.
        skipped: images that could not be used, with the error.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    averaged: AveragedModel | None
    epoch: int = 0
    step: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    speeds: list[dict] = field(default_factory=list)
    best: float = -math.inf
    best_epoch: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    PROGRESS = ("epoch", "step", "totals", "history", "speeds", "best", "best_epoch", "skipped")

    @property
    def model(self) -> QualityModel:
        """The model under training."""
        return unwrap(self.network)

    @property
    def evaluated(self) -> nn.Module:
        """The model that is validated and saved: the moving average if there is one."""
        return self.network if self.averaged is None else self.averaged.module

    @property
    def lr(self) -> float:
        """The current learning rate."""
        return self.optimizer.param_groups[0]["lr"]

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the state dict of the evaluated model, on the CPU."""
        return _on_cpu(unwrap(self.evaluated).state_dict())

    def gradient_sync(self, enabled: bool):
        """Return a context for a backward pass in which DistributedDataParallel sums gradients over ranks, or not."""
        return nullcontext() if enabled or world_size() == 1 else self.network.no_sync()

    def update(self, clip_grad: float) -> None:
        """Take an optimizer step with the accumulated gradients, and update the moving average.

        Args:
            clip_grad: limit of the gradient's norm; 0 for none.
        """
        if clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)

    def to_resume(self) -> ResumeState:
        """Return what `resume` needs beside the evaluated model's weights."""
        return ResumeState(
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            scaler=self.scaler.state_dict(),
            trained_weights=None if self.averaged is None else _on_cpu(self.model.state_dict()),
            progress={name: copy.copy(getattr(self, name)) for name in self.PROGRESS},
        )

    def resume(self, path: Path, checkpoint: Checkpoint) -> None:
        """Continue where a checkpoint was saved.

        Raises:
            CheckpointError: a part of it is not what it should be.
        """
        resume = checkpoint.resume
        try:
            for model in (self.model, *([self.averaged.module] if self.averaged is not None else ())):
                model.set_normalisation(**checkpoint.normalisation)
            self.model.load_state_dict(resume.trained_weights or checkpoint.state_dict)
            if self.averaged is not None:
                self.averaged.module.load_state_dict(checkpoint.state_dict)
            for name in ("optimizer", "scheduler", "scaler"):
                getattr(self, name).load_state_dict(getattr(resume, name))
            for name in self.PROGRESS:
                setattr(self, name, resume.progress[name])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            cause = f"{type(error).__name__}: {one_line(error)}"
            raise CheckpointError(f"{path}: damaged: this training cannot be resumed ({cause})") from error
        # If it stopped after an epoch's last step, the scheduler steps before the optimizer, which did so earlier.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)


def begin(model: QualityModel, device: torch.device, options: argparse.Namespace) -> TrainingState:
    """Return the state before the first step of a model that is on its device."""
    network = model
    if world_size() > 1:  # broadcasts the weights of rank 0
        network = nn.parallel.DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=any(trunk.has_unused_weights for trunk in model.trunks().values()),
        )
    elif options.multi_gpu and options.device != "cpu":
        network = nn.DataParallel(model)
    averaged = None
    if options.ema:
        averaged = AveragedModel(model, multi_avg_fn=partial(_update_average, options.ema), use_buffers=True)
        averaged.requires_grad_(False)
        averaged.n_averaged += 1  # the initial weights count, so the first update averages instead of copying
    if options.compile:
        model.compile_trunks()
    optimizer = _optimizer(model, options)
    return TrainingState(
        network=network,
        optimizer=optimizer,
        scheduler=_scheduler(optimizer, options),
        scaler=torch.amp.GradScaler(device.type, enabled=options.amp == "fp16"),
        averaged=averaged,
    )


def _optimizer(model: QualityModel, options: argparse.Namespace) -> torch.optim.Optimizer:
    """Return the optimizer of all weights that are trained; the head's group is the first."""
    groups: list[dict] = [{"params": model.parameters()}]
    if options.trunk_lr_ratio != 1:
        trunks = {parameter for trunk in model.trunks().values() for parameter in trunk.parameters()}
        in_order = [parameter for parameter in model.parameters() if parameter in trunks]
        groups = [
            {"params": model.quality.parameters()},
            {"params": in_order, "lr": options.lr * options.trunk_lr_ratio},
        ]
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
    optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.optimizer]
    return optimizer([group for group in groups if group["params"]], lr=options.lr, weight_decay=options.weight_decay)


def _scheduler(optimizer: torch.optim.Optimizer, options: argparse.Namespace) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the schedule of the learning rate, which takes a step after each epoch."""
    warmup = options.warmup_epochs
    if options.schedule == "step" and not warmup:
        return torch.optim.lr_scheduler.StepLR(optimizer, options.decay_interval, options.decay_ratio)

    def factor(epoch: int) -> float:
        if epoch < warmup:
            return (epoch + 1) / (warmup + 1)
        if options.schedule == "step":
            return options.decay_ratio ** ((epoch - warmup) // options.decay_interval)
        return (1 + math.cos(math.pi * min(1, (epoch - warmup) / max(1, options.num_epochs - warmup)))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _update_average(decay: float, averaged: list[torch.Tensor], current: list[torch.Tensor], count: object) -> None:
    """Move tensors of one dtype towards the current ones.

    torch's own `get_ema_multi_avg_fn` also averages integer buffers, which rounds Swin's index tables to wrong entries.
    """
    if averaged[0].is_floating_point():
        torch._foreach_lerp_(averaged, current, 1 - decay)
    else:
        torch._foreach_copy_(averaged, current)


def _on_cpu(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.cpu() for name, value in state_dict.items()}
