"""Read packed views: photographs decoded once, their views kept as uint8 in a memory-mapped file.

A packed view equals the view cut directly for the same draw, bit for bit.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from data.files import listing
from data.pack_format import MANIFEST, VIEWS, Entry, PackError, PackPlan, partial_folder, read_pack
from data.views import ALL_VIEW_NAMES, ViewSpec, copy_view, crop_aesthetic


class PackedViews:
    """Reads the views in a pack.

    Args:
        folder: the pack.
        rows: rows of the label table that a run uses, with `image`, `split` and `path`; the index identifies the
            sample.
        spec: how the run cuts views; the pack may hold more views than it names.
        random_seed: the run's seed.

    Raises:
        PackError: there is no pack, or it was made of other photographs or with other settings.
    """

    def __init__(self, folder: str | os.PathLike, rows: pd.DataFrame, spec: ViewSpec, random_seed: int):
        self.folder = Path(folder)
        self.spec = spec
        remedy = f"Make it with: python prepare.py pack --out {self.folder} and the options of this run"
        if not self.folder.is_dir():
            is_partial = partial_folder(folder).is_dir()
            cause = "is unfinished; running prepare.py pack again completes it" if is_partial else "is not there"
            raise PackError(f"pack {self.folder} {cause}. {remedy}")
        self._file = self._identify_file()  # before the manifest: both are of the same pack if it stays the same
        settings, entries = read_pack(self.folder)
        if settings is None:
            raise PackError(f"{self.folder} is not a pack: it has no {MANIFEST}. {remedy}")
        packed_views = tuple(name for name in ALL_VIEW_NAMES if name in settings["view_spec"].get("views", ()))
        self._packed_spec = replace(spec, views=packed_views) if set(spec.views) <= set(packed_views) else spec
        self.draws: int = settings["draws"]
        differences = PackPlan(self._packed_spec, random_seed, self.draws).differences(settings)
        if differences:
            raise PackError(
                f"pack {self.folder} was made with other settings: {differences}. {remedy}, adding --overwrite"
            )
        self._records = {entry.record.sample: entry.record for entry in entries}
        self._check(rows, {entry.record.sample: entry for entry in entries}, remedy)
        self._map = self._open()

    def _check(self, rows: pd.DataFrame, entries: dict[int, Entry], remedy: str) -> None:
        """Raise if photographs are missing or have changed since they were packed, or if the file is truncated."""
        missing, changed = [], []
        for sample, image, split, path in zip(rows.index, rows["image"], rows["split"], rows["path"], strict=True):
            entry = entries.get(int(sample))
            if entry is None or (entry.record.image, entry.record.split) != (image, split):
                missing.append(image)
            elif not entry.is_of(path):
                changed.append(image)
        for images, problem in ((missing, "are not in it, or in another split"), (changed, "have changed since")):
            if images:
                counts = f"{len(images)} of {len(rows)} images {problem}"
                raise PackError(
                    f"pack {self.folder}: {counts}: {listing(images)}. {remedy}; records that are still valid are kept"
                )
        expected = sum(record.size(self._packed_spec) for record in self._records.values())
        path = self.folder / VIEWS
        size = path.stat().st_size if path.is_file() else 0
        if size != expected:
            raise PackError(f"pack {self.folder}: {VIEWS} has {size} of {expected} bytes. {remedy}")

    def _identify_file(self) -> tuple[int, int] | None:
        """Return what tells the current file of views from one that replaces it; None if there is none."""
        path = self.folder / VIEWS
        if not path.is_file():
            return None
        stat = path.stat()
        return stat.st_dev, stat.st_ino

    def _open(self) -> np.memmap:
        """Map the file of views into memory. It stays readable after the pack was updated or deleted.

        Raises:
            PackError: another file has taken its place.
        """
        with suppress(FileNotFoundError):
            views = np.memmap(self.folder / VIEWS, mode="r")
            if self._identify_file() == self._file:
                return views
        raise PackError(f"pack {self.folder} was replaced while this run reads it: start the run again")

    def __getstate__(self) -> dict:
        """Leave the memory map out: a process that is not forked opens its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_map"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._map = self._open()

    def image(self, sample: int) -> str:
        """Return the name in the label file of a photograph."""
        return self._records[sample].image

    def views(
        self, sample: int, draw: int = 0, crop_generator: np.random.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the views of a photograph, as `data.views.make_views` would.

        Args:
            sample: row in the label file.
            draw: draw of the fragments or patches, modulo the number of draws in the pack.
            crop_generator: draws the position of the aesthetic crop, for training.

        Returns:
            For each view (3, S, S) uint8, (P, 3, S, S) for "patches", copied from the file.
        """
        record = self._records[sample]
        offset = record.offset
        views = {}
        for name, shape in record.shapes(self._packed_spec).items():
            part = self._map[offset : offset + prod(shape)].reshape(shape)
            offset += part.size
            if name not in self.spec.views:
                continue
            if name == "aesthetic":
                part = crop_aesthetic(part, self.spec.crop_size, crop_generator)
            if name in ("distortion", "patches"):
                part = part[draw % record.draws]
            views[name] = copy_view(part)
        return {name: views[name] for name in self.spec.views}


class PackedPhotographs(Dataset):
    """Packed photographs for scoring, with the samples of `data.datasets.PhotographDataset`.

    Args:
        packed: the pack.
        samples: rows in the label file.
    """

    def __init__(self, packed: PackedViews, samples: Iterable[int]):
        self.packed = packed
        self.is_ragged = packed.spec.is_ragged
        self.draws = 1
        self.samples = [int(sample) for sample in samples]
        self.paths = [packed.image(sample) for sample in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        return self.packed.views(self.samples[index]) | {"index": index, "mos": np.nan}
