"""Checkpoints: written whole or not at all, read without running code, ours and the released ones alike."""

import os
import re
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from data.views import ViewSpec
from models import build_model
from models.uiqa import QualityModel
from utils.calibration import Calibration, load_calibration
from utils.metadata import decode

FORMAT = "uiqa-checkpoint"
VERSION = 1

WHERE_TO_GET_WEIGHTS = (
    "Train one (`python train.py --help`; `make demo` makes ckpts/demo/best.pth), or download the authors' UIQA.pth "
    "and UIQA.npy into ckpts/ (links: https://github.com/sunwei925/UIQA)"
)


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file, the cause and the remedy."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to score.

    Attributes:
        model: in evaluation mode on the CPU; its scores are on the data set's scale.
        view_spec: how its views are cut.
        calibration: mapping of scores to quality, None if the checkpoint has none.
        branch_means: points that each view adds to the validation images' scores on average, None if the checkpoint has
            none.
        options: of the run that trained it; empty for released weights.
        architecture: the name and the options that `models.build_model` builds it from, less the view sizes.
    """

    model: QualityModel
    view_spec: ViewSpec
    calibration: Calibration | None
    branch_means: dict[str, float] | None
    options: dict
    architecture: dict

    def with_max_pixels(self, max_pixels: int | None) -> "LoadedModel":
        """Return the model with another limit on the images that it reads; None leaves its own."""
        return replace(self, view_spec=replace(self.view_spec, max_pixels=max_pixels or self.view_spec.max_pixels))


def save_checkpoint(path: str | os.PathLike, content: dict, keep_previous: bool = False) -> None:
    """Write a checkpoint so that the file is either the old one or the whole new one, whatever happens in between.

    Args:
        path: its folder must exist.
        content: tensors, dicts, lists, str, int, float, bool and None only, so that loading never runs code.
        keep_previous: keep the file that is replaced beside it, see `previous_of`.

    Raises:
        CheckpointError: it cannot be written, on a full disk for one; what was there is untouched.
    """
    path = Path(path)
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with unfinished.open("wb") as file:
            torch.save({"format": FORMAT, "version": VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError
        unfinished.unlink(missing_ok=True)
        cause = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
        remedy = f"{path} still holds the last good one" if path.exists() else "there was none before"
        raise CheckpointError(
            f"{path}: this checkpoint cannot be written ({cause}); {remedy}. Make room, and go on with --resume auto"
        ) from error
    if keep_previous and path.exists():
        # A second name for the old file first: at no moment is there no whole checkpoint under the name.
        second = path.with_name(path.name + ".second")
        second.unlink(missing_ok=True)
        try:
            os.link(path, second)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, second)
        second.replace(previous_of(path))
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def previous_of(path: str | os.PathLike) -> Path:
    """Return where the checkpoint before this one is: last.pth has previous.pth beside it."""
    return Path(path).with_name("previous.pth")


def read_weights_file(path: str | os.PathLike) -> dict:
    """Read a `.safetensors` or torch file onto the CPU, with `weights_only=True`, so that no code in it is run.

    A `.safetensors` file that `export.py` wrote gives what a checkpoint of ours does.

    Raises:
        CheckpointError: missing, damaged, or with content other than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint. {WHERE_TO_GET_WEIGHTS}")
    try:
        if path.suffix == ".safetensors":
            content = _read_safetensors(path)
        else:
            _check_uncompressed(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(content, dict) and content.get("format") == FORMAT:
                _check_intact(path)
    except Exception as error:  # zip, pickle and torch each raise exceptions of their own for damaged files
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            cause = "it holds objects other than tensors and plain values, which could run code; they are not loaded"
        else:
            first_line = str(error).strip().split("\n")[0][:200]
            cause = f"it is damaged or no checkpoint ({type(error).__name__}: {first_line})"
        raise CheckpointError(f"{path}: cannot be loaded: {cause}") from error
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"{path}: holds no state dict: a dict of weights by name")
    return dict(dict.items(content))  # plain: a pickled OrderedDict may hide its own methods behind attributes


def _read_safetensors(path: Path) -> dict:
    """Return the tensors of a file; with what its header says of their model, if `export.py` wrote it."""
    with safe_open(path, "pt") as file:
        described = decode(file.metadata() or {}, FORMAT)
    state = load_file(path)
    if described is None:
        return state
    return described | {"state_dict": state, "mos_scale": {"mean": 0.0, "sd": 1.0}}  # the scale is folded in


def _check_intact(path: Path) -> None:
    """Compare the checksums of the entries, which torch does not: a flipped bit would be a weight like any other."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"{damaged} has another checksum than was written")


def _check_uncompressed(path: Path) -> None:
    """Refuse a zip with compressed entries, which torch never writes: a small file could fill the memory."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(entry.file_size > entry.compress_size for entry in archive.infolist()):
            raise ValueError("its entries are compressed")


def load_checkpoint(path: str | os.PathLike) -> dict | None:
    """Return the content of a checkpoint of ours, or None if the file is a bare state dict.

    Raises:
        CheckpointError: as `read_weights_file`; or written by a newer version.
    """
    content = read_weights_file(path)
    return content if _is_ours(content, path) else None


def _is_ours(content: dict, path: str | os.PathLike) -> bool:
    """Return whether the content of a file is a checkpoint of ours, and one that this version can read."""
    if content.get("format") != FORMAT:
        return False
    state = content.get("state_dict")
    named = isinstance(state, dict) and all(isinstance(key, str) for key in dict.keys(state))
    if not named or not isinstance(content.get("version"), int):
        raise CheckpointError(f"{path}: damaged: a checkpoint holds its version and a state dict")
    if content["version"] > VERSION:
        raise CheckpointError(f"{path}: written by a newer version of this project ({content['version']}); update it")
    return True


def load_model(path: str | os.PathLike, calibration_path: str | os.PathLike | None = None) -> LoadedModel:
    """Load a model for scoring, from a checkpoint of ours or a released state dict (UIQA or AVA, Swin-T at 480).

    Args:
        path: `.pth` or `.safetensors`.
        calibration_path: a released `UIQA.npy`; without it, for a state dict, a `.npy` of the same name beside it.

    Raises:
        CheckpointError: the file cannot be used.
        ValueError: the calibration file cannot be used.
    """
    path = Path(path)
    content = read_weights_file(path)
    if _is_ours(content, path):
        return _load_ours(path, content, calibration_path)

    state = _without_prefix(content)
    name = "UIQA" if any(key.startswith("aesthetics_feature_extraction.") for key in state) else "SwinT"
    spec = ViewSpec()
    if name == "SwinT":
        spec = ViewSpec(views=("aesthetic",))
    model = build_model(name)
    _load_strictly(model, state, path)
    beside = path.with_suffix(".npy")
    if calibration_path is None and beside.is_file():
        calibration_path = beside
    calibration = load_calibration(calibration_path) if calibration_path else None
    return LoadedModel(model.eval(), spec, calibration, None, {}, {"name": name, "backbone": "swin_t"})


def _load_ours(path: Path, content: dict, calibration_path: str | os.PathLike | None) -> LoadedModel:
    try:
        spec = ViewSpec.from_dict(content["view_spec"])
        model = _build_within(path, content["model"], spec)
        calibration, branch_means = validation_facts(content, model.view_names)
        options = dict(content["options"])
    except Exception as error:  # timm and torch raise exceptions of many kinds for options that do not fit
        raise _damaged(path, error) from error
    _load_strictly(model, content["state_dict"], path)
    model.fold_opinion_scale(*_opinion_scale(content, path))
    if calibration_path:
        calibration = load_calibration(calibration_path)
    return LoadedModel(model.eval(), spec, calibration, branch_means, options, dict(content["model"]))


def validation_facts(content: dict, view_names: Sequence[str]) -> tuple[Calibration | None, dict[str, float] | None]:
    """Return what validation told about a model: the mapping to quality, and the points of each view on average.

    Raises:
        KeyError, TypeError, ValueError: the content is no checkpoint's.
    """
    calibration, branch_means = content["calibration"], content["branch_means"]
    if calibration is not None:
        calibration = Calibration.from_dict(calibration)
    if branch_means is not None:
        branch_means = {name: float(branch_means[name]) for name in view_names}
    return calibration, branch_means


def _build_within(path: Path, options: dict, spec: ViewSpec) -> QualityModel:
    """Build the model of a checkpoint, unless it has more weights than the file has bytes.

    Raises:
        ValueError: it has; or no such model or backbone. Options of other types raise errors of all kinds.
    """
    if not all(value is None or isinstance(value, str | int | float) for value in dict.values(options)):
        raise ValueError("a model's options are plain values")
    try:
        with torch.device("meta"):  # takes no memory
            outline = build_model(**options, view_sizes=spec.view_sizes)
        weights = sum(parameter.numel() for parameter in outline.parameters())
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error):
            raise
        weights = 0  # a trunk that computes with numbers while it is built has no outline
    if weights > path.stat().st_size:
        raise ValueError(f"its model has {weights} weights, more than the file has bytes")
    return build_model(**options, view_sizes=spec.view_sizes)


def _damaged(path: str | os.PathLike, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: damaged: {type(error).__name__}: {_in_short(error)}")


def _in_short(error: Exception) -> str:
    """Return an error's message in one line of at most 300 letters."""
    return " ".join(str(error).split())[:300]


def _opinion_scale(content: dict, path: str | os.PathLike) -> tuple[float, float]:
    """Return the mean and s.d. that a checkpoint's training took away from the opinions and divided them by."""
    try:
        return float(content["mos_scale"]["mean"]), float(content["mos_scale"]["sd"])
    except Exception as error:  # a value of any type may stand there
        raise _damaged(path, error) from error


def initialise(model: QualityModel, path: str | os.PathLike, mos_mean: float = 0.0, mos_sd: float = 1.0) -> str:
    """Start a model from a file of weights; return in words what was taken.

    The file is an AVA checkpoint (`feature_extraction.*`: its trunk starts every branch; its head a single-trunk
    model's), a bare trunk (torchvision's or timm's keys: likewise), or a whole model's state dict or checkpoint.

    Args:
        model: takes the weights.
        path: of the file.
        mos_mean, mos_sd: what training takes away from the opinions and divides them by. A whole model scores on the
            data set's scale; its head is brought to that of the training.

    Raises:
        CheckpointError: the file cannot be read or fits none of these.
    """
    content = read_weights_file(path)
    ours = _is_ours(content, path)
    state = _without_prefix(content["state_dict"] if ours else content)
    names = set(model.state_dict())
    # One trunk's checkpoint has the very names of a model whose branches share a trunk, but a narrower head.
    same_head = getattr(state.get("quality.0.weight"), "shape", None) == model.quality[0].weight.shape
    if names <= set(state) and same_head:
        _load_strictly(model, state, path)
        if ours:
            model.fold_opinion_scale(*_opinion_scale(content, path))
        model.fold_opinion_scale(-mos_mean / mos_sd, 1 / mos_sd)
        return f"all weights from {path}"
    prefix = "feature_extraction."
    trunk = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    trunk = trunk or {key: value for key, value in state.items() if not key.startswith(("head.", "quality."))}
    for branch in model.trunks().values():
        expected = set(branch.state_dict())
        bare_timm = {f"net.{key}" for key in trunk} >= expected
        _load_strictly(
            branch,
            {f"net.{key}": value for key, value in trunk.items() if f"net.{key}" in expected} if bare_timm else trunk,
            path,
        )
    return f"the trunk of {path}, in {len(model.trunks())} branch(es)"


def _without_prefix(state: dict) -> dict:
    """Return a state dict without DataParallel's and torch.compile's prefixes, in whatever order they were added."""
    return {re.sub(r"^((module|_orig_mod)\.)+", "", key): value for key, value in dict.items(state)}


def _load_strictly(module: torch.nn.Module, state: dict, path: str | os.PathLike) -> None:
    """Load a state dict with every key in its place; name what does not fit."""
    try:
        module.load_state_dict(dict(dict.items(state)), strict=True)
    except (RuntimeError, AttributeError, TypeError) as error:
        expected = set(module.state_dict())
        missing, unexpected = sorted(expected - set(state)), sorted(set(state) - expected)
        wrong = [
            f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
            for key, value in module.state_dict().items()
            if isinstance(state.get(key), torch.Tensor) and state[key].shape != value.shape
        ]
        faults = [
            f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for kind, names in (("missing keys", missing), ("unknown keys", unexpected), ("wrong shapes", wrong))
            if names
        ]
        raise CheckpointError(
            f"{path}: its weights do not fit {type(module).__name__}: {'; '.join(faults) or _in_short(error)}. "
            "Is it a checkpoint of another model or backbone?"
        ) from error
