"""Scoring with an exported ONNX file: onnxruntime runs the network, torch only prepares its views."""

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
from utils.weights_file import VERSION, check_download, decode

ONNX_FORMAT = "uiqa-onnx"
PHOTOGRAPH = "photograph"  # the input of a file that cuts the views itself
MAP_PREFIX = "map_"  # in an ONNX graph, an output must not have the name of an input
CUDA = "CUDAExecutionProvider"


def import_optional(name: str) -> ModuleType:
    """Import a package that only exporting and scoring with exports need.

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
    """An exported network that replaces a `QualityModel` in `utils.inference.score_photographs`.

    It has no torch parameters: the weights are in onnxruntime's session.

    Args:
        session: an `onnxruntime.InferenceSession` with a graph from `utils.export.onnx_graph`.
    """

    def __init__(self, session):
        super().__init__()
        self._session = session
        self._dimensions = {view.name: len(view.shape) for view in session.get_inputs()}
        self.view_names = tuple(self._dimensions)

    def contributions(self, **views: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the same as `QualityModel.contributions`, for uint8 views on the CPU.

        With several draws of a view, the whole network runs once per draw: onnxruntime always computes a whole graph.
        """
        arrays = {name: views[name].numpy() for name in self.view_names}
        drawn = {name: array.shape[1] for name, array in arrays.items() if array.ndim > self._dimensions[name]}
        if not drawn:
            return self._run(arrays)
        outputs = [
            self._run({name: array[:, draw] if name in drawn else array for name, array in arrays.items()})
            for draw in range(max(drawn.values()))
        ]
        means = {name: torch.stack([output[name] for output in outputs]).mean(dim=0) for name in outputs[0]}
        return means | {"score_of_draw": torch.stack([output["score"] for output in outputs], dim=1)}  # (B, K)

    def _run(self, arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        names = ["score", "bias", *(MAP_PREFIX + name for name in self.view_names)]
        outputs = self._session.run(names, {name: np.ascontiguousarray(array) for name, array in arrays.items()})
        outputs = map(torch.from_numpy, outputs)
        return {name.removeprefix(MAP_PREFIX): output for name, output in zip(names, outputs, strict=True)}


def open_session(path: str | os.PathLike, device: str = "cpu"):
    """Open an ONNX file with onnxruntime, which uses as many threads as torch.

    Args:
        path: the file.
        device: as `--device`; "auto" is CUDA if both onnxruntime and the machine support it.

    Raises:
        ValueError: there is no such device.
        RunError: onnxruntime is missing, or cannot use the device.
        CheckpointError: the file cannot be read.
    """
    runtime = import_optional("onnxruntime")
    providers = _providers(device, runtime.get_available_providers())
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only, which raise exceptions as well
    try:
        session = runtime.InferenceSession(os.fspath(path), options, providers=providers)
    except Exception as error:  # onnxruntime has one exception class per status
        check_download(Path(path))
        raise CheckpointError(f"{path}: onnxruntime cannot read it: {one_line(error)}") from error
    if providers[0][0] not in session.get_providers():
        raise RunError(f"--device {device}: onnxruntime cannot use CUDA here; score with --device cpu")
    return session


def _providers(device: str, available: list[str]) -> list[tuple[str, dict]]:
    """Return onnxruntime's providers for a device with their settings."""
    on_cpu = ("CPUExecutionProvider", {})
    selected = select_device("cpu" if device == "auto" and CUDA not in available else device)
    if selected.type == "cpu":
        return [on_cpu]
    if CUDA not in available:
        raise ValueError(f"--device {device}: the installed onnxruntime has no CUDA; install onnxruntime-gpu instead")
    return [(CUDA, {"device_id": str(selected.index or 0), "use_tf32": "0"}), on_cpu]


def load_onnx(
    path: str | os.PathLike, device: str = "cpu", calibration_path: str | os.PathLike | None = None
) -> LoadedModel:
    """Load an ONNX file from `export.py` for scoring.

    Args:
        path: the file.
        device: where onnxruntime runs it, as `--device`.
        calibration_path: a released `UIQA.npy`, instead of the file's mapping.

    Raises:
        CheckpointError: the file cannot be used.
        RunError: onnxruntime is missing, or cannot use the device.
        ValueError: there is no such device, or the calibration file cannot be used.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file. Make one with `python export.py CKPT --format onnx`")
    session = open_session(path, device)
    network = OnnxNetwork(session)
    try:
        content = decode(session.get_modelmeta().custom_metadata_map, ONNX_FORMAT)
        if content is None:
            raise ValueError("it is not from export.py, so it does not say how its views are cut")
        if not isinstance(content["version"], int) or content["version"] > VERSION:
            raise ValueError(f"it is from a newer version of this project ({content['version']}); update the project")
        spec, calibration, branch_means = description_fields(content)
        _check_graph(session, spec)
    except Exception as error:  # metadata may hold values of any type
        raise CheckpointError(f"{path}: cannot be used: {type(error).__name__}: {one_line(error)}") from error
    if calibration_path:
        calibration = load_calibration(calibration_path)
    return LoadedModel(network, spec, calibration, branch_means, {}, {})


def _check_graph(session, spec: ViewSpec) -> None:
    """Check that a graph has the inputs that its metadata describe, and the outputs that scoring needs.

    Raises:
        ValueError: it does not.
    """
    if [value.name for value in session.get_inputs()] == [PHOTOGRAPH]:
        raise ValueError("it reads whole photographs, for programs without this project; export it with --input views")
    sides = {view.name: view.shape[-1] for view in session.get_inputs() if view.type == "tensor(uint8)"}
    if sides != spec.view_sizes or len(sides) != len(session.get_inputs()):
        raise ValueError(f"its inputs are not uint8 views of {spec.view_sizes} pixels")
    outputs = {output.name: output.type for output in session.get_outputs()}
    missing = {"score", "bias", *(MAP_PREFIX + name for name in sides)} - set(outputs)
    if missing or set(outputs.values()) != {"tensor(float)"}:
        raise ValueError(f"its outputs are not float scores and maps (missing: {', '.join(sorted(missing)) or 'none'})")
