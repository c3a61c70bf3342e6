"""A run's folders and checkpoints, and the checks before it is resumed."""

import argparse
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from data.files import exclusive_lock
from data.views import ViewSpec
from utils.calibration import Calibration
from utils.checkpoint import Checkpoint, Source, load_checkpoint
from utils.command_line import make_folder
from utils.distributed import all_gather_objects, barrier, rank
from utils.errors import CheckpointError, RunError
from utils.options import model_options
from utils.training.data import TrainingData
from utils.training.options import train_parser
from utils.training.signals import Interruption
from utils.training.state import TrainingState
from utils.weights_file import previous_of

# Options that do not change a training's result; all others must stay the same when it is resumed.
RESULT_INDEPENDENT = {
    *("config", "run", "snapshot", "logdir", "overwrite", "resume", "print_samples", "save_every_steps", "num_epochs"),
    *("device", "num_workers", "compile", "multi_gpu", "deterministic", "database_dir", "metadata"),
    *("pretrained_path", "init"),  # used only before the first step
    "on_bad_image",  # a training that stopped at a bad image may go on without it
}


@dataclass(frozen=True)
class Run:
    """What stays the same from a run's first step to its last.

    Attributes:
        options: of the command line.
        data: what is read.
        spec: how views are cut.
        device: where the network is.
        snapshots, logs: folders of the checkpoints and of everything else.
        curves: TensorBoard's writer on rank 0, None on the others.
        interruption: whether a signal has arrived.
    """

    options: argparse.Namespace
    data: TrainingData
    spec: ViewSpec
    device: torch.device
    snapshots: Path
    logs: Path
    curves: SummaryWriter | None
    interruption: Interruption

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.snapshots / "last.pth"

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch by validation."""
        return self.snapshots / "best.pth"

    def checkpoint(
        self,
        state: TrainingState,
        metrics: dict[str, float] | None = None,
        calibration: Calibration | None = None,
        branch_means: dict[str, float] | None = None,
        sources: dict[str, Source] | None = None,
    ) -> Checkpoint:
        """Return a checkpoint for scoring, with the results of the last validation if there are any."""
        return Checkpoint(
            model=model_options(vars(self.options)),
            state_dict=state.weights(),
            normalisation=state.model.normalisation,
            view_spec=self.spec,
            mos_scale=self.data.mos_scale,
            calibration=calibration,
            branch_means=branch_means,
            options=vars(self.options),
            sources=sources,
            fingerprint=self.data.fingerprint,
            metrics=metrics,
            epoch=state.epoch,
        )

    def save_last(self, state: TrainingState, **validation) -> None:
        """Save last.pth, from which the training can be resumed, and keep the one before it as previous.pth."""
        for skipped in all_gather_objects(state.skipped):
            state.skipped |= skipped
        if rank() == 0:
            checkpoint = replace(self.checkpoint(state, **validation), resume=state.to_resume())
            checkpoint.save(self.last, keep_previous=True)
        barrier()

    def save_best(self, state: TrainingState, **validation) -> None:
        """Save best.pth."""
        if rank() == 0:
            self.checkpoint(state, **validation).save(self.best)


def run_lock(snapshots: Path) -> AbstractContextManager:
    """Return a context in which no other training can use a run's folder of checkpoints; rank 0 locks it for all.

    The system releases the lock however the process ends.

    Raises:
        RunError: another training uses the folder, or it cannot be made.
    """
    lock, problem = nullcontext(), None
    if rank() == 0:
        try:
            lock = exclusive_lock(make_folder(snapshots) / ".lock")
        except BlockingIOError:
            problem = (
                f"{snapshots}: another training is using this run's folder; wait for it, or name this run differently "
                "with --run"
            )
        except RunError as error:
            problem = str(error)
    problem = all_gather_objects(problem)[0]  # otherwise the other ranks would wait for rank 0
    if problem:
        raise RunError(problem)
    return lock


def run_folders(snapshot: str, logdir: str, run: str, resume: str | None, overwrite: bool) -> tuple[Path, Path]:
    """Make the run's folders for checkpoints and logs, from the options of these names.

    Raises:
        RunError: there is a checkpoint already that was not to be replaced, or a folder cannot be made.
    """
    snapshots, logs = Path(snapshot) / run, Path(logdir) / run
    last = snapshots / "last.pth"
    existing = [path for path in (last, previous_of(last), snapshots / "best.pth") if path.exists()]
    resumed = resume and (resume == "auto" or Path(resume).resolve().parent == snapshots.resolve())
    if existing and not (overwrite or resumed):
        raise RunError(
            f"{existing[0]} exists already: continue it with --resume auto, name this run differently with --run, or "
            "replace it with --overwrite"
        )
    return make_folder(snapshots), make_folder(logs)


def find_checkpoint(resume: str, last: Path) -> tuple[Path, Checkpoint] | None:
    """Return the checkpoint to resume from, with its path; None if "auto" finds none.

    With "auto" a damaged last.pth is replaced, with a warning, by the one before it. It is renamed, or the next save
    would keep it as the previous one.

    Args:
        resume: "auto" for the run's own checkpoint, or a path.
        last: the run's last.pth.

    Raises:
        CheckpointError: there is no such file, or none that can be read.
        RunError: it is not the checkpoint of a training; or with "auto" the run has only a best.pth, which a new
            training would replace.
    """
    path = last if resume == "auto" else Path(resume)
    if resume == "auto" and not path.exists():
        path = previous_of(last)
        if not path.exists():
            if last.with_name("best.pth").exists():
                raise RunError(
                    f"{last.with_name('best.pth')} is of a run that cannot be resumed, as {last.name} is gone: name "
                    "this run differently with --run, or replace it with --overwrite"
                )
            return None
    try:
        checkpoint = load_checkpoint(path)
    except CheckpointError as error:
        if resume != "auto" or path != last or not previous_of(last).exists():
            raise
        path = previous_of(last)
        checkpoint = load_checkpoint(path)
        print(f"warning: {error}; continuing from {path}", file=sys.stderr)
        barrier()  # before rank 0 renames it, every rank must have tried to read it
        if rank() == 0:
            last.replace(last.with_name(last.name + ".damaged"))
    if checkpoint is None or checkpoint.resume is None:
        raise RunError(f"{path}: holds weights but no optimizer state to resume from; use --pretrained_path instead")
    return path, checkpoint


def check_same_training(path: Path, checkpoint: Checkpoint, options: dict, fingerprint: str) -> None:
    """Check that a training is resumed with the options and data that it was begun with.

    Raises:
        RunError: options that change the result differ, or the data do; the message names them.
    """
    # An option that did not exist yet had today's default.
    before = vars(train_parser().parse_args([])) | checkpoint.options
    independent = RESULT_INDEPENDENT - ({"num_epochs"} if options["schedule"] == "cosine" else set())
    changes = [
        f"--{name} {options.get(name)} (was {before.get(name)})"
        for name in sorted({*before, *options} - independent)
        if before.get(name) != options.get(name)
    ]
    # Earlier versions kept no hash of the order.
    saved, present = checkpoint.fingerprint.split(), fingerprint.split()
    if saved[:2] != present[:2]:
        changes.append("the images or MOS labels differ")
    elif saved[2:] and saved[2:] != present[2:]:
        changes.append("the training images are in another order, or their --distill_from scores differ")
    if changes:
        raise RunError(
            f"{path} was trained with different settings: {'; '.join(changes)}. Resume with the same options, or start "
            "a new run with --run NAME (--pretrained_path starts it from these weights)"
        )


def keep_best(resumed: Path, snapshots: Path) -> None:
    """Copy the best checkpoint so far if another run is resumed: no later epoch may beat it."""
    best = resumed.with_name("best.pth")
    if rank() == 0 and best.exists() and not (snapshots / "best.pth").exists():
        shutil.copy(best, snapshots / "best.pth")


def delete_earlier_run(snapshots: Path, logs: Path) -> None:
    """Delete what an overwritten run has left, or --resume auto might continue from it."""
    for name in ("last.pth", "previous.pth", "best.pth"):
        (snapshots / name).unlink(missing_ok=True)
    for name in ("history.csv", "speed.csv", "skipped.csv", "curves.png"):
        (logs / name).unlink(missing_ok=True)
