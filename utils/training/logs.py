"""What a training writes beside its checkpoints: the settings, the history, curves, lines of the log."""

import math
import os
import shutil
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from data.files import replace_file, write_csv, write_json
from models.uiqa import QualityModel
from utils.calibration import Calibration
from utils.checkpoint import Source
from utils.distributed import HostCopy, world_size
from utils.environment import environment
from utils.errors import RunError
from utils.options import several_sources_note
from utils.progress import Tally, say
from utils.training.data import TrainingData
from utils.training.run import Run
from utils.training.state import TrainingState
from utils.training.step import LOSSES


def start_logs(logs: Path, data: TrainingData, options: dict, resumed: bool) -> SummaryWriter:
    """Write what the run depends on; return the writer of its TensorBoard curves."""
    content = {"options": options, "fingerprint": data.fingerprint, "environment": environment()}
    if resumed:
        write_json(logs / f"options_resumed_{time.strftime('%Y%m%d-%H%M%S')}.json", content)
    else:
        # TensorBoard would draw an earlier run's curves over this one's.
        shutil.rmtree(logs / "tensorboard", ignore_errors=True)
        write_json(logs / "options.json", content)
    for name in ("train", "val"):
        write_csv(logs / f"split_{name}.csv", data.table.split(name)[["image", "mos"]])
    return SummaryWriter(logs / "tensorboard")


def write_logs(run: Run, state: TrainingState, metrics: dict[str, float]) -> None:
    """Write the history after an epoch: CSV, picture and TensorBoard."""
    write_tables(run, state)
    for name, value in (state.history[-1] | state.speeds[-1]).items():
        run.curves.add_scalar(f"{'validation' if name in metrics else 'epoch'}/{name}", value, state.epoch)
    run.curves.flush()


def write_tables(run: Run, state: TrainingState) -> None:
    """Write the history so far: CSV files and a picture."""
    logs = run.logs
    write_csv(logs / "history.csv", state.history)
    write_csv(logs / "speed.csv", state.speeds)
    draw_curves(state.history, logs / "curves.png")
    if state.skipped:
        write_csv(
            logs / "skipped.csv", [{"image": path, "error": error} for path, error in sorted(state.skipped.items())]
        )


class EpochLog:
    """Losses and speed of an epoch: averages, and a line of the log every `print_samples` steps.

    A loss is read from the device a step late, so that a GPU can already run the next step.
    """

    def __init__(self, state: TrainingState, steps: int, paths: Sequence[str], num_epochs: int, print_samples: int):
        self.epoch, self.steps, self.paths = state.epoch, steps, paths
        self.num_epochs, self.line_interval = num_epochs, print_samples
        self.recent, self.whole = Tally(), Tally()
        self.whole.steps, self.whole.totals = state.step, dict(state.totals)
        self._pending: deque[tuple[int, HostCopy, np.ndarray]] = deque()

    def add(self, step: int, images: int, waited: float, losses: torch.Tensor | None, index: np.ndarray) -> None:
        """Count a step: its images over all ranks, the seconds it waited for them, LOSSES, this rank's images."""
        if losses is not None:
            self._pending.append((step, HostCopy(losses), index))
        for tally in (self.recent, self.whole):
            tally.add(images, waited)

    def read_losses(self, leave: int) -> None:
        """Read the losses of all steps but the last `leave`.

        Raises:
            RunError: a loss is not finite; the message names the step's images.
        """
        while len(self._pending) > leave:
            step, losses, index = self._pending.popleft()
            values = dict(zip(LOSSES, losses.read().tolist(), strict=True))
            if not math.isfinite(values["loss"]):
                names = ", ".join(Path(self.paths[position]).name for position in index)
                raise RunError(
                    f"the loss of epoch {self.epoch + 1}, step {step + 1} is {values['loss']}; its images: {names}; "
                    "try a smaller --lr"
                )
            for tally in (self.recent, self.whole):
                tally.add_losses(values)

    def is_line_due(self, step: int) -> bool:
        """Return whether a line is due after this step."""
        return (step + 1) % self.line_interval == 0

    def write_line(self, step: int, lr: float, curves: SummaryWriter | None) -> None:
        """Log the averages since the last line."""
        averages = self.recent.averages
        say(
            f"Epoch {self.epoch + 1}/{self.num_epochs} | Step {step + 1}/{self.steps} "
            f"| loss {averages.get('loss', math.nan):.4f} | lr {lr:.3g} | {self.recent.summary()}"
        )
        for name, value in averages.items() if curves else ():
            curves.add_scalar(f"step/{name}", value, self.epoch * self.steps + step + 1)
        self.recent = Tally()

    def close(self) -> dict[str, float]:
        """Log and return the epoch's averages: LOSSES on the scale of the loss, `images_per_s` and `data_wait`."""
        averages = {name: self.whole.averages.get(name, math.nan) for name in LOSSES}
        say(
            f"Epoch {self.epoch + 1}/{self.num_epochs} | training loss {averages['loss']:.4f} "
            f"(fidelity {averages['fidelity']:.4f}, MSE {averages['mse']:.4f}) | {self.whole.summary()}"
        )
        return averages | {"images_per_s": self.whole.images_per_s, "data_wait": self.whole.data_wait}


def draw_curves(history: Sequence[Mapping], path: str | os.PathLike) -> None:
    """Draw a training's history: the loss and its parts, the validation measures, the best epoch.

    Args:
        history: one entry per epoch, as in history.csv.
        path: of the picture.
    """
    epochs = [entry["epoch"] for entry in history]
    criterion = np.array([entry["criterion"] for entry in history], float)
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    panels = {
        "training loss": ("loss", "fidelity", "mse"),
        "validation: correlations": ("SRCC", "KRCC", "PLCC"),
        "validation: errors": ("RMSE", "MAE"),
    }
    for axis, (title, names) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name in names:
            axis.plot(epochs, [entry[name] for entry in history], marker="o", markersize=3, label=name)
        if np.isfinite(criterion).any():
            best = epochs[int(np.nanargmax(criterion))]
            axis.axvline(best, color="0.6", linewidth=1, linestyle="--", label=f"best: epoch {best}")
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    with replace_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format=Path(path).suffix[1:])


def log_setup(run: Run, model: QualityModel, source: str) -> None:
    """Log what a reader needs to know before the first epoch; `source` says where the first weights come from."""
    options, table = run.options, run.data.table
    counts = ", ".join(f"{len(table.split(name))} {name}" for name in ("train", "val"))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    data_parallel = options.multi_gpu and world_size() == 1 and run.device.type == "cuda"
    devices = torch.cuda.device_count() if data_parallel else world_size()
    say(f"Labels: {table.source} ({counts}; {table.split_rule})")
    pooled = [] if options.source_column else several_sources_note(table.split("train"))
    for note in (*table.notes, *pooled):
        say(f"Note: {note}")
    if run.data.has_sources:
        counts = np.bincount(run.data.training.sources)
        names = ", ".join(f"{name} ({n})" for name, n in zip(run.data.training.source_names, counts, strict=True))
        say(f"Sources: {names}; scores have the scale of {run.data.score_scale}")
    say(f"Model: {options.model} with {options.backbone}, {parameters / 1e6:.2f} M parameters, from {source}")
    say(f"Device: {run.device.type} x {devices}, {options.num_workers} data workers; checkpoints in {run.snapshots}")


def format_validation(
    metrics: Mapping[str, float],
    count: int,
    total: int,
    calibration: Calibration | None,
    sources: Mapping[str, Source] | None = None,
) -> str:
    """Return the validation measures as a line of the log; `count` of the `total` images could be used."""
    images = f"{count} images" if count == total else f"{count} of {total} images"
    text = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    undefined = "" if math.isfinite(metrics["SRCC"]) else " | NaN: correlations of constant scores are undefined"
    mapping = " | PLCC, RMSE, MAE val-fitted"
    if calibration is not None and not calibration.parameters:
        mapping = f" | no mapping: {calibration.reason}"
    if sources:
        text = f"mean over sources {text}"
        for name, source in sources.items():
            if source.metrics:
                text += f" | {name}: SRCC {source.metrics['SRCC']:.4f}, PLCC {source.metrics['PLCC']:.4f}"
    return f"validation ({images}): {text}{mapping}{undefined}"


def log_result(run: Run, state: TrainingState) -> None:
    """Close the curves; log where the results are, and what to do next."""
    if run.curves:
        run.curves.close()
    table = run.data.table
    say(f"Best epoch by validation: {state.best_epoch} ({run.best}); history: {run.logs / 'history.csv'}")
    if state.skipped:
        say(f"Skipped {len(state.skipped)} images that cannot be used; see {run.logs / 'skipped.csv'}")
    if len(table.split("test")):
        say(f"To evaluate it once on the test split: python test.py --checkpoint {run.best}")
    else:
        say(f"{table.source} has no test split: test.py needs a label file with one (--metadata FILE)")
