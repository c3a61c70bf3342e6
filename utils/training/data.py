"""What a training reads: pairs to learn from, photographs to validate on, and a fingerprint of both."""

import argparse
import sys
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset, Subset

from data.datasets import PairDataset, PhotographDataset
from data.decode import ImageError
from data.files import listing, printable
from data.packed import PackedPhotographs, PackedViews
from data.tables import LabelTable, data_fingerprint
from data.views import ViewSpec
from utils.distributed import rank, world_size
from utils.errors import RunError
from utils.inference import Photographs, load_batches
from utils.options import load_labels
from utils.predictions import read_predictions
from utils.progress import progress_bar


@dataclass(frozen=True)
class TrainingData:
    """The data of a training.

    Attributes:
        table: the labels.
        training: pairs, or single photographs with `--pairing batch`; their opinions are on the scale of the loss.
        validation: photographs.
        validation_mos: (n,) float64, their opinions on the data set's scale.
        fingerprint: of the names and opinions of both splits.
    """

    table: LabelTable
    training: PairDataset
    validation: Photographs
    validation_mos: np.ndarray
    fingerprint: str


def load_training_data(options: argparse.Namespace, spec: ViewSpec) -> TrainingData:
    """Load the data that the options of train.py name; the test split is not read.

    Raises:
        TableError, PackError, RunError: labels, pack or teacher's scores cannot be used.
    """
    table = load_labels(options, splits=("train", "val"))
    training, validation = table.split("train"), table.split("val")
    validation_spec = replace(spec, patches=options.validation_patches)
    fingerprint = " ".join(data_fingerprint(rows) for rows in (training, validation))
    packed = None
    if options.packed:
        packed = PackedViews(options.packed, pd.concat([training, validation]), validation_spec, options.random_seed)
    training = training.drop(columns="teacher", errors="ignore")  # of the label file: a target only if asked for
    if options.distill_from:
        training = training.assign(teacher=teacher_scores(options.distill_from, training["image"]))
    return TrainingData(
        table=table,
        training=PairDataset(
            training,
            spec,
            options.random_seed,
            packed,
            options.pairing,
            options.horizontal_flip,
            standardise=options.mos_scale == "standardise",
        ),
        validation=PackedPhotographs(packed, validation.index)
        if packed
        else PhotographDataset(validation["path"], validation_spec),
        validation_mos=validation["mos"].to_numpy(),
        fingerprint=fingerprint,
    )


def teacher_scores(path: str, images: pd.Series) -> np.ndarray:
    """Return another model's scores of the training images, (n,) float64.

    Args:
        path: a file of predictions.
        images: names of the training images.

    Raises:
        RunError: the file cannot be read, or lacks an image.
    """
    scores = read_predictions(path).set_index("image")["score"].reindex(images)
    missing = scores.index[scores.isna()]
    if len(missing):
        raise RunError(
            f"--distill_from {path}: lacks the scores of {len(missing)} of {len(scores)} training images, for example "
            f"{missing[0]}. Write it with: python test.py --split train and the teacher's --checkpoint"
        )
    return scores.to_numpy(float)


def unusable_images(
    photographs: Photographs, device: torch.device, num_workers: int, batch_size: int = 16
) -> list[tuple[int, str]]:
    """Decode this rank's photographs and cut their views, as every validation will.

    Returns:
        (index, message) of those that cannot be used.
    """
    own = range(rank(), len(photographs), world_size())
    errors = []
    with progress_bar(len(own), "checking validation images" if rank() == 0 else None) as bar:
        for batch in load_batches(Subset(_Check(photographs), own), batch_size, num_workers, device):
            errors += batch["errors"]
            bar.update(len(batch["index"]) + len(batch["errors"]))
    return errors


class _Check(Dataset):
    """Samples without views, so that nothing large travels between processes."""

    def __init__(self, photographs: Photographs):
        self.photographs = photographs

    def __getitem__(self, index: int) -> dict:
        sample = self.photographs[index]
        return {name: sample[name] for name in ("index", "mos", "error") if name in sample}


def handle_bad_images(
    errors: list[tuple[int, str]], skipped: dict[str, str], paths: list[str], on_bad_image: str
) -> None:
    """Stop at images that could not be used, or record them in `skipped`.

    Args:
        errors: (index, message) of each.
        skipped: message by path.
        paths: of all images.
        on_bad_image: the option of this name.

    Raises:
        ImageError: there are some, and `on_bad_image` is "stop".
    """
    if errors and on_bad_image == "stop":
        text = listing([message for _, message in errors], 5, 300)
        raise ImageError(f"{text} (repair it, or leave such images out with --on_bad_image skip)")
    for index, message in errors:
        if paths[index] not in skipped:
            print(f"warning: skipped: {printable(message)}", file=sys.stderr)
        skipped[paths[index]] = message
