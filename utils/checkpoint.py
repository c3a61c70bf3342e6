"""Checkpoints: what they hold, and loading a model from ours and from the released ones alike."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch

from data.files import one_line
from data.views import ViewSpec
from models import build_model
from models.backbones import IMAGENET_MEAN, IMAGENET_STD
from models.uiqa import QualityModel
from utils.calibration import Calibration, load_calibration
from utils.errors import CheckpointError
from utils.loaded_model import LoadedModel
from utils.weights_file import is_ours, load_strictly, read_weights_file, unwrap_state_dict, write_weights_file

OWN_MODEL = Path(__file__).resolve().parent.parent / "ckpts" / "lite.safetensors"  # it comes with the repository


@dataclass(frozen=True)
class ResumeState:
    """What resuming a training needs beside the weights; `utils.training.state` fills and reads it.

    Attributes:
        optimizer, scheduler, scaler: torch's own state dicts.
        trained_weights: the weights under training, if `state_dict` holds their moving average; else None.
        progress: plain values by name.
    """

    optimizer: dict
    scheduler: dict
    scaler: dict
    trained_weights: dict[str, torch.Tensor] | None
    progress: dict


@dataclass(frozen=True)
class Source:
    """A data set among several that a model was trained on.

    Attributes:
        mean, sd: of its training opinions, on its own scale.
        calibration: mapping of scores on its scale to quality, fitted on its validation images; None without any.
        metrics: measures on its validation images, or None.
    """

    mean: float
    sd: float
    calibration: Calibration | None
    metrics: dict[str, float] | None = None

    def to_dict(self) -> dict:
        """Return plain values, for a checkpoint."""
        return vars(self) | {"calibration": self.calibration and self.calibration.to_dict()}

    @classmethod
    def from_dict(cls, fields: dict) -> "Source":
        """Undo `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: a field is missing or wrong.
        """
        calibration = fields["calibration"]
        mean, sd = float(fields["mean"]), float(fields["sd"])
        if not (math.isfinite(mean) and math.isfinite(sd) and sd > 0):
            raise ValueError(f"a source has a finite mean and a positive s.d.: got {mean} and {sd}")
        return cls(mean, sd, None if calibration is None else Calibration.from_dict(calibration), fields["metrics"])


@dataclass(frozen=True)
class Checkpoint:
    """The fields of a checkpoint file.

    Attributes:
        model: name and options for `models.build_model`, without the view sizes.
        state_dict: weights; scores are on the scale of the opinions that the loss saw.
        normalisation: `mean` and `std` of the pixels, see `models.uiqa.QualityModel.normalisation`.
        view_spec: how views are cut.
        mos_scale: `mean` and `sd` with which opinions were standardised; loading folds them into the last layer.
        calibration: mapping of scores to quality, fitted on validation; None before the first validation.
        branch_means: points that each view adds to the validation images' scores on average, or None.
        options: of the run that trained it.
        sources: the data sets it was trained on by name, if there are several; None if opinions are of one.
        fingerprint: of the names and opinions of the training images; that of the validation images; that of the order.
        metrics: validation measures, or None.
        epoch: number of finished epochs.
        resume: what `--resume` needs; None in a checkpoint that is only for scoring.
    """

    model: dict
    state_dict: dict[str, torch.Tensor]
    normalisation: dict[str, list[float]]
    view_spec: ViewSpec
    mos_scale: dict[str, float]
    calibration: Calibration | None
    branch_means: dict[str, float] | None
    options: dict
    sources: dict[str, Source] | None = None
    fingerprint: str = ""
    metrics: dict[str, float] | None = None
    epoch: int = 0
    resume: ResumeState | None = field(default=None)

    def save(self, path: str | os.PathLike, keep_previous: bool = False) -> None:
        """Write the checkpoint; arguments and errors as in `utils.weights_file.write_weights_file`."""
        content = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "resume"}
        content["view_spec"] = self.view_spec.to_dict()
        content["calibration"] = self.calibration and self.calibration.to_dict()
        content["sources"] = self.sources and {name: source.to_dict() for name, source in self.sources.items()}
        resume = vars(self.resume) if self.resume else {}
        write_weights_file(path, content | resume, keep_previous)

    @classmethod
    def from_dict(cls, content: dict, path: str | os.PathLike) -> "Checkpoint":
        """Check the content of a file and return it.

        Raises:
            CheckpointError: an entry is missing or not what it should be.
        """
        try:
            view_spec, calibration, branch_means = description_fields(content)
            sources = content.get("sources")
            if sources and content["options"]["score_scale"] not in sources:
                raise ValueError("its score_scale is none of its sources")
            resume = {entry.name: content[entry.name] for entry in fields(ResumeState) if entry.name in content}
            return cls(
                model=dict(content["model"]),
                state_dict=content["state_dict"],
                # Earlier versions normalised views by ImageNet's for every trunk.
                normalisation=_normalisation(
                    content.get("normalisation", {"mean": IMAGENET_MEAN, "std": IMAGENET_STD})
                ),
                view_spec=view_spec,
                mos_scale={name: float(content["mos_scale"][name]) for name in ("mean", "sd")},
                calibration=calibration,
                branch_means=branch_means,
                options=dict(content["options"]),
                sources=sources and {str(name): Source.from_dict(fields) for name, fields in sources.items()},
                fingerprint=content.get("fingerprint", ""),
                metrics=content.get("metrics"),
                epoch=content.get("epoch", 0),
                resume=ResumeState(**resume) if resume else None,
            )
        except Exception as error:  # a value of any type may stand anywhere
            raise _damaged(path, error) from error


def description_fields(content: dict) -> tuple[ViewSpec, Calibration | None, dict[str, float] | None]:
    """Return `view_spec`, `calibration` and `branch_means` of a checkpoint's or an exported file's content.

    Raises:
        KeyError, TypeError, ValueError: an entry is missing or not what it should be.
    """
    view_spec = ViewSpec.from_dict(content["view_spec"])
    calibration, branch_means = content["calibration"], content["branch_means"]
    if calibration is not None:
        calibration = Calibration.from_dict(calibration)
    if branch_means is not None:
        branch_means = {name: float(branch_means[name]) for name in view_spec.views}
    return view_spec, calibration, branch_means


def _normalisation(fields: dict) -> dict[str, list[float]]:
    """Return `mean` and `std` of the pixels.

    Raises:
        KeyError, TypeError, ValueError: one is missing, or not three finite numbers, or an s.d. is not positive.
    """
    values = {name: [float(value) for value in fields[name]] for name in ("mean", "std")}
    if (
        any(len(three) != 3 or not all(map(math.isfinite, three)) for three in values.values())
        or min(values["std"]) <= 0
    ):
        raise ValueError(f"mean and std of the pixels are three finite numbers each, the std positive: got {values}")
    return values


def load_checkpoint(path: str | os.PathLike) -> Checkpoint | None:
    """Return a checkpoint of ours, or None if the file is a bare state dict.

    Raises:
        CheckpointError: the file is missing or damaged, or written by a newer version.
    """
    content = read_weights_file(path)
    return Checkpoint.from_dict(content, path) if is_ours(content, path) else None


def load_model(path: str | os.PathLike | None = None, calibration_path: str | os.PathLike | None = None) -> LoadedModel:
    """Load a model for scoring, from a checkpoint of ours or a released state dict (UIQA or AVA, Swin-T at 480).

    Args:
        path: `.pth` or `.safetensors`; None for the model that comes with the repository, docs/model_card.md.
        calibration_path: a released `UIQA.npy`; for a bare state dict a `.npy` of the same name beside it is found.

    Raises:
        CheckpointError: the file cannot be used.
        ValueError: the calibration file cannot be used.
    """
    path = OWN_MODEL if path is None else Path(path)
    content = read_weights_file(path)
    if is_ours(content, path):
        return _load_ours(path, Checkpoint.from_dict(content, path), calibration_path)

    state_dict = unwrap_state_dict(content)
    name = "UIQA" if any(key.startswith("aesthetics_feature_extraction.") for key in state_dict) else "SwinT"
    model = build_model(name)
    load_strictly(model, state_dict, path)
    beside = path.with_suffix(".npy")
    if calibration_path is None and beside.is_file():
        calibration_path = beside
    return LoadedModel(
        model=model.eval(),
        view_spec=ViewSpec(views=model.view_names),
        calibration=load_calibration(calibration_path) if calibration_path else None,
        branch_means=None,
        options={},
        architecture={"name": name, "backbone": "swin_t"},
    )


def _load_ours(path: Path, checkpoint: Checkpoint, calibration_path: str | os.PathLike | None) -> LoadedModel:
    try:
        model = _build_within(path, checkpoint.model, checkpoint.view_spec)
        _check_views(model.view_names, checkpoint.view_spec)
        model.set_normalisation(**checkpoint.normalisation)
    except Exception as error:  # timm and torch raise many kinds of exceptions for options that do not fit
        raise _damaged(path, error) from error
    load_strictly(model, checkpoint.state_dict, path)
    model.fold_opinion_scale(checkpoint.mos_scale["mean"], checkpoint.mos_scale["sd"])
    return LoadedModel(
        model=model.eval(),
        view_spec=checkpoint.view_spec,
        calibration=load_calibration(calibration_path) if calibration_path else checkpoint.calibration,
        branch_means=checkpoint.branch_means,
        options=checkpoint.options,
        architecture=checkpoint.model,
        sources=checkpoint.sources,
        fingerprint=checkpoint.fingerprint.split(" ")[0],  # behind it: of the validation images and of the order
    )


def _check_views(model_views: Sequence[str], view_spec: ViewSpec) -> None:
    missing = set(model_views) - set(view_spec.views)
    if missing:
        raise ValueError(f"its view_spec lacks the views {', '.join(sorted(missing))}")


def _build_within(path: Path, options: dict, view_spec: ViewSpec) -> QualityModel:
    """Build the model of a checkpoint, unless it has more weights than the file has bytes.

    Raises:
        ValueError: it has; or no such model or backbone. Options of other types raise errors of all kinds.
    """
    if not all(value is None or isinstance(value, str | int | float) for value in dict.values(options)):
        raise ValueError("a model's options must be plain values")
    try:
        with torch.device("meta"):  # takes no memory
            outline = build_model(**options, view_sizes=view_spec.view_sizes)
        weights = sum(parameter.numel() for parameter in outline.parameters())
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error):
            raise
        weights = 0  # a trunk that computes with numbers while it is built cannot be outlined
    if weights > path.stat().st_size:
        raise ValueError(f"its model has {weights} weights, more than the file has bytes")
    return build_model(**options, view_sizes=view_spec.view_sizes)


def _damaged(path: str | os.PathLike, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: damaged: {type(error).__name__}: {one_line(error)}")
