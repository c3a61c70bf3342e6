"""What a training reads: pairs to learn from, photographs to validate on, and a fingerprint of both."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset, Subset

from data.datasets import PairDataset, PhotographDataset
from data.decode import ImageError
from data.files import listing, printable
from data.packed import PackedPhotographs, PackedViews
from data.tables import LabelTable, TableError, data_fingerprint, order_fingerprint
from data.views import ViewSpec
from utils.distributed import rank, world_size
from utils.errors import RunError
from utils.inference import Photographs, load_batches
from utils.options import load_labels
from utils.predictions import read_predictions
from utils.progress import progress_bar

MAX_TEACHER_SHIFT = 3.0  # standard deviations between the means of a teacher's scores and of the opinions


@dataclass(frozen=True)
class TrainingData:
    """The data of a training.

    Attributes:
        table: the labels.
        training: pairs, or single photographs with `--pairing batch`; their opinions are on the scale of the loss.
        validation: photographs.
        validation_mos: (n,) float64, their opinions on the data set's scale.
        validation_sources: (n,) the source of each, "" if there is one source.
        score_scale: the source whose scale the scores of the saved model have.
        fingerprint: of the names and opinions of both splits, and of the order of the training images and their
            teacher's scores.
    """

    table: LabelTable
    training: PairDataset
    validation: Photographs
    validation_mos: np.ndarray
    validation_sources: np.ndarray
    score_scale: str
    fingerprint: str

    @property
    def has_sources(self) -> bool:
        """Whether opinions are of several sources, each with its own scale."""
        return self.training.source_names != ("",)

    @property
    def mos_scale(self) -> dict[str, float]:
        """`mean` and `sd` that bring scores on the scale of the loss to that of the saved model."""
        return self.training.mos_scales[self.score_scale]


def load_training_data(options: argparse.Namespace, spec: ViewSpec) -> TrainingData:
    """Load the data that the options of train.py name; the test split is not read.

    Raises:
        TableError, PackError, RunError: labels, pack or teacher's scores cannot be used.
    """
    table = load_labels(options, splits=("train", "val"))
    _check_sources(options, table)
    training, validation = table.split("train"), table.split("val")
    validation_spec = replace(spec, patches=options.validation_patches)
    packed = None
    if options.packed:
        packed = PackedViews(options.packed, pd.concat([training, validation]), validation_spec, options.random_seed)
    training = training.drop(columns="teacher", errors="ignore")  # of the label file: a target only if asked for
    if options.distill_from:
        training = training.assign(
            teacher=teacher_scores(options.distill_from, training["image"], options.source_column)
        )
        check_scale_of_teacher(training, options.distill_from, options.source_column)
    column = options.source_column
    fingerprints = [data_fingerprint(rows, column) for rows in (training, validation)]
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
            source_column=column,
        ),
        validation=PackedPhotographs(packed, validation.index)
        if packed
        else PhotographDataset(validation["path"], validation_spec),
        validation_mos=validation["mos"].to_numpy(),
        validation_sources=validation[column].to_numpy() if column else np.full(len(validation), ""),
        score_scale=(options.score_scale or training[column].iloc[0]) if column else "",
        fingerprint=" ".join([*fingerprints, order_fingerprint(training)]),
    )


def proportions(data: TrainingData, weights: Mapping[str, float] | None) -> dict:
    """Return the arguments of `data.datasets.EpochBatches` for the proportions of `--source_weights`."""
    if not weights:
        return {}
    return {"sources": data.training.sources, "proportions": [weights[name] for name in data.training.source_names]}


def _check_sources(options: argparse.Namespace, table: LabelTable) -> None:
    """Check the sources of opinions that options name against those of a label table.

    Raises:
        TableError: a source has validation images but no training images, or none of different opinions.
        RunError: an option names an unknown source.
    """
    column = options.source_column
    if not column:
        return
    splits = {split: table.split(split)[column].unique().tolist() for split in ("train", "val")}
    unknown = set(splits["val"]) - set(splits["train"])
    if unknown:
        raise TableError(
            f"{table.source}: validation images of {listing(sorted(unknown))}, but no training images, whose opinions "
            "give the scale"
        )
    rated = table.split("val").groupby(column)["mos"].nunique()
    if (rated < 2).any():
        raise TableError(
            f"{table.source}: the validation images of {listing(rated.index[rated < 2])} all have the same opinion, so "
            "that no correlation can be measured; --seed of prepare.py labels or --random_seed draws others"
        )
    scale = options.score_scale or splits["train"][0]
    if scale not in splits["val"]:
        raise RunError(
            f"--score_scale {scale}: no validation images of this source, which the mapping to quality is fitted on; "
            f"choose from {', '.join(splits['val'])}"
        )
    if options.source_weights and set(options.source_weights) != set(splits["train"]):
        raise RunError(
            f"--source_weights must name every source of the training images once: {', '.join(splits['train'])}"
        )


def teacher_scores(path: str, images: pd.Series, source_column: str | None = None) -> np.ndarray:
    """Return another model's scores of the training images, (n,) float64.

    Args:
        path: a file of predictions.
        images: names of the training images.
        source_column: must be in the file if opinions are of several sources; its scores are then on their scales.

    Raises:
        RunError: the file cannot be read, or lacks an image or the column.
    """
    predictions = read_predictions(path)
    if source_column and source_column not in predictions:
        raise RunError(
            f"--distill_from {path}: has no column {source_column!r}: its scores are not on the scale of each source; "
            f"write it by: python test.py --split train --source_column {source_column} and the teacher's --checkpoint"
        )
    scores = predictions.set_index("image")["score"].reindex(images)
    missing = scores.index[scores.isna()]
    if len(missing):
        raise RunError(
            f"--distill_from {path}: lacks the scores of {len(missing)} of {len(scores)} training images, for example "
            f"{missing[0]}. Write it with: python test.py --split train and the teacher's --checkpoint; images "
            "that it cannot read must leave the label file"
        )
    return scores.to_numpy(float)


def check_scale_of_teacher(training: pd.DataFrame, path: str, source_column: str | None = None) -> None:
    """Check that a teacher's scores are on the scale of the opinions, those of each source by themselves.

    Raises:
        RunError: their mean is more than MAX_TEACHER_SHIFT standard deviations from that of the opinions.
    """
    for source, rows in training.groupby(source_column) if source_column else [("", training)]:
        scores, mos = rows["teacher"].mean(), rows["mos"].mean()
        if abs(scores - mos) > MAX_TEACHER_SHIFT * max(rows["mos"].std(ddof=0), rows["teacher"].std(ddof=0)):
            raise RunError(
                f"--distill_from {path}: the scores{f' of {source}' if source else ''} are on another scale than its "
                f"opinions: means {scores:.3g} and {mos:.3g}; the teacher must have learned from this data set"
            )


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
