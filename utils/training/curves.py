"""The picture of a training's history."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from data.files import replace_file


def draw_curves(history: Sequence[Mapping], path: str | os.PathLike) -> None:
    """Draw a training's history: the loss and its parts, the validation measures, the best epoch.

    Args:
        history: one entry an epoch, as in history.csv.
        path: of the picture; it is the old one or the whole new one.
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
