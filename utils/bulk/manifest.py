"""What scores on disk were made with, so that a job adds only to scores of the same settings."""

import argparse
import json
from pathlib import Path

from data.files import file_sha256, write_json
from utils.environment import environment
from utils.errors import RunError
from utils.loaded_model import LoadedModel


def scoring_settings(options: argparse.Namespace, loaded: LoadedModel) -> dict:
    """Return what the scores of predict.py depend on besides the photographs, as plain values by name."""
    network = "onnx" if options.onnx else "checkpoint"
    # Without an entry the precision is float32, as in manifests from before there was a choice.
    precision = {} if options.precision == "fp32" else {"precision": options.precision}
    return precision | {
        network: f"with the SHA-256 {file_sha256(getattr(options, network))}",
        "calibration": loaded.calibration.to_dict() if loaded.calibration else None,
        "fragment_draws": options.fragment_draws,
        "max_pixels": loaded.view_spec.max_pixels,
    }


def write_manifest(path: Path, settings: dict) -> None:
    """Record settings, with the command and versions."""
    write_json(path, {"settings": settings, "environment": environment()})


def check_manifest(path: Path, settings: dict, results: Path, remedy: str) -> None:
    """Compare settings with those of a manifest.

    Args:
        path: the manifest.
        settings: of this job.
        results: what the manifest is about, for messages.
        remedy: what to do instead of adding to these results, for messages.

    Raises:
        RunError: they differ, or the manifest is missing or damaged.
    """
    try:
        recorded = dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except FileNotFoundError:
        raise RunError(f"{results}: there is no {path.name} about the origin of its scores; {remedy}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged, or not from this project; {remedy}") from error
    current = json.loads(json.dumps(settings))  # as they would be read back
    for name in [*current, *(name for name in recorded if name not in current)]:
        if recorded.get(name) != current.get(name):
            raise RunError(
                f"{results}: its scores were made with {name} {recorded.get(name)}, now it is {current.get(name)}; "
                f"use the former, or {remedy}"
            )
