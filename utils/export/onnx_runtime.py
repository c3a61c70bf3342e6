"""Scoring with an exported ONNX file: onnxruntime runs the network, torch only carries the views to it."""

import importlib
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

from data.files import one_line
from data.views import ViewSpec
from utils.calibration import load_calibration
from utils.checkpoint import description_fields
from utils.distributed import select_device
from utils.errors import CheckpointError, RunError
from utils.loaded_model import LoadedModel
from utils.weights_file import VERSION, decode

ONNX_FORMAT = "uiqa-onnx"
MAP_PREFIX = "map_"  # of the outputs: in a graph no output may bear an input's name
CUDA = "CUDAExecutionProvider"


def import_optional(name: str) -> ModuleType:
    """Import a package that only exports and their scoring need.

    Raises:
        RunError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RunError(
            f"the package {name} cannot be imported ({error}); install it: pip install -r requirements-export.txt"
        ) from error


class OnnxNetwork(nn.Module):
    """An exported network that takes the place of a `QualityModel` in `utils.inference.score_photographs`.

    It has no weights that torch could see: the session of onnxruntime has them.

    Args:
        session: an `onnxruntime.InferenceSession` of a graph that `utils.export.onnx_graph` made.
    """

    def __init__(self, session):
        super().__init__()
        self._session = session
        self._dimensions = {view.name: len(view.shape) for view in session.get_inputs()}
        self.view_names = tuple(self._dimensions)

    def contributions(self, **views: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what `QualityModel.contributions` returns, of uint8 views on the CPU, also of several draws.

        Of several draws the whole network runs for each: onnxruntime computes all of a graph, whatever is asked of it.
        """
        arrays = {name: views[name].numpy() for name in self.view_names}
        drawn = {name: array.shape[1] for name, array in arrays.items() if array.ndim > self._dimensions[name]}
        if not drawn:
            return self._run(arrays)
        found = [
            self._run({name: array[:, draw] if name in drawn else array for name, array in arrays.items()})
            for draw in range(max(drawn.values()))
        ]
        means = {name: torch.stack([one[name] for one in found]).mean(dim=0) for name in found[0]}
        return means | {"score_of_draw": torch.stack([one["score"] for one in found], dim=1)}  # (B, K)

    def _run(self, arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        names = ["score", "bias", *(MAP_PREFIX + name for name in self.view_names)]
        found = self._session.run(names, {name: np.ascontiguousarray(array) for name, array in arrays.items()})
        return {
            name.removeprefix(MAP_PREFIX): torch.from_numpy(values) for name, values in zip(names, found, strict=True)
        }


def open_session(path: str | os.PathLike, device: str = "cpu"):
    """Open a file of onnxruntime's format on a device, with as many threads as torch would take.

    Args:
        path: of the file.
        device: as `--device`; "auto" is CUDA where both onnxruntime and the machine have it.

    Raises:
        ValueError: no such device.
        RunError: onnxruntime is missing, or cannot use the device.
        CheckpointError: the file cannot be read.
    """
    runtime = import_optional("onnxruntime")
    providers = _providers(device, runtime.get_available_providers())
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; they end in exceptions
    try:
        session = runtime.InferenceSession(
            os.fspath(path),
            options,
            providers=[name for name, _ in providers],
            provider_options=[settings for _, settings in providers],
        )
    except Exception as error:  # onnxruntime has an exception for every status
        cause = one_line(error)
        raise CheckpointError(f"{path}: onnxruntime cannot read it: {cause}") from error
    if providers[0][0] not in session.get_providers():
        raise RunError(f"--device {device}: onnxruntime cannot use CUDA here; score with --device cpu")
    return session


def _providers(device: str, available: list[str]) -> list[tuple[str, dict]]:
    """Return onnxruntime's providers for a device, and their settings."""
    on_cpu = ("CPUExecutionProvider", {})
    selected = select_device("cpu" if device == "auto" and CUDA not in available else device)
    if selected.type == "cpu":
        return [on_cpu]
    if CUDA not in available:
        raise ValueError(
            f"--device {device}: the installed onnxruntime has no CUDA; install onnxruntime-gpu in its place"
        )
    return [(CUDA, {"device_id": str(selected.index or 0), "use_tf32": "0"}), on_cpu]


def load_onnx(
    path: str | os.PathLike, device: str = "cpu", calibration_path: str | os.PathLike | None = None
) -> LoadedModel:
    """Load an ONNX file of `export.py` for scoring: an `OnnxNetwork`, and what its metadata say beside it.

    Args:
        path: of the file.
        device: where onnxruntime runs it, as `--device`.
        calibration_path: a released `UIQA.npy`, in place of the file's mapping.

    Raises:
        CheckpointError: the file cannot be used.
        RunError: onnxruntime is missing, or cannot use the device.
        ValueError: no such device, or the calibration file cannot be used.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file. `python export.py CKPT --format onnx` makes one of a checkpoint")
    session = open_session(path, device)
    network = OnnxNetwork(session)
    try:
        content = decode(session.get_modelmeta().custom_metadata_map, ONNX_FORMAT)
        if content is None:
            raise ValueError("it was not made by export.py, and does not say how its views are cut")
        if not isinstance(content["version"], int) or content["version"] > VERSION:
            raise ValueError(f"it was made by a newer version of this project ({content['version']}); update it")
        spec, calibration, branch_means = description_fields(content)
        _check_graph(session, spec)
    except Exception as error:  # values of any type may stand in the metadata
        cause = one_line(error)
        raise CheckpointError(f"{path}: cannot be used: {type(error).__name__}: {cause}") from error
    if calibration_path:
        calibration = load_calibration(calibration_path)
    return LoadedModel(network, spec, calibration, branch_means, {}, {})


def _check_graph(session, spec: ViewSpec) -> None:
    """Check that a graph takes the views that its metadata speak of, and gives what scoring reads.

    Raises:
        ValueError: it does not.
    """
    sides = {view.name: view.shape[-1] for view in session.get_inputs() if view.type == "tensor(uint8)"}
    if sides != spec.view_sizes or len(sides) != len(session.get_inputs()):
        raise ValueError(f"its inputs are no uint8 views of {spec.view_sizes} pixels")
    outputs = {output.name: output.type for output in session.get_outputs()}
    missing = {"score", "bias", *(MAP_PREFIX + name for name in sides)} - set(outputs)
    if missing or set(outputs.values()) != {"tensor(float)"}:
        raise ValueError(f"its outputs are not float scores and maps (missing: {', '.join(sorted(missing)) or 'none'})")
