"""What runs on Ray's workers: tasks that cut photographs into views, and actors that score them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.datasets import PhotographDataset
from data.files import utf8
from data.layout import to_image, to_view
from data.views import ViewSpec
from utils.distributed import select_device
from utils.inference import score_photographs
from utils.loaded_model import LoadedModel
from utils.predictions import predictions_table


def cut_photographs(batch: dict[str, np.ndarray], spec: ViewSpec, draws: int) -> dict[str, np.ndarray]:
    """Decode photographs and cut their views, as a Ray task.

    Args:
        batch: `index` and `image`, (n,) each; images are paths, as bytes if they may not be UTF-8.
        spec, draws: as for `data.datasets.PhotographDataset`.

    Returns:
        `index` and `image`; `error`, "" if there is none; and each view as uint8 (n, S, S, 3), or (n, draws, S, S, 3)
        for the distortion view of several draws; zeros where there is an error.
    """
    photographs = PhotographDataset([os.fsdecode(path) for path in batch["image"]], spec, draws=draws)
    samples = [photographs[row] for row in range(len(photographs))]
    views = {}
    for name, size in spec.view_sizes.items():
        empty = np.zeros((draws, size, size, 3) if name == "distortion" and draws > 1 else (size, size, 3), np.uint8)
        views[name] = np.stack([to_image(sample[name]) if name in sample else empty for sample in samples])
    # As UTF-8, because Arrow, which carries them to the actors, has no other text.
    names = [utf8(path) for path in photographs.paths]
    errors = [utf8(sample.get("error", "")) for sample in samples]
    return {"index": batch["index"], "image": np.array(names, object), "error": np.array(errors, object), **views}


@dataclass
class CutPhotographs:
    """The output of `cut_photographs` as samples like those of `data.datasets.PhotographDataset`."""

    batch: dict[str, np.ndarray]
    views: Sequence[str]
    draws: int
    is_ragged: bool = False

    @property
    def paths(self) -> np.ndarray:
        """Names of the photographs."""
        return self.batch["image"]

    def __len__(self) -> int:
        return len(self.batch["index"])

    def __getitem__(self, row: int) -> dict:
        if self.batch["error"][row]:
            return {"index": row, "error": self.batch["error"][row]}
        views = {name: to_view(self.batch[name][row]) for name in self.views}
        return views | {"index": row, "mos": np.nan}


class Scorer:
    """A Ray actor that holds the model and scores the output of `cut_photographs`.

    Args:
        loaded: a list of one reference to a `LoadedModel` in Ray's object store.
        device: "cpu", or "cuda" for the GPU that Ray assigned to this actor.
        draws: fragment draws of each photograph.
        compile: compile the trunks with torch.compile.
        precision: of the trunks.
    """

    def __init__(self, loaded: list, device: str, draws: int, compile: bool, precision: str):
        import ray

        self.loaded: LoadedModel = ray.get(loaded[0])
        self.device = select_device(device)
        self.draws = draws
        self.precision = precision
        self.model = self.loaded.model.to(self.device)
        if compile:
            self.model.compile_trunks()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return `index`, `error` and the columns of `utils.predictions.predictions_table`, (n,) each."""
        photographs = CutPhotographs(batch, self.model.view_names, self.draws)
        scores = score_photographs(
            self.model, photographs, self.device, len(photographs), distributed=False, precision=self.precision
        )
        rows = predictions_table(scores, self.loaded.calibration)
        errors = np.full(len(photographs), "", object)
        for row, message in scores.failures:
            errors[row] = message
        return {"index": batch["index"], "error": errors} | {name: rows[name].to_numpy() for name in rows}
