"""What runs leave behind: tables for people, JSON and CSV for machines."""

import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from utils.calibration import Calibration, fit_calibration
from utils.metrics import MEASURES, bootstrap_intervals, mapped_metrics

RESAMPLES = 1000


def evaluation_report(
    scores: np.ndarray, mos: np.ndarray, split: str, calibration: Calibration | None, seed: int = 0
) -> dict:
    """Measure scores against opinions in the three protocols.

    Args:
        scores, mos: (n,) each, finite.
        split: name of the split, for the words.
        calibration: the mapping fitted on validation data, if there is one.
        seed: of the bootstrap.

    Returns:
        `split`, `n` and, for each protocol, the five measures with `ci95` (95 % intervals by `RESAMPLES` resamples, the
        mapping held fixed) and `mapping` (in words): `raw` scores; `val_fitted`, None without a calibration; and
        `test_fitted`, the mapping fitted on these very labels, which is how published tables are made.
    """
    own = fit_calibration(scores, mos, f"the {split} labels themselves")
    protocols = {"raw": (scores, "none: raw scores")}
    if calibration is not None:
        protocols["val_fitted"] = (calibration(scores), calibration.describe())
    protocols["test_fitted"] = (own(scores), own.describe())
    report = {"split": split, "n": len(scores), "raw": None, "val_fitted": None, "test_fitted": None}
    for name, (mapped, words) in protocols.items():
        report[name] = mapped_metrics(scores, mapped, mos) | {
            "ci95": bootstrap_intervals(scores, mapped, mos, RESAMPLES, seed),
            "mapping": words,
        }
    return report


def measures_table(rows: dict[str, dict | None]) -> str:
    """Return a table of measures with their intervals, one line for each named report."""
    width = max(map(len, rows)) + 2
    lines = [" " * width + "".join(f"{name:<24}" for name in MEASURES).rstrip()]
    for name, measures in rows.items():
        if measures is None:
            lines.append(f"{name:<{width}}not available")
            continue
        cells = [
            f"{measures[key]:.4f} [{measures['ci95'][key][0]:.3f}, {measures['ci95'][key][1]:.3f}]" for key in MEASURES
        ]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:<24}" for cell in cells).rstrip())
    return "\n".join(lines)


def write_json(path: str | os.PathLike, content: dict) -> None:
    """Write JSON to a file, or to standard output for "-"; numbers that are not finite become null."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    if str(path) == "-":
        print(text)
    else:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text + "\n", encoding="utf-8")


def write_csv(path: str | os.PathLike, rows: pd.DataFrame | Sequence[dict]) -> None:
    """Write a table as CSV, creating its folder; the file is the old one or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    pd.DataFrame(rows).to_csv(unfinished, index=False)
    unfinished.replace(path)


def environment() -> dict[str, str]:
    """Return the command and the versions that a result depends on."""
    packages = ("torchvision", "timm", "numpy", "Pillow", "simplejpeg", "scipy", "pandas")
    return {
        "command": " ".join(sys.argv),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "torch": torch.__version__,  # with its CUDA build
        **{name: version(name) for name in packages},
    }


def _finite(value: object) -> object:
    """Return plain values that JSON has: no NaN, no infinities, no numpy types."""
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
