"""What a pack of views looks like on disk.

A pack is a folder with `views.bin`, one record per photograph, and `manifest.json`: the settings it was made with, and
for every record its position, its source and checksums of both. A record holds, channels last:

- the resized image (h, w, 3), from which training crops the aesthetic view at random;
- the salient view (S, S, 3);
- the fragment mosaics (K, D, D, 3): draws 0 to K - 1 of a training image, the draw of evaluation of a validation image;
- for a model that reads patches, the patches of as many draws (K, P, S, S, 3).

While a pack is being made or updated, its folder is `<name>.partial`, with a journal instead of the manifest: the
settings on its first line, then a line for every finished record. The views of a finished pack are never changed, but
replaced as a whole, so that a training that has them open keeps its pixels. `data/packing.py` and
`data/unfinished_pack.py` make packs, `data/packed.py` reads them.
"""

import json
import os
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from data.files import file_sha256
from data.views import ViewSpec

VERSION = 3
VIEWS, MANIFEST, JOURNAL = "views.bin", "manifest.json", "journal.jsonl"
NOT_PACKED = ("crop_size", "max_pixels")  # fields of a ViewSpec that do not affect the records


class PackError(ValueError):
    """A pack cannot be made or used; the message gives the difference and the remedy."""


@dataclass(frozen=True)
class Record:
    """Where the views of a photograph are in the pack, and which file they were cut from.

    Attributes:
        image: name in the label file.
        split: "train" or "val".
        sample: row in the label file; part of the fragments' seed.
        source_bytes, source_mtime_ns: size and modification time of the image file when the pack was planned.
        offset: start of the record in `views.bin`, bytes.
        height, width: size of the resized image, pixels; 0 without an aesthetic view.
        draws: number of draws of the mosaics or patches.
        patches: number of patches in a draw; 0 without a view of patches.
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

    @property
    def identity(self) -> "Record":
        """The record without what does not affect its bytes: its position, and the modification time of its file."""
        return replace(self, source_mtime_ns=0, offset=0)

    def shapes(self, spec: ViewSpec) -> dict[str, tuple[int, ...]]:
        """Return the shape of each part of the record, in file order."""
        mosaic, salient = spec.n_fragment * spec.patch_size, spec.salient_patch_dimension
        shapes = {
            "aesthetic": (self.height, self.width, 3),
            "salient": (salient, salient, 3),
            "distortion": (self.draws, mosaic, mosaic, 3),
            "patches": (self.draws, self.patches, spec.patch_dimension, spec.patch_dimension, 3),
        }
        return {name: shape for name, shape in shapes.items() if name in spec.views}

    def size(self, spec: ViewSpec) -> int:
        """Return the length of the record, bytes."""
        return sum(prod(shape) for shape in self.shapes(spec).values())


@dataclass(frozen=True)
class Entry:
    """A finished record, as manifest and journal list it.

    Attributes:
        record: the record.
        crc32: checksum of its bytes.
        source_sha256: of the image file.
    """

    record: Record
    crc32: int
    source_sha256: str

    @classmethod
    def from_dict(cls, content: dict) -> "Entry":
        """Return the entry that `dataclasses.asdict` made a dictionary of."""
        return cls(Record(**content["record"]), content["crc32"], content["source_sha256"])

    def is_of(self, path: str | os.PathLike) -> bool:
        """Return whether an image file is the one that was packed.

        The content decides, but it is only read if the size is the same and the modification time is not: a copy or a
        checkout may change times alone.
        """
        size, mtime = file_stat(path)
        if size != self.record.source_bytes:
            return False
        return mtime == self.record.source_mtime_ns or file_sha256(path) == self.source_sha256


@dataclass(frozen=True)
class PackPlan:
    """The intended content of a pack.

    Attributes:
        spec: how views are cut.
        random_seed: the training's seed, which determines the fragments of training images.
        draws: draws of the mosaics or patches of a training image.
        records: one for each photograph, in the label file's order.
        paths: image file of each record.
    """

    spec: ViewSpec
    random_seed: int
    draws: int
    records: tuple[Record, ...] = ()
    paths: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The length of `views.bin`, bytes."""
        return sum(record.size(self.spec) for record in self.records)

    @property
    def settings(self) -> dict:
        """Everything that determines the content of the records, as stored in JSON."""
        return {
            "version": VERSION,
            "view_spec": {name: value for name, value in self.spec.to_dict().items() if name not in NOT_PACKED},
            "random_seed": self.random_seed,
            "draws": self.draws,
        }

    def differences(self, settings: dict) -> str:
        """Return where a pack's settings differ from this plan's, for a message; "" if they do not."""
        pack, plan = ({**values, **values["view_spec"], "view_spec": None} for values in (settings, self.settings))
        different = [name for name in plan if pack.get(name) != plan[name]]
        named = [name for name in different if name != "fractions"]  # which follow from others, and are long
        differences = [f"{name} is {pack.get(name)!r}, here {plan[name]!r}" for name in named]
        return ", ".join(differences or ["fractions differ"] * bool(different))


def partial_folder(folder: str | os.PathLike) -> Path:
    """Return the folder in which a pack is made, until it is finished and renamed."""
    folder = Path(folder)
    return folder.with_name(folder.name + ".partial")


def file_stat(path: str | os.PathLike) -> tuple[int, int]:
    """Return a file's size in bytes and its modification time in nanoseconds, which show whether it has changed."""
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def read_pack(folder: Path) -> tuple[dict | None, list[Entry]]:
    """Return the settings of a pack, finished or not, and the entry of each record; None and [] if there is none.

    Raises:
        PackError: the manifest or journal is damaged. An incomplete last line of a journal is ignored.
    """
    path = folder / JOURNAL if (folder / JOURNAL).is_file() else folder / MANIFEST
    if not path.is_file():
        return None, []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        manifest = _parse_journal(text) if path.name == JOURNAL else json.loads(text)
        if manifest is None:
            return None, []
        settings = {name: manifest[name] for name in ("version", "random_seed", "draws")}
        settings["view_spec"] = dict(manifest["view_spec"])
        entries = manifest["records"] if settings["version"] == VERSION else []  # other versions have other fields
        return settings, [Entry.from_dict(entry) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise PackError(f"{path} is damaged ({error}); recreate it with --overwrite") from error


def _parse_journal(text: str) -> dict | None:
    """Return a journal in the form of a manifest, or None if not even its first line is complete."""
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # the process was killed while it wrote this line
            break
    return lines[0] | {"records": lines[1:]} if lines else None
