"""What a training reads: pairs to learn from, photographs to be validated on, and what identifies them."""

import argparse
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from torch.utils.data import Dataset

from data.datasets import PairDataset, PhotographDataset
from data.packed import PackedPhotographs, PackedViews
from data.tables import LabelTable, data_fingerprint
from data.views import ViewSpec
from utils.errors import RunError
from utils.options import table_of
from utils.predictions import read_predictions


@dataclass(frozen=True)
class TrainingData:
    """The data of a training.

    Attributes:
        table: the labels.
        training: pairs, or single photographs with `--pairing batch`.
        validation: photographs, samples as of `data.datasets.PhotographDataset`.
        validation_mos: (n,) float64, their opinions.
        scale: `mean` and `sd`; the loss sees (mos - mean) / sd, and loading a checkpoint folds the two back.
        fingerprint: of the names and opinions of both splits.
    """

    table: LabelTable
    training: PairDataset
    validation: Dataset
    validation_mos: np.ndarray
    scale: dict[str, float]
    fingerprint: str


def load_training_data(options: argparse.Namespace, spec: ViewSpec) -> TrainingData:
    """Load what the options of train.py mean; the test split is not read.

    Raises:
        TableError, PackError, RunError: labels, pack or teacher's scores cannot be used.
    """
    table = table_of(options, splits=("train", "val"))
    training, validation = table.split("train"), table.split("val")
    cut = replace(spec, patches=options.validation_patches)
    packed = None
    if options.packed:
        packed = PackedViews(options.packed, pd.concat([training, validation]), cut, options.random_seed)
    pairs = PairDataset(
        training,
        spec,
        options.random_seed,
        packed,
        options.pairing,
        options.horizontal_flip,
        teacher_scores(options.distill_from, training) if options.distill_from else None,
    )
    scale = {"mean": 0.0, "sd": 1.0}
    if options.mos_scale == "standardise":
        scale = {"mean": float(pairs.mos.mean()), "sd": float(pairs.mos.std())}
    return TrainingData(
        table=table,
        training=pairs,
        validation=PackedPhotographs(packed, validation.index)
        if packed
        else PhotographDataset(validation["path"], cut),
        validation_mos=validation["mos"].to_numpy(),
        scale=scale,
        fingerprint=" ".join(data_fingerprint(rows) for rows in (training, validation)),
    )


def teacher_scores(path: str, training: pd.DataFrame) -> np.ndarray:
    """Return another model's score of every training image, (n,) float64.

    Raises:
        RunError: the file cannot be read, or lacks some of them.
    """
    scores = read_predictions(path).set_index("image")["score"].reindex(training["image"])
    missing = scores.index[scores.isna()]
    if len(missing):
        raise RunError(
            f"--distill_from {path}: lacks the scores of {len(missing)} of {len(scores)} training images, {missing[0]} "
            "first. Make it with: python test.py --split train and the teacher's --checkpoint"
        )
    return scores.to_numpy(float)
