"""Train a quality model: UIQA on ultra-high-definition photographs, or one trunk on AVA. One loop serves both.

python train.py --config configs/demo.yaml
torchrun --nproc_per_node 4 train.py --config configs/uhd_iqa.yaml --database_dir UHDIQA/challenge/training/
"""

import argparse
import math
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from data.datasets import EpochBatches, PairDataset, collate_pairs
from data.decode import ImageError
from data.seeding import seed_torch
from data.views import ViewSpec
from models import build_model
from models.uiqa import QualityModel
from utils.calibration import Calibration, fit_calibration
from utils.checkpoint import Checkpoint, ResumeState
from utils.command_line import entry_point, make_folder, parse_options, usage_errors
from utils.distributed import (
    HostCopy,
    agree,
    gather_objects,
    processes,
    rank,
    select_device,
    share_state,
    wait_for_all,
    world_size,
)
from utils.errors import RunError
from utils.inference import score_photographs
from utils.metrics import mapped_metrics, selection_criterion
from utils.options import model_options, view_spec
from utils.progress import Tally, progress_bar, say
from utils.training.data import load_training_data
from utils.training.initialise import initialise, initialise_from_imagenet
from utils.training.logs import say_what_runs, start_logs, validation_words, write_logs
from utils.training.options import run_name, train_parser
from utils.training.state import (
    Interruption,
    TrainingState,
    begin,
    check_same_training,
    find_checkpoint,
    interruptions,
    leave_signals_to_the_parent,
)
from utils.training.step import LOSSES, training_step

SHOWN_VIEWS = 8  # photographs of the first batch that TensorBoard shows


@entry_point
def main(args: list[str] | None = None) -> int:
    """Train as the command line says; return the exit code."""
    parser = train_parser()
    options = parse_options(parser, args)
    refuse_contradictions(parser, options)
    options.run = run_name(options)
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    with usage_errors(parser):
        device = select_device(options.device)
        spec = view_spec(options)
        torch.manual_seed(options.random_seed)  # the head's and, from scratch, the trunks' first weights
        model = build_model(**model_options(vars(options)), view_sizes=spec.view_sizes)
    with processes(device), interruptions() as interruption:
        return train(model, spec, device, options, interruption)


def train(
    model: QualityModel,
    spec: ViewSpec,
    device: torch.device,
    options: argparse.Namespace,
    interruption: Interruption,
) -> int:
    """Train a model from its start, or from where a checkpoint has it; return the exit code."""
    snapshots, logs = run_folders(options)
    data = load_training_data(options, spec)
    scale = data.scale
    found = find_checkpoint(options.resume, snapshots / "last.pth") if options.resume else None
    if found:
        check_same_training(*found, options, data.fingerprint)
    # Of several processes the first one's weights count: DistributedDataParallel hands them on.
    start = f"{found[0]}" if found else initial_weights(model, options, spec, scale) if rank() == 0 else ""

    state = begin(model.to(device), device, options)
    if found:
        state.resume(*found)
        keep_best(found[0], snapshots)
    elif options.overwrite and rank() == 0:
        forget_earlier_run(snapshots, logs)  # its start needs none of it any more
    images_a_step = options.batch_size * (2 if options.pairing == "batch" else 1)
    epochs = range(state.epoch, options.num_epochs)
    order = EpochBatches(
        len(data.training), images_a_step, options.random_seed, epochs, state.step, rank(), world_size()
    )
    batches = iter(batch_loader(data.training, order, options.num_workers, device))
    curves = start_logs(logs, data.table, options, data.fingerprint, found is not None) if rank() == 0 else None
    say_what_runs(options, data.table, model, start, device, snapshots)

    def checkpoint(
        measures: dict[str, float] | None = None,
        calibration: Calibration | None = None,
        branch_means: dict[str, float] | None = None,
        resume: ResumeState | None = None,
    ) -> Checkpoint:
        return Checkpoint(
            model=model_options(vars(options)),
            state_dict=state.weights(),
            view_spec=spec,
            mos_scale=scale,
            calibration=calibration,
            branch_means=branch_means,
            options=vars(options),
            fingerprint=data.fingerprint,
            metrics=measures,
            epoch=state.epoch,
            resume=resume,
        )

    def save_last(*validated) -> None:
        for part in gather_objects(state.skipped):
            state.skipped |= part
        if rank() == 0:
            last = replace(checkpoint(*validated), resume=state.to_resume())
            last.save(snapshots / "last.pth", keep_previous=True)
        wait_for_all()

    for epoch in epochs:
        lr = state.optimizer.param_groups[0]["lr"]
        began = time.perf_counter()
        averages, stopped = train_one_epoch(
            state, batches, order.steps, scale, epoch, data.training, curves, save_last, interruption, options
        )
        if stopped:
            save_last()
            say(f"Interrupted: saved {snapshots / 'last.pth'} after step {state.step} of epoch {epoch + 1}")
            say("Go on with the same command and --resume auto")
            return interruption.exit_code
        save_last()  # whatever happens in validation, the epoch's work is not lost
        share_state(state.evaluated)  # processes differ in what batch normalisation has seen
        measures, calibration, branch_means = validate(
            state.evaluated, data.validation, data.validation_mos, scale, device, options
        )
        state.scheduler.step()
        criterion = selection_criterion(measures)
        speed = {name: averages.pop(name) for name in ("images_per_s", "data_wait")}
        state.history.append({"epoch": epoch + 1, "lr": lr, **averages, **measures, "criterion": criterion})
        state.speeds.append({"epoch": epoch + 1, "seconds": time.perf_counter() - began, **speed})
        state.epoch, state.step, state.totals = epoch + 1, 0, {}
        say(
            f"Epoch {epoch + 1}/{options.num_epochs} | " + validation_words(measures, len(data.validation), calibration)
        )

        validated = measures, calibration, branch_means
        # A criterion that is not a number (constant scores, say) never beats one that is.
        if epoch == 0 or criterion > state.best:
            state.best = criterion if math.isfinite(criterion) else -math.inf
            state.best_epoch = epoch + 1
            if rank() == 0:
                checkpoint(*validated).save(snapshots / "best.pth")
        save_last(*validated)
        if rank() == 0:
            write_logs(logs, state, curves, measures)

    if curves:
        curves.close()
    say(f"Best epoch by validation: {state.best_epoch} ({snapshots / 'best.pth'}); history: {logs / 'history.csv'}")
    if state.skipped:
        say(f"Left out, because they cannot be used: {len(state.skipped)} images, see {logs / 'skipped.csv'}")
    if len(data.table.split("test")):
        say(f"Evaluate it once on the test split with: python test.py --checkpoint {snapshots / 'best.pth'}")
    else:
        say(f"{data.table.source} has no test split: test.py needs a label file with one (--metadata FILE)")
    return 0


def train_one_epoch(
    state: TrainingState,
    batches: Iterator[dict],
    steps: int,
    scale: dict[str, float],
    epoch: int,
    training: PairDataset,
    curves: SummaryWriter | None,
    save_last: Callable[[], None],
    interruption: Interruption,
    options: argparse.Namespace,
) -> tuple[dict[str, float], bool]:
    """Pass once over the training images, from the step at which the state stands.

    Returns:
        Averages over the epoch: `loss`, `fidelity`, `mse` (on the scale the loss sees), `images_per_s` and `data_wait`,
        the share of the time in which the network waited for data; and whether a signal ended it early.
    """
    state.network.train()
    lately, whole = Tally(), Tally()
    whole.steps, whole.totals = state.step, dict(state.totals)
    unread: deque = deque()

    def read(but: int) -> None:
        """Take in the losses of all steps but the last few: to read a loss waits for it."""
        while len(unread) > but:
            values = read_losses(*unread.popleft(), training.paths)
            for tally in (lately, whole):
                tally.add_losses(values)

    with progress_bar(steps, f"epoch {epoch + 1}" if rank() == 0 else None, unit="step") as bar:
        bar.update(state.step)
        for step in range(state.step, steps):
            asked = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - asked
            handle_bad_images(batch, state, training, options)
            if curves and epoch == step == 0:
                for name, view in batch["views"].items():
                    curves.add_images(f"first batch/{name}", view[:SHOWN_VIEWS].flatten(0, -4), 0)

            seed_torch(options.random_seed, epoch * steps + step, rank())  # stochastic depth and dropout
            counts, signals = zip(*agree(len(batch["mos"]), interruption.signal), strict=True)
            if sum(counts):
                losses = training_step(state, batch, list(counts), scale, training.spec, options)
                unread.append((f"epoch {epoch + 1}, step {step + 1}", HostCopy(losses), batch["index"]))

            for tally in (lately, whole):
                tally.add(sum(counts), waited)
            # A GPU gets the next step to work on before a loss is fetched, unless a line of log or a checkpoint is due.
            line_due = (step + 1) % options.print_samples == 0
            save_due = options.save_every_steps and (epoch * steps + step + 1) % options.save_every_steps == 0
            read(but=0 if line_due or save_due or any(signals) or step + 1 == steps else 1)
            state.step, state.totals = step + 1, dict(whole.totals)
            bar.update()
            if line_due:
                lr = state.optimizer.param_groups[0]["lr"]
                say(
                    f"Epoch {epoch + 1}/{options.num_epochs} | Step {step + 1}/{steps} "
                    f"| loss {lately.averages.get('loss', math.nan):.4f} | lr {lr:.3g} | {lately.words()}"
                )
                for name, value in lately.averages.items() if curves else ():
                    curves.add_scalar(f"step/{name}", value, epoch * steps + step + 1)
                lately = Tally()
            if any(signals):
                interruption.signal = max(signals)
                return {}, True
            if save_due and step + 1 < steps:
                save_last()
    averages = {name: whole.averages.get(name, math.nan) for name in LOSSES}
    say(
        f"Epoch {epoch + 1}/{options.num_epochs} | training loss {averages['loss']:.4f} "
        f"(fidelity {averages['fidelity']:.4f}, MSE {averages['mse']:.4f}) | {whole.words()}"
    )
    return averages | {"images_per_s": whole.images_per_s, "data_wait": whole.data_wait}, False


def handle_bad_images(batch: dict, state: TrainingState, training: PairDataset, options: argparse.Namespace) -> None:
    """Stop at images that could not be used, or note them.

    Raises:
        ImageError: there are such, and they are not to be left out.
    """
    if batch["errors"] and options.on_bad_image == "stop":
        words = "; ".join(message for _, message in batch["errors"])
        raise ImageError(f"{words} (--on_bad_image skip leaves such images out)")
    for index, message in batch["errors"]:
        if training.paths[index] not in state.skipped:
            print(f"warning: left out: {message}", file=sys.stderr)
        state.skipped[training.paths[index]] = message


def read_losses(where: str, losses: HostCopy, index: np.ndarray, paths: Sequence[str]) -> dict[str, float]:
    """Return the losses of a step as numbers.

    Raises:
        RunError: the loss is not finite; the message names the step's images.
    """
    values = dict(zip(LOSSES, losses.read().tolist(), strict=True))
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
        words = "; ".join(message for _, message in result.failures)
        raise ImageError(f"{words} (no validation image can be left out: mend it, and go on with --resume auto)")
    scores = result.scores * scale["sd"] + scale["mean"]
    if not np.isfinite(scores).all():
        raise RunError("validation scores are not finite: training has diverged; try a smaller --lr")
    calibration = fit_calibration(scores, mos, "validation")
    branch_means = {name: float(shares.mean() * scale["sd"]) for name, shares in result.points.items()}
    return mapped_metrics(scores, calibration(scores), mos), calibration, branch_means


def batch_loader(training: PairDataset, order: EpochBatches, num_workers: int, device: torch.device) -> DataLoader:
    """Return the loader of training batches: one iteration of it serves all epochs."""
    return DataLoader(
        training,
        batch_sampler=order,
        num_workers=num_workers,
        collate_fn=collate_pairs,
        pin_memory=device.type == "cuda",
        worker_init_fn=leave_signals_to_the_parent,
    )


def initial_weights(model: QualityModel, options: argparse.Namespace, spec: ViewSpec, scale: dict[str, float]) -> str:
    """Give the model its first weights; return in words where they come from."""
    if options.pretrained_path:
        return initialise(model, options.pretrained_path, scale["mean"], scale["sd"])
    if options.init == "scratch":
        return "random weights"
    return initialise_from_imagenet(model, options.backbone, spec)


def keep_best(resumed: Path, snapshots: Path) -> None:
    """Take the best checkpoint so far along where another run is resumed: no later epoch may beat it."""
    best = resumed.with_name("best.pth")
    if rank() == 0 and best.exists() and not (snapshots / "best.pth").exists():
        shutil.copy(best, snapshots / "best.pth")


def forget_earlier_run(snapshots: Path, logs: Path) -> None:
    """Remove what a run that is overwritten has left, or --resume auto might go on with it."""
    for name in ("last.pth", "previous.pth", "best.pth"):
        (snapshots / name).unlink(missing_ok=True)
    for name in ("history.csv", "speed.csv", "skipped.csv", "curves.png"):
        (logs / name).unlink(missing_ok=True)


def refuse_contradictions(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with the parser's error where options do not go together."""
    if options.multi_gpu and ":" in options.device:
        parser.error(
            f"--device {options.device} is one GPU, --multi_gpu takes all that are visible: choose them with "
            "CUDA_VISIBLE_DEVICES, or add --multi_gpu False"
        )
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1  # torchrun's processes take DataParallel's place
    if options.compile and options.multi_gpu and alone:
        parser.error(
            "--compile does not go with --multi_gpu: DataParallel's copies cannot be compiled; add --multi_gpu False, "
            "or start a process for each GPU with torchrun"
        )
    if options.amp == "bf16" and options.multi_gpu and alone and torch.cuda.device_count() > 1:
        parser.error(
            "--amp bf16 does not go with --multi_gpu: DataParallel's threads would compute in fp16; start a process "
            "for each GPU with torchrun, or take --amp fp16"
        )
    if options.pairing == "batch" and options.accumulate > 1:
        parser.error(
            f"--accumulate {options.accumulate} does not go with --pairing batch: pairs across the parts of a batch "
            "would be lost; use --pairing partner, or several GPUs with torchrun"
        )
    if options.resume and options.overwrite:
        parser.error("--resume goes on with a run, --overwrite begins it anew: give one of them")


def run_folders(options: argparse.Namespace) -> tuple[Path, Path]:
    """Make the run's folders for checkpoints and logs.

    Raises:
        RunError: a checkpoint is there already and nobody asked to replace it, or a folder cannot be made.
    """
    snapshots, logs = Path(options.snapshot) / options.run, Path(options.logdir) / options.run
    held = [path for path in (snapshots / "last.pth", snapshots / "best.pth") if path.exists()]
    resumed = options.resume and (
        options.resume == "auto" or Path(options.resume).resolve().parent == snapshots.resolve()
    )
    if held and not (options.overwrite or resumed):
        raise RunError(
            f"{held[0]} is there already: go on with --resume auto, give this run another name with --run, or replace "
            "it with --overwrite"
        )
    return make_folder(snapshots), make_folder(logs)


if __name__ == "__main__":
    sys.exit(main())
