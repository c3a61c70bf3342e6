"""Train a quality model: UIQA on ultra-high-definition photographs, or one trunk on AVA. One loop serves both.

python train.py --config configs/demo.yaml
"""

import argparse
import math
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from data.datasets import EpochBatches, PairDataset, PhotographDataset, collate_pairs
from data.decode import ImageError
from data.packed import PackedPhotographs, PackedViews
from data.seeding import seed_torch
from data.tables import LabelTable
from data.views import ViewSpec
from losses import quality_loss
from models import build_model
from models.backbones import imagenet_state_dict
from models.uiqa import QualityModel
from utils.calibration import Calibration, fit_calibration
from utils.checkpoint import initialise, save_checkpoint
from utils.command_line import RunError, entry_point, make_folder, parse_options, usage_errors
from utils.distributed import HostCopy, select_device, unwrap
from utils.figures import draw_curves
from utils.inference import score_photographs
from utils.metrics import mapped_metrics, selection_criterion
from utils.options import run_name, table_of, train_parser, view_spec
from utils.progress import Tally, progress_bar, say
from utils.report import environment, write_csv, write_json

SHOWN_VIEWS = 8  # photographs of the first batch that TensorBoard shows


@entry_point
def main(args: list[str] | None = None) -> int:
    """Train as the command line says; return the exit code."""
    parser = train_parser()
    options = parse_options(parser, args)
    if options.compile and options.multi_gpu:
        parser.error("--compile does not go with --multi_gpu: DataParallel's copies cannot be compiled")
    options.run = run_name(options)
    with usage_errors(parser):
        device = select_device(options.device)
        spec = view_spec(options)
        torch.manual_seed(options.random_seed)  # the head's and, from scratch, the trunks' first weights
        model = build_model(options.model, backbone=options.backbone, view_sizes=spec.view_sizes)

    snapshots, logs = run_folders(options)
    table = table_of(options, splits=("train", "val"))
    rows = pd.concat([table.split("train"), table.split("val")])
    packed = PackedViews(options.packed, rows, spec, options.random_seed) if options.packed else None
    training = PairDataset(table.split("train"), spec, options.random_seed, packed)
    validation = table.split("val")
    photographs = PackedPhotographs(packed, validation.index) if packed else PhotographDataset(validation["path"], spec)
    # The loss sees (mos - mean) / sd; loading a checkpoint folds the two back into the last layer.
    scale = {"mean": 0.0, "sd": 1.0}
    if options.mos_scale == "standardise":
        scale = {"mean": float(training.mos.mean()), "sd": float(training.mos.std())}
    start = initial_weights(model, options, spec, scale)

    model.to(device)
    if options.compile:
        model.compile_trunks()
    network = nn.DataParallel(model) if options.multi_gpu else model
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, options.decay_interval, options.decay_ratio)
    order = EpochBatches(len(training), options.batch_size, options.random_seed, range(options.num_epochs))
    batches = iter(pair_loader(training, order, options.num_workers, device))
    write_json(logs / "options.json", {"options": vars(options), "environment": environment()})
    say_what_runs(options, table, model, start, device, snapshots)

    shutil.rmtree(logs / "tensorboard", ignore_errors=True)  # an earlier run's curves would lie over this one's
    curves = SummaryWriter(logs / "tensorboard")
    history: list[dict] = []
    best = -math.inf
    for epoch in range(options.num_epochs):
        lr = optimizer.param_groups[0]["lr"]
        averages = train_one_epoch(
            network, batches, order.steps, optimizer, scale, epoch, training.paths, curves, options
        )
        scheduler.step()

        measures, calibration, branch_means = validate(
            network, photographs, validation["mos"].to_numpy(), scale, device, options
        )
        criterion = selection_criterion(measures)
        history.append({"epoch": epoch + 1, "lr": lr, **averages, **measures, "criterion": criterion})
        say(f"Epoch {epoch + 1}/{options.num_epochs} | " + validation_words(measures, len(validation), calibration))

        checkpoint = {
            "model": {"name": options.model, "backbone": options.backbone},
            "state_dict": {key: value.cpu() for key, value in unwrap(network).state_dict().items()},
            "view_spec": spec.to_dict(),
            "mos_scale": scale,
            "calibration": calibration.to_dict(),
            "branch_means": branch_means,
            "metrics": measures,
            "options": vars(options),
            "epoch": epoch + 1,
        }
        # A criterion that is not a number (constant scores, say) never beats one that is.
        if not history[:-1] or criterion > best:
            best = criterion if math.isfinite(criterion) else -math.inf
            best_epoch = epoch + 1
            save_checkpoint(snapshots / "best.pth", checkpoint)
        to_resume = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "best": best}
        save_checkpoint(snapshots / "last.pth", checkpoint | to_resume)
        write_csv(logs / "history.csv", history)
        draw_curves(history, logs / "curves.png")
        for name, value in history[-1].items():
            curves.add_scalar(f"{'validation' if name in measures else 'epoch'}/{name}", value, epoch + 1)
        curves.flush()

    curves.close()
    say(f"Best epoch by validation: {best_epoch} ({snapshots / 'best.pth'}); history: {logs / 'history.csv'}")
    say(f"Evaluate it once on the test split with: python test.py --checkpoint {snapshots / 'best.pth'}")
    return 0


def train_one_epoch(
    network: nn.Module,
    batches: Iterator[dict],
    steps: int,
    optimizer: torch.optim.Optimizer,
    scale: dict[str, float],
    epoch: int,
    paths: Sequence[str],
    curves: SummaryWriter,
    options: argparse.Namespace,
) -> dict[str, float]:
    """Pass once over the training pairs: the next `steps` of the batches.

    Returns:
        Averages over the epoch: `loss`, `fidelity`, `mse` (on the scale the loss sees), `images_per_s` and `data_wait`,
        the share of the time in which the network waited for data.
    """
    network.train()
    device = next(network.parameters()).device
    lately, whole = Tally(), Tally()
    unread: deque = deque()
    with progress_bar(steps, f"epoch {epoch + 1}", unit="step") as bar:
        for step in range(steps):
            asked = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - asked
            if batch["errors"]:
                raise ImageError("; ".join(message for _, message in batch["errors"]))

            if epoch == step == 0:
                for name, view in batch["views"].items():
                    curves.add_images(f"first batch/{name}", view[:SHOWN_VIEWS], 0)
            seed_torch(options.random_seed, epoch * steps + step)  # stochastic depth and dropout
            views = {name: view.to(device, non_blocking=True) for name, view in batch["views"].items()}
            mos = (batch["mos"].to(device, non_blocking=True) - scale["mean"]) / scale["sd"]
            scores = network(**views).squeeze(1)  # (2B, 1) -> (2B,): all firsts, then all seconds
            first, second = scores.chunk(2)
            losses = quality_loss(first, second, *mos.chunk(2), options.lr_weight_L2, options.lr_weight_pair)
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            optimizer.step()

            for tally in (lately, whole):
                tally.add(len(mos), waited)
            # To read a loss waits for it: a GPU gets the next step to work on first, unless a line of log is due.
            copies = {name: HostCopy(loss) for name, loss in losses.items()}
            unread.append((f"epoch {epoch + 1}, step {step + 1}", copies, batch["index"]))
            line_due = (step + 1) % options.print_samples == 0
            while len(unread) > (0 if line_due or step + 1 == steps else 1):
                values = read_losses(*unread.popleft(), paths)
                for tally in (lately, whole):
                    tally.add_losses(values)
            bar.update()
            if line_due:
                lr = optimizer.param_groups[0]["lr"]
                say(
                    f"Epoch {epoch + 1}/{options.num_epochs} | Step {step + 1}/{steps} "
                    f"| loss {lately.averages['loss']:.4f} | lr {lr:.3g} | {lately.words()}"
                )
                for name, value in lately.averages.items():
                    curves.add_scalar(f"step/{name}", value, epoch * steps + step + 1)
                lately = Tally()
    averages = whole.averages
    say(
        f"Epoch {epoch + 1}/{options.num_epochs} | training loss {averages['loss']:.4f} "
        f"(fidelity {averages['fidelity']:.4f}, MSE {averages['mse']:.4f}) | {whole.words()}"
    )
    return averages | {"images_per_s": whole.images_per_s, "data_wait": whole.data_wait}


def read_losses(where: str, losses: dict[str, HostCopy], index: np.ndarray, paths: Sequence[str]) -> dict[str, float]:
    """Return the losses of a step as numbers.

    Raises:
        RunError: the loss is not finite; the message names the step's images.
    """
    values = {name: loss.read().item() for name, loss in losses.items()}
    if not math.isfinite(values["loss"]):
        names = ", ".join(Path(paths[place]).name for place in index)
        raise RunError(f"the loss of {where} is {values['loss']}; its images: {names}")
    return values


def validate(
    network: nn.Module,
    photographs: Dataset,
    mos: np.ndarray,
    scale: dict[str, float],
    device: torch.device,
    options: argparse.Namespace,
) -> tuple[dict[str, float], Calibration, dict[str, float]]:
    """Score the validation images.

    Returns:
        On the data set's scale: the measures, the mapping fitted on these images, and the mean points that each view
        adds to their scores.
    """
    result = score_photographs(
        network, photographs, device, 2 * options.batch_size, options.num_workers, progress="validation"
    )
    if result.failures:
        raise ImageError("; ".join(message for _, message in result.failures))
    scores = result.scores * scale["sd"] + scale["mean"]
    if not np.isfinite(scores).all():
        raise RunError("validation scores are not finite: training has diverged; try a smaller --lr")
    calibration = fit_calibration(scores, mos, "validation")
    branch_means = {name: float(shares.mean() * scale["sd"]) for name, shares in result.shares.items()}
    return mapped_metrics(scores, calibration(scores), mos), calibration, branch_means


def pair_loader(training: PairDataset, order: EpochBatches, num_workers: int, device: torch.device) -> DataLoader:
    """Return the loader of training batches: one iteration of it serves all epochs."""
    return DataLoader(
        training,
        batch_sampler=order,
        num_workers=num_workers,
        collate_fn=collate_pairs,
        pin_memory=device.type == "cuda",
    )


def initial_weights(model: QualityModel, options: argparse.Namespace, spec: ViewSpec, scale: dict[str, float]) -> str:
    """Give the model its first weights; return in words where they come from."""
    if options.pretrained_path:
        return initialise(model, options.pretrained_path, scale["mean"], scale["sd"])
    if options.init == "scratch":
        return "random weights"
    state = imagenet_state_dict(options.backbone, spec.crop_size)  # downloaded once for all branches
    for trunk in model.trunks().values():
        trunk.load_state_dict(state)
    return "ImageNet weights in every trunk"


def run_folders(options: argparse.Namespace) -> tuple[Path, Path]:
    """Make the run's folders for checkpoints and logs.

    Raises:
        RunError: a checkpoint is there already and nobody asked to replace it, or a folder cannot be made.
    """
    snapshots, logs = Path(options.snapshot) / options.run, Path(options.logdir) / options.run
    held = [path for path in (snapshots / "last.pth", snapshots / "best.pth") if path.exists()]
    if held and not options.overwrite:
        raise RunError(
            f"{held[0]} is there already: give this run another name with --run, or replace it with --overwrite"
        )
    return make_folder(snapshots), make_folder(logs)


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
    devices = max(1, torch.cuda.device_count()) if options.multi_gpu else 1
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


if __name__ == "__main__":
    sys.exit(main())
