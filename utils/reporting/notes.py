"""What a reader of an evaluation must know: training images among those measured, and inverted opinions."""

import argparse
import os
from collections.abc import Mapping

import pandas as pd

from data.tables import ALL, OFFICIAL_SPLIT, LabelTable, TableError, data_fingerprint
from utils.options import DATA_OPTIONS, load_labels, take_data_options


def count_training_images(rows: pd.DataFrame, trained: Mapping[str, object], fingerprint: str = "") -> int | None:
    """Return how many images a checkpoint was trained on.

    Args:
        rows: of a label table, with the images' `path`.
        trained: options of the run that trained the checkpoint; empty for released weights.
        fingerprint: of the run's training images, if the checkpoint has it.

    Returns:
        The number of images; None if that cannot be known: for released weights, or without the run's label file as it
        was then.
    """
    if not trained:
        return None
    options = argparse.Namespace(**dict.fromkeys(DATA_OPTIONS))
    take_data_options(options, dict(trained))
    options.skip_missing = True
    try:
        training = load_labels(options, ("train", "val")).split("train")
    except (TableError, OSError):
        return None
    count = int(rows["path"].map(os.path.realpath).isin(set(training["path"].map(os.path.realpath))).sum())
    has_changed = fingerprint and fingerprint != data_fingerprint(training, options.source_column)
    return None if has_changed and not count else count


def training_notes(
    labels: LabelTable, images: int, split: str, count: int | None, trained: Mapping, database: str
) -> list[str]:
    """Return a warning if training images are among those of an evaluation, or may be.

    Args:
        labels: the table of the evaluation.
        images: that are measured.
        split: that is evaluated, or ALL.
        count: of `count_training_images`.
        trained: as for `count_training_images`.
        database: format of the label file.
    """
    if split == "train":
        return []  # by request, and the notes on every protocol say so
    if count:
        return [f"the checkpoint was trained on {count} of the {images} images: measures are optimistic"]
    if trained:
        unknown = (
            "the checkpoint may have been trained on some of these images: its training labels cannot be read, or have "
            "changed since"
        )
        its_labels = os.path.realpath(str(trained.get("metadata"))) == os.path.realpath(labels.source)
        return [unknown] if count is None and (split == ALL or its_labels) else []
    has_training_rows = split == ALL or (split == "val" and labels.split_rule != OFFICIAL_SPLIT)
    if database == "csv" or not has_training_rows:
        return []
    return [
        "the weights may have been trained on some of these images: they do not say on which, and the authors of the "
        "released ones drew 80 % of the same training rows"
    ]


def orientation_notes(report: Mapping, lower_is_better: bool, trained: Mapping[str, object]) -> list[str]:
    """Return warnings if the opinions of an own label file may have been read the wrong way round.

    Args:
        report: of `utils.reporting.measures.evaluation_report`.
        lower_is_better: how the opinions were read.
        trained: as for `count_training_images`.
    """
    notes = []
    before = bool(trained.get("lower_is_better"))
    if trained.get("database") == "csv" and before != lower_is_better:
        notes.append(
            f"the checkpoint was trained with --lower_is_better {before}, and is tested with {lower_is_better}"
        )
    if report["raw"]["ci95"]["SRCC"][1] < 0:
        notes.append(
            f"scores fall where opinions rise: are lower opinions better? (now --lower_is_better {lower_is_better})"
        )
    return notes
