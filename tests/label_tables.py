"""Label tables in UHD-IQA's format, which several test files write."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from data.tables import LabelTable

FULL, TRAINING_ONLY = "uhd-iqa-metadata.csv", "uhd-iqa-training-metadata.csv"
SETS = ["training"] * 10 + ["validation"] * 3 + ["test"] * 3


def labels(sets: Iterable[str] = SETS, **columns) -> pd.DataFrame:
    """Return UHD-IQA's columns for images 0.jpg, 1.jpg ...; keywords add or replace columns."""
    names = [f"{number}.jpg" for number in range(len(sets))]
    return pd.DataFrame(
        {"image_name": names, "quality_mos": np.linspace(0.2, 0.8, len(sets)), "set": sets, "user_name": "x"} | columns
    )


def make(folder: Path, frame: pd.DataFrame, file: str = FULL, layout: str = "{set}/{image_name}") -> Path:
    """Write a label file and an empty image for each row, at the path given by the layout; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / file, index=False)
    for row in frame.to_dict("records"):
        path = folder / layout.format(**row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def published_split(n: int, seed: int) -> tuple[list[int], list[int]]:
    """Return training and validation rows as the published code divides n training rows."""
    order = np.random.RandomState(seed).permutation(n)
    return sorted(order[: int(n * 0.8)]), sorted(order[int(n * 0.8) :])


def rows(table: LabelTable, split: str) -> list[int]:
    return table.split(split).index.tolist()
