"""A model that is ready to score photographs, and the score of one photograph."""

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import nn

from data.datasets import PhotographDataset
from data.decode import ImageError
from data.views import ViewSpec
from utils.calibration import Calibration
from utils.inference import score_photographs
from utils.predictions import predictions_table

Photo = str | os.PathLike | bytes | bytearray | memoryview | Image.Image | np.ndarray


@dataclass(frozen=True)
class PhotographScore:
    """The score of one photograph, as `predict.py` gives it.

    Attributes:
        score: the network's output, on the data set's scale; NaN if the photograph cannot be used.
        quality: the score mapped to the MOS scale; None without a mapping.
        points: what each view adds to the score; with the model's bias they sum to it.
        maps: for each view the points of every place, (h, w) float32, whose mean is the view's points; None unless
            requested.
        error: why the photograph cannot be used; None if it was scored.
    """

    score: float
    quality: float | None
    points: dict[str, float]
    maps: dict[str, np.ndarray] | None = None
    error: str | None = None

    def __str__(self) -> str:
        if self.error:
            return f"failed: {self.error}"
        return f"score {self.score:.4f}" + ("" if self.quality is None else f", quality {self.quality:.4f}")


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to score, on the CPU until `loaded.model.to(device)` moves it.

    Attributes:
        model: a `QualityModel`, or an ONNX network in its role, in evaluation mode; its scores are on the data set's
            scale.
        view_spec: how its views are cut.
        calibration: mapping of scores to quality; None if the checkpoint has none.
        branch_means: points that each view adds to the validation images' scores on average; None if the checkpoint has
            none.
        options: of the run that trained it; empty for released weights and ONNX files.
        architecture: name and options for `models.build_model`, without the view sizes; empty for ONNX files.
        sources: the data sets it was trained on by name (`utils.checkpoint.Source`), if there are several; scores are
            on the scale of the one that `options["score_scale"]` names.
        fingerprint: of the names and opinions of its training images; empty for released weights and ONNX files.
    """

    model: nn.Module
    view_spec: ViewSpec
    calibration: Calibration | None
    branch_means: dict[str, float] | None
    options: dict
    architecture: dict
    sources: Mapping | None = None
    fingerprint: str = ""

    def with_max_pixels(self, max_pixels: int | None) -> "LoadedModel":
        """Return the model with another limit on the size of images; None keeps its own."""
        return replace(self, view_spec=replace(self.view_spec, max_pixels=max_pixels or self.view_spec.max_pixels))

    def for_source(self, name: str | None) -> "LoadedModel":
        """Return the model on the scale of another data set that it was trained on; itself for an unknown one.

        Scores, maps and `branch_means` are then in units of that data set's opinions, and the mapping is its own.
        """
        if not self.sources or name not in self.sources:
            return self
        source, own = self.sources[name], self.sources[self.options["score_scale"]]
        ratio, model = source.sd / own.sd, deepcopy(self.model)
        model.fold_opinion_scale(source.mean - own.mean * ratio, ratio)
        means = self.branch_means and {view: points * ratio for view, points in self.branch_means.items()}
        return replace(self, model=model, calibration=source.calibration, branch_means=means)

    def score(
        self, photos: Photo | Sequence[Photo], maps: bool = False, batch_size: int = 8
    ) -> PhotographScore | list[PhotographScore]:
        """Score one photograph or several, on the device where the model is.

            print(load_model("ckpts/demo/best.pth").score("photo.jpg"))  # score 0.5123, quality 0.5310

        Args:
            photos: a path, a file's content, a PIL image or an (H, W, 3) uint8 array; or a list of these.
            maps: also return the points of every place.
            batch_size: photographs per forward pass.

        Returns:
            A `PhotographScore`; for a list, a list of them in the same order. In a list, a photograph that cannot be
            used has an `error`, and the others are scored.

        Raises:
            TypeError: photos are something else.
            ImageError: a single photograph cannot be used.
        """
        if not isinstance(photos, Photo | Sequence):
            raise TypeError(
                "photos must be a path, a file's content, a PIL image, an (H, W, 3) uint8 array or a list of these, "
                f"not {type(photos).__name__}"
            )
        if isinstance(photos, Photo):
            (result,) = self.score([photos], maps)
            if result.error:
                raise ImageError(result.error)
            return result
        device = next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))
        photographs = PhotographDataset(photos, self.view_spec)
        scores = score_photographs(self.model, photographs, device, batch_size, maps=maps, distributed=False)
        errors = dict(scores.failures)
        return [
            PhotographScore(
                score=row["score"],
                quality=row["quality"] if self.calibration and index not in errors else None,
                points={name: float(points[index]) for name, points in scores.points.items()},
                maps={name: points[index] for name, points in scores.maps.items()} if maps else None,
                error=errors.get(index),
            )
            for index, row in enumerate(predictions_table(scores, self.calibration).to_dict("records"))
        ]
