"""Packed data: every photograph decoded once, its views kept as uint8 in a memory-mapped file.

A pack is a folder with `views.bin`, one record a photograph, and `manifest.json`. A record holds, channels last: the
resized image (h, w, 3), out of which training crops at random; the salient view (S, S, 3); and the fragment mosaics
(K, D, D, 3), for a training image those of draws 0 to K - 1, for a validation image evaluation's own; or, for a model
that reads patches, those of as many draws, (K, P, S, S, 3). A packed view equals the direct view of the same draw bit
for bit. `data/packing.py` makes packs.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from data.views import ALL_VIEW_NAMES, ViewSpec, copy_view, crop_aesthetic

VERSION = 1
VIEWS, MANIFEST, JOURNAL = "views.bin", "manifest.json", "journal.jsonl"
NOT_PACKED = ("crop_size", "max_pixels")  # fields of a view specification that decide nothing in a record
DRAWN = ("distortion", "patches")  # views that a record has several draws of
SHOWN = 5  # names that a message spells out


class PackError(ValueError):
    """A pack cannot be made or used; the message says what differs and what to do."""


@dataclass(frozen=True)
class Record:
    """Where the views of a photograph are, and what they were made of.

    Attributes:
        image: its name in the label file.
        split: "train" or "val".
        sample: its row in the label file; it seeds the fragments.
        source_bytes, source_mtime_ns: of the image file when its header was read.
        offset: of the record in `views.bin`, bytes.
        height, width: of the resized image, pixels; 0 without an aesthetic view.
        draws: mosaics, or draws of the patches.
        patches: of a draw; 0 without such a view.
    """

    image: str
    split: str
    sample: int
    source_bytes: int
    source_mtime_ns: int
    offset: int
    height: int
    width: int
    draws: int
    patches: int = 0

    def shapes(self, spec: ViewSpec) -> dict[str, tuple[int, ...]]:
        """Return the shape of each part of the record, in their order in the file."""
        side, salient = spec.n_fragment * spec.patch_size, spec.salient_patch_dimension
        shapes = {
            "aesthetic": (self.height, self.width, 3),
            "salient": (salient, salient, 3),
            "distortion": (self.draws, side, side, 3),
            "patches": (self.draws, self.patches, spec.patch_dimension, spec.patch_dimension, 3),
        }
        return {name: shape for name, shape in shapes.items() if name in spec.views}

    def size(self, spec: ViewSpec) -> int:
        """Return the length of the record, bytes."""
        return sum(prod(shape) for shape in self.shapes(spec).values())


@dataclass(frozen=True)
class PackPlan:
    """What a pack is to hold.

    Attributes:
        spec: how views are cut.
        random_seed: of training, which places the fragments of training images.
        draws: mosaics, or draws of the patches, of a training image.
        records: one for each photograph, in the label file's order.
    """

    spec: ViewSpec
    random_seed: int
    draws: int
    records: tuple[Record, ...]

    @property
    def size(self) -> int:
        """The length of `views.bin`, bytes."""
        return sum(record.size(self.spec) for record in self.records)

    @property
    def settings(self) -> dict:
        """What decides the content of every record, as JSON has it."""
        return {
            "version": VERSION,
            "view_spec": {name: value for name, value in self.spec.to_dict().items() if name not in NOT_PACKED},
            "random_seed": self.random_seed,
            "draws": self.draws,
        }


class PackedViews:
    """The views of a pack, for reading.

    Args:
        folder: of the pack.
        rows: of the label table that a run uses, with `image`, `split` and `path`; the index identifies the sample.
        spec: how the run cuts views; the pack may hold more views than it names.
        random_seed: of the run.

    Raises:
        PackError: no pack, or not one of these photographs cut in this way; the message names what differs.
    """

    def __init__(self, folder: str | os.PathLike, rows: pd.DataFrame, spec: ViewSpec, random_seed: int):
        self.folder = Path(folder)
        self.spec = spec
        remedy = f"Make it with: python prepare.py pack --out {self.folder} and the options of this run"
        if not self.folder.is_dir():
            unfinished = partial_folder(folder).is_dir()
            cause = "is unfinished: run prepare.py pack again, which goes on with it" if unfinished else "is not there"
            raise PackError(f"pack {self.folder} {cause}. {remedy}")
        settings, entries = read_state(self.folder)
        if settings is None:
            raise PackError(f"{self.folder} is no pack: it has no {MANIFEST}. {remedy}")
        # A pack of more views than a run reads serves it, too.
        held = tuple(name for name in ALL_VIEW_NAMES if name in settings["view_spec"].get("views", ()))
        self._packed_spec = replace(spec, views=held) if set(spec.views) <= set(held) else spec
        wanted = PackPlan(self._packed_spec, random_seed, settings["draws"], ()).settings
        differences = differences_of(settings, wanted)
        if differences:
            raise PackError(f"pack {self.folder} was made with other settings: {differences}. {remedy}")
        self.draws: int = settings["draws"]
        try:
            records = [Record(**entry["record"]) for entry in entries]
        except (KeyError, TypeError) as error:
            raise PackError(f"{self.folder / MANIFEST} is damaged: {error}. {remedy}") from error
        self._records = {record.sample: record for record in records}
        self._check(rows, remedy)

    def _check(self, rows: pd.DataFrame, remedy: str) -> None:
        """Raise if photographs are missing, have changed since they were packed, or the file is cut short."""
        missing, changed = [], []
        for sample, image, split, path in zip(rows.index, rows["image"], rows["split"], rows["path"], strict=True):
            record = self._records.get(int(sample))
            if record is None or (record.image, record.split) != (image, split):
                missing.append(image)
                continue
            stat = os.stat(path)
            if (stat.st_size, stat.st_mtime_ns) != (record.source_bytes, record.source_mtime_ns):
                changed.append(image)
        for names, words in ((missing, "are not in it, or in another split"), (changed, "have changed since")):
            if names:
                shown = ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
                raise PackError(
                    f"pack {self.folder}: {len(names)} of {len(rows)} images {words}: {shown}. {remedy}; what is still "
                    "valid is kept"
                )
        expected = sum(record.size(self._packed_spec) for record in self._records.values())
        held = (self.folder / VIEWS).stat().st_size if (self.folder / VIEWS).is_file() else 0
        if held != expected:
            raise PackError(f"pack {self.folder}: {VIEWS} has {held} of {expected} bytes. {remedy}")

    @cached_property
    def _map(self) -> np.memmap:
        return np.memmap(self.folder / VIEWS, mode="r")

    def __getstate__(self) -> dict:
        """Leave the map behind: every process opens its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_map"}

    def views(
        self, sample: int, draw: int = 0, crop_generator: np.random.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the views of a photograph, as `data.views.make_views` would.

        Args:
            sample: its row in the label file.
            draw: of the fragments, or patches; taken modulo the number of draws.
            crop_generator: places the aesthetic crop at random, for training.

        Returns:
            For each view (3, S, S) uint8, (P, 3, S, S) for "patches", with memory of its own.
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
            if name in DRAWN:
                part = part[draw % record.draws]
            views[name] = copy_view(part)
        return {name: views[name] for name in self.spec.views}


class PackedPhotographs(Dataset):
    """Packed photographs for scoring: samples as of `data.datasets.PhotographDataset`.

    Args:
        packed: the pack.
        samples: rows in the label file.
    """

    def __init__(self, packed: PackedViews, samples: Iterable[int]):
        self.packed = packed
        self.is_ragged = packed.spec.is_ragged
        self.draws = 1
        self.samples = [int(sample) for sample in samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        return self.packed.views(self.samples[index]) | {"index": index, "mos": np.nan}


def partial_folder(folder: str | os.PathLike) -> Path:
    """Return where a pack is while it is made."""
    folder = Path(folder)
    return folder.with_name(folder.name + ".partial")


def read_state(folder: Path) -> tuple[dict | None, list[dict]]:
    """Return the settings of a finished or unfinished pack and its records with checksums; None where there is none.

    Raises:
        PackError: the manifest is damaged. A journal may end anywhere; what is whole of it counts.
    """
    if (folder / JOURNAL).is_file():
        lines = []
        for line in (folder / JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:  # written when the process was killed
                break
        return (lines[0], lines[1:]) if lines else (None, [])
    if not (folder / MANIFEST).is_file():
        return None, []
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        settings = {name: manifest[name] for name in ("version", "random_seed", "draws")}
        return settings | {"view_spec": dict(manifest["view_spec"])}, list(manifest["records"])
    except (ValueError, KeyError, TypeError) as error:
        raise PackError(f"{folder / MANIFEST} is damaged ({error}); make the pack anew with --overwrite") from error


def differences_of(settings: dict, wanted: dict) -> str:
    """Return in words where settings differ from those that are wanted; "" where they do not."""
    pairs = [(name, settings.get(name), wanted[name]) for name in ("version", "random_seed", "draws")]
    held = settings["view_spec"]
    pairs += [(name, held.get(name), value) for name, value in wanted["view_spec"].items()]
    return ", ".join(f"{name} is {there!r}, here {here!r}" for name, there, here in pairs if there != here)
