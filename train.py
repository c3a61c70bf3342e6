"""Train a quality model: UIQA on ultra-high-definition photographs, or one trunk on AVA. One loop serves both.

python train.py --config configs/demo.yaml
torchrun --nproc_per_node 4 train.py --config configs/uhd_iqa.yaml --database_dir UHDIQA/challenge/training/
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from data.datasets import EpochBatches, collate_pairs
from data.seeding import seed_torch
from data.views import ViewSpec
from models import build_model
from models.uiqa import QualityModel
from utils.command_line import entry_point, parse_options, usage_errors
from utils.distributed import (
    all_gather_ints,
    all_reduce_sum,
    broadcast_model,
    process_group,
    rank,
    select_device,
    world_size,
)
from utils.errors import RunError
from utils.inference import NOT_FINITE, score_photographs
from utils.memory import keep_freed_memory
from utils.metrics import selection_criterion
from utils.options import model_options, view_spec
from utils.precision import check_precision, warn_if_slow
from utils.progress import progress_bar, say
from utils.training.data import TrainingData, handle_bad_images, load_training_data, proportions, unusable_images
from utils.training.initialise import initial_weights
from utils.training.logs import EpochLog, format_validation, log_result, log_setup, start_logs, write_logs, write_tables
from utils.training.map_loss import MapLoss
from utils.training.options import check_options, run_name, train_parser
from utils.training.run import (
    Run,
    check_same_training,
    delete_earlier_run,
    find_checkpoint,
    keep_best,
    run_folders,
    run_lock,
)
from utils.training.signals import Interruption, interruptions, leave_signals_to_the_parent
from utils.training.state import TrainingState, begin
from utils.training.step import AMP_DTYPES, LOSSES, Objective, split_batch
from utils.training.validation import measure_validation
from utils.workers import collate_in_shared_memory

LOGGED_IMAGES = 8  # photographs of the first batch that TensorBoard shows


@entry_point
def main(args: list[str] | None = None) -> int:
    """Run train.py with these arguments; return the exit code."""
    keep_freed_memory()
    parser = train_parser()
    options = parse_options(parser, args)
    check_options(parser, options)
    options.run = run_name(options.run, options.config, options.model, options.database)
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    with usage_errors(parser):
        device = select_device(options.device)
        spec = view_spec(options)
        replace(spec, patches=options.validation_patches)  # raises if the patches of validation have too many pixels
        check_precision(options.precision, options.backbone)
        warn_if_slow(options.precision, device)
        torch.manual_seed(options.random_seed)  # initial weights of the head and, from scratch, of the trunks
        model = build_model(**model_options(vars(options)), view_sizes=spec.view_sizes)
        model.freeze(options.freeze_stages, options.freeze_bn)
    with process_group(device), run_lock(Path(options.snapshot) / options.run), interruptions() as interruption:
        return train(model, spec, device, options, interruption)


def train(
    model: QualityModel, spec: ViewSpec, device: torch.device, options: argparse.Namespace, interruption: Interruption
) -> int:
    """Train a model from its first weights, or from where a checkpoint left it; return the exit code."""
    snapshots, logs = run_folders(options.snapshot, options.logdir, options.run, options.resume, options.overwrite)
    data = load_training_data(options, spec)
    options.score_scale = data.score_scale or None  # kept in checkpoints
    state, source, is_resumed = start(model, spec, device, options, data, snapshots)
    if options.overwrite and rank() == 0:
        delete_earlier_run(snapshots, logs)  # only now: its weights may have been this run's first
    order = EpochBatches(
        len(data.training),
        options.batch_size * (2 if options.pairing == "batch" else 1),
        options.random_seed,
        range(state.epoch, options.num_epochs),
        state.step,
        rank(),
        world_size(),
        **proportions(data, options.source_weights),
    )
    batches = iter(  # one iteration serves all epochs, so that decoding goes on during validation
        DataLoader(
            data.training,
            batch_sampler=order,
            num_workers=options.num_workers,
            collate_fn=partial(collate_in_shared_memory, collate_pairs),
            pin_memory=device.type == "cuda",
            worker_init_fn=leave_signals_to_the_parent,
        )
    )
    # Its writer starts a thread, so only after the data workers are forked.
    curves = start_logs(logs, data, vars(options), is_resumed) if rank() == 0 else None
    run = Run(options, data, spec, device, snapshots, logs, curves, interruption)
    if state.history and rank() == 0:
        write_tables(run, state)  # the last epoch's may be missing
    log_setup(run, model, source)
    return fit(state, batches, order.steps, run)


def start(
    model: QualityModel,
    spec: ViewSpec,
    device: torch.device,
    options: argparse.Namespace,
    data: TrainingData,
    snapshots: Path,
) -> tuple[TrainingState, str, bool]:
    """Check the validation images and return the state before the next step.

    Nothing refers to a resumed checkpoint any longer when this returns. It is as large as the model and its optimizer,
    and data workers that are forked while it is in memory would keep it there.

    Returns:
        The state, where its weights come from, and whether a training was resumed.
    """
    resumed = find_checkpoint(options.resume, snapshots / "last.pth") if options.resume else None
    source, skipped = "", {}
    if resumed:
        check_same_training(*resumed, vars(options), data.fingerprint)
        source = str(resumed[0])
    if not options.packed:
        say(f"Checking {len(data.validation)} validation images")
        errors = unusable_images(data.validation, device, options.num_workers)
        handle_bad_images(errors, skipped, data.validation.paths, options.on_bad_image)
        if sum(count for (count,) in all_gather_ints(len(errors))) == len(data.validation):
            example = f"; for example {errors[0][1]}" if errors else ""
            raise RunError(f"none of the validation images can be used{example}")
    if not resumed and rank() == 0:  # DistributedDataParallel broadcasts the weights of rank 0
        source = initial_weights(
            model, options.pretrained_path, options.init, options.backbone, spec.view_sizes, data.mos_scale
        )
    state = begin(model.to(device), device, options)
    if resumed:
        state.resume(*resumed)
        keep_best(resumed[0], snapshots)
    state.skipped |= skipped
    return state, source, bool(resumed)


def fit(state: TrainingState, batches: Iterator[dict], steps: int, run: Run) -> int:
    """Train and validate epoch by epoch, and keep the last and the best checkpoint; return the exit code.

    Args:
        state: where to start.
        batches: of all epochs.
        steps: of an epoch.
        run: what stays the same.
    """
    options, data = run.options, run.data
    for epoch in range(state.epoch, options.num_epochs):
        lr, began = state.lr, time.perf_counter()
        averages = train_one_epoch(state, batches, steps, run)
        run.save_last(state)  # first, in case validation fails
        if averages is None:
            say(f"Interrupted: saved {run.last} after step {state.step} of epoch {epoch + 1}")
            say("Continue with the same command and --resume auto")
            return run.interruption.exit_code

        validation, count = validate(state, run)
        state.scheduler.step()
        metrics = validation["metrics"]
        criterion = selection_criterion(metrics)
        speed = {name: averages.pop(name) for name in ("images_per_s", "data_wait")}
        of_sources = {
            f"{measure}_{name}": value
            for name, source in (validation["sources"] or {}).items()
            for measure, value in (source.metrics or {}).items()
        }
        results = {**averages, **metrics, **of_sources, "criterion": criterion, "val_images": count}
        state.history.append({"epoch": epoch + 1, "lr": lr, **results})
        state.speeds.append({"epoch": epoch + 1, "seconds": time.perf_counter() - began, **speed})
        state.epoch, state.step, state.totals = epoch + 1, 0, {}
        line = format_validation(metrics, count, len(data.validation), validation["calibration"], validation["sources"])
        say(f"Epoch {epoch + 1}/{options.num_epochs} | {line}")
        # A criterion that is not a number (constant scores, for example) never beats one that is.
        if epoch == 0 or criterion > state.best:
            state.best = criterion if math.isfinite(criterion) else -math.inf
            state.best_epoch = epoch + 1
            run.save_best(state, **validation)
        run.save_last(state, **validation)
        if rank() == 0:
            write_logs(run, state, metrics | of_sources)
    log_result(run, state)
    return 0


def train_one_epoch(state: TrainingState, batches: Iterator[dict], steps: int, run: Run) -> dict[str, float] | None:
    """Train on the images of an epoch, from the step at which the state is; a signal ends the epoch after a step.

    Returns:
        Averages over the epoch: LOSSES on the scale of the loss, `images_per_s`, and `data_wait`, the fraction of the
        time in which the network waited for data. None if a signal has ended it.
    """
    options, training, device = run.options, run.data.training, run.device
    objective = Objective(options.pairing, options.lr_weight_L2, options.lr_weight_pair, options.distill_weight)
    map_loss = None
    if options.map_weight:
        map_loss = MapLoss(options.map_weight, run.spec.n_fragment, options.random_seed, *training.opinion_scale)
    log = EpochLog(state, steps, training.paths, options.num_epochs, options.print_samples)
    first_step = state.epoch * steps  # steps of all epochs before
    state.network.train()
    with progress_bar(steps, f"epoch {state.epoch + 1}" if rank() == 0 else None, unit="step") as bar:
        bar.update(state.step)
        for step in range(state.step, steps):
            asked = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - asked
            if run.curves and first_step + step == 0:
                for name, view in batch["views"].items():
                    run.curves.add_images(f"first batch/{name}", view[:LOGGED_IMAGES].flatten(0, -4), 0)

            seed_torch(options.random_seed, first_step + step, rank())  # stochastic depth and dropout
            fatal = len(batch["errors"]) if options.on_bad_image == "stop" else 0
            of_ranks = all_gather_ints(len(batch["mos"]), run.interruption.signal, fatal)
            counts, signals, fatals = zip(*of_ranks, strict=True)
            if any(fatals) and first_step + step:
                save_before_stop(state, log, run)
            handle_bad_images(batch["errors"], state.skipped, training.paths, options.on_bad_image)
            losses = None
            sources = batch["source"].to(device, non_blocking=True) if run.data.has_sources else None
            if sum(counts):
                losses = torch.zeros(len(LOSSES), device=device)
                state.optimizer.zero_grad(set_to_none=True)
                parts = split_batch(batch, training.target_names, options.accumulate, run.spec.view_sizes, device)
                for part, (views, targets, is_last) in enumerate(parts):  # one part unless --accumulate
                    with state.gradient_sync(is_last):
                        with torch.autocast(device.type, AMP_DTYPES[options.amp], enabled=options.amp != "off"):
                            scores = state.network(**views).squeeze(1)  # (n,): first images, then their partners
                            if map_loss:
                                draw = first_step + step, part
                                of_map = map_loss(state.model, views["distortion"], targets[0], sum(counts), draw)
                        loss, values = objective(scores[: len(targets[0])], targets, counts, sources)
                        if map_loss:
                            loss, values[0] = loss + of_map, values[0] + of_map.detach()
                        # DistributedDataParallel averages gradients over ranks, but the loss is a sum over them.
                        state.scaler.scale(loss * world_size()).backward()
                    losses += values
                state.update(options.clip_grad)
                losses = all_reduce_sum(losses)

            log.add(step, sum(counts), waited, losses, batch["index"])
            is_save_due = options.save_every_steps and (first_step + step + 1) % options.save_every_steps == 0
            is_read_due = is_save_due or log.is_line_due(step) or any(signals) or step + 1 == steps
            log.read_losses(leave=0 if is_read_due else 1)
            state.step, state.totals = step + 1, dict(log.whole.totals)
            bar.update()
            if log.is_line_due(step):
                log.write_line(step, state.lr, run.curves)
            if any(signals):
                run.interruption.signal = max(signals)
                return None
            if is_save_due and step + 1 < steps:
                run.save_last(state)
    return log.close()


def save_before_stop(state: TrainingState, log: EpochLog, run: Run) -> None:
    """Save a training that a bad image stops, as it was before this step."""
    log.read_losses(leave=0)
    state.totals = dict(log.whole.totals)
    run.save_last(state)
    say(f"Saved {run.last} after step {state.step} of epoch {state.epoch + 1}; --resume auto continues from there")


def validate(state: TrainingState, run: Run) -> tuple[dict, int]:
    """Score the validation images.

    Returns:
        What `measure_validation` returns, and the number of images that could be used.

    Raises:
        ImageError: an image cannot be used, and `--on_bad_image` is "stop".
        RunError: a score is not finite, or no image can be used.
    """
    data, options = run.data, run.options
    broadcast_model(state.evaluated)  # ranks differ in what batch normalisation has seen
    result = score_photographs(
        state.evaluated,
        data.validation,
        run.device,
        2 * options.batch_size,
        options.num_workers,
        progress="validation",
        precision=options.precision,
    )
    if any(NOT_FINITE in message for _, message in result.failures):
        raise RunError("validation scores are not finite: training has diverged; try a smaller --lr")
    if rank() == 0:  # every rank has the failures of all
        handle_bad_images(result.failures, state.skipped, data.validation.paths, options.on_bad_image)
    usable = np.isfinite(result.scores)
    if not usable.any():
        raise RunError("none of the validation images can be used")
    return measure_validation(result.scores, result.points, data), int(usable.sum())


if __name__ == "__main__":
    sys.exit(main())
