"""Making packs of views (`data/packed.py`), interrupted as often as need be.

While a pack is made it is `<folder>.partial`, with a journal in the place of the manifest: its first line says how
views are cut, every other one names a finished record and its checksum. Started again, what the journal vouches for is
kept, and the pack that results is the same to the byte.
"""

import json
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from torch.utils.data import Dataset

from data.decode import ImageError, decode_rgb, image_size
from data.files import replace_file
from data.fragments import sample_fragments
from data.layout import to_image
from data.packed import (
    JOURNAL,
    MANIFEST,
    SHOWN,
    VIEWS,
    PackError,
    PackPlan,
    Record,
    differences_of,
    partial_folder,
    read_state,
)
from data.patches import N_PATCHES, count_patches
from data.seeding import Purpose, derive_generator
from data.views import ViewSpec, crop_patches, crop_salient, resize_short_side, short_side_shape

SPLITS = ("train", "val")  # the test split is never read in training


def plan_pack(rows: pd.DataFrame, spec: ViewSpec, random_seed: int, draws: int) -> PackPlan:
    """Lay out a pack by the headers of its images.

    Args:
        rows: of a label table, with `image`, `split` and `path`; the index identifies the sample.
        spec, random_seed, draws: as in PackPlan.

    Raises:
        PackError: headers that cannot be read, or pictures too long and thin; the message lists them.
    """
    records, faults, offset = [], [], 0
    for sample, image, split, path in zip(rows.index, rows["image"], rows["split"], rows["path"], strict=True):
        try:
            height, width = image_size(path, spec.max_pixels)
        except ImageError as error:
            faults.append(str(error))
            continue
        count = draws if split == "train" else 1
        patches = 0
        if "patches" in spec.views:
            few = N_PATCHES if split == "train" else spec.patches
            patches = count_patches(height, width, spec.patch_dimension, spec.patch_policy, few)
            count = 1 if spec.patch_policy == "texture" else count
        if "aesthetic" in spec.views:
            height, width = short_side_shape(height, width, spec.resize)
        else:
            height = width = 0
        if height * width > spec.max_pixels:  # or one long thin picture would be given more of the disk than all others
            faults.append(f"{path}: resized to {width} x {height} it would pass --max_pixels {spec.max_pixels}")
            continue
        stat = os.stat(path)
        record = Record(
            image, split, int(sample), stat.st_size, stat.st_mtime_ns, offset, height, width, count, patches
        )
        records.append(record)
        offset += record.size(spec)
    if faults:
        raise PackError(
            f"{len(faults)} of {len(rows)} images cannot be used: {'; '.join(faults[:SHOWN])}"
            f"{' ...' if len(faults) > SHOWN else ''}. Mend them, or take them from the label file"
        )
    return PackPlan(spec, random_seed, draws, tuple(records))


class PackWriter(Dataset):
    """Photographs to be packed: reading an item writes its record, so that no views travel between processes.

    An item is (place in the plan, checksum, None), or (place, None, message) where the image cannot be used, or (place,
    None, OSError) where the record cannot be written: raised in a worker, it would bring the worker's traceback along.

    Args:
        plan: of the whole pack.
        paths: of every image of the plan.
        todo: places in the plan.
        file: `views.bin`, of its full length already.
    """

    def __init__(self, plan: PackPlan, paths: Sequence[str], todo: Sequence[int], file: Path):
        self.plan = plan
        self.paths = list(paths)
        self.todo = list(todo)
        self.file = file

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, index: int) -> tuple[int, int | None, str | OSError | None]:
        place = self.todo[index]
        record = self.plan.records[place]
        try:
            content = self._content(record, self.paths[place])
        except ImageError as error:
            message = str(error)
            named = message.startswith(self.paths[place])
            return place, None, message if named else f"{self.paths[place]}: {message}"
        try:
            with self.file.open("r+b") as file:
                file.seek(record.offset)
                file.write(content)
        except OSError as error:
            return place, None, error
        return place, zlib.crc32(content), None

    def _content(self, record: Record, path: str) -> bytes:
        """Return the bytes of a record."""
        spec = self.plan.spec
        image = decode_rgb(path, spec.max_pixels)
        parts = []
        if "aesthetic" in spec.views:
            parts.append(resize_short_side(image, spec.resize, spec.max_pixels))
        if "salient" in spec.views:
            parts.append(crop_salient(image, spec))
        if "distortion" in spec.views:
            for draw in range(record.draws):
                generator = (
                    derive_generator(Purpose.FRAGMENTS, self.plan.random_seed, record.sample, draw)
                    if record.split == "train"
                    else spec.evaluation_generator(draw)
                )
                mosaic = sample_fragments(image, spec.n_fragment, spec.patch_size, generator, spec.max_pixels)
                parts.append(to_image(mosaic))
        if "patches" in spec.views:
            for draw in range(record.draws):
                seed = self.plan.random_seed, record.sample, draw
                generator = derive_generator(Purpose.CROP, *seed) if record.split == "train" else None
                parts.append(to_image(crop_patches(image, spec, generator)))
        content = b"".join(part.tobytes() for part in parts)
        if len(content) != record.size(spec):
            raise ImageError(f"{path}: its picture is not of the size that its header gives")
        return content


class UnfinishedPack:
    """A pack in the making: what is there already, what is left to do, and how it becomes a pack.

    Args:
        folder: of the finished pack.
        plan: what it is to hold.

    Raises:
        PackError: what is there was made with other settings, or of other photographs.
    """

    def __init__(self, folder: str | os.PathLike, plan: PackPlan):
        self.folder = Path(folder)
        self.partial = partial_folder(folder)
        self.plan = plan
        self.complete = self.folder.is_dir()
        source = self.folder if self.complete else self.partial
        self.checksums = self._vouched_for(source)

    def _vouched_for(self, source: Path) -> dict[int, int]:
        """Return the checksums of the records that are in their place and whole, by their place in the plan."""
        settings, rows = read_state(source)
        if settings is None:
            if self.complete and any(source.iterdir()):
                raise PackError(f"{source} is there already and is no pack: choose another --out")
            return {}
        differences = differences_of(settings, self.plan.settings)
        if differences:
            raise PackError(
                f"{source} was made with other settings: {differences}. Choose another --out, or replace it with "
                "--overwrite"
            )
        # Photographs come, go and change; but what holds none of these belongs to another data set.
        held = {_source_of(row["record"]) for row in rows}
        if held and held.isdisjoint(_source_of(asdict(record)) for record in self.plan.records):
            raise PackError(
                f"{source} was made of other photographs: none of the {len(held)} in it is among these "
                f"{len(self.plan.records)} as they are now. Choose another --out, or replace it with --overwrite"
            )
        if not (source / VIEWS).is_file():  # the process was killed before it was laid out, or somebody has deleted it
            return {}
        known = {json.dumps(row["record"], sort_keys=True): row["crc32"] for row in rows}
        found = {}
        with (source / VIEWS).open("rb") as file:
            for place, record in enumerate(self.plan.records):
                checksum = known.get(json.dumps(asdict(record), sort_keys=True))
                if checksum is not None:
                    file.seek(record.offset)
                    if zlib.crc32(file.read(record.size(self.plan.spec))) == checksum:
                        found[place] = checksum
        return found

    @property
    def todo(self) -> list[int]:
        """Places in the plan whose records are still to be made."""
        return [place for place in range(len(self.plan.records)) if place not in self.checksums]

    @property
    def is_whole(self) -> bool:
        """Whether the folder holds this very pack already."""
        return self.complete and not self.todo and (self.folder / VIEWS).stat().st_size == self.plan.size

    def free_bytes_needed(self) -> int:
        """Return how much of the disk the rest will take."""
        file = (self.folder if self.complete else self.partial) / VIEWS
        held = file.stat().st_blocks * 512 if file.exists() else 0  # a file may be longer than what it occupies
        return max(0, self.plan.size - held)

    def begin(self, paths: Sequence[str]) -> PackWriter:
        """Lay out the folder and return the photographs that are still to be packed."""
        if self.complete:  # parts of it are out of date: it is in the making again
            remove_pack(self.partial)
            self.folder.rename(self.partial)
        self.partial.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(self.plan.settings)]
        lines += [self._line(place) for place in sorted(self.checksums)]
        _write_text(self.partial / JOURNAL, "\n".join(lines) + "\n")
        (self.partial / MANIFEST).unlink(missing_ok=True)
        with (self.partial / VIEWS).open("ab") as file:
            file.truncate(self.plan.size)
        return PackWriter(self.plan, paths, self.todo, self.partial / VIEWS)

    def record(self, place: int, checksum: int) -> None:
        """Take down that a record is written."""
        self.checksums[place] = checksum
        with (self.partial / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(self._line(place) + "\n")

    def finish(self) -> None:
        """Turn the unfinished pack into a pack, all of whose records are made."""
        with (self.partial / VIEWS).open("rb") as file:
            os.fsync(file.fileno())
        rows = [json.loads(self._line(place)) for place in range(len(self.plan.records))]
        manifest = self.plan.settings | {"bytes": self.plan.size, "records": rows}
        _write_text(self.partial / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        (self.partial / JOURNAL).unlink()
        self.partial.rename(self.folder)

    def _line(self, place: int) -> str:
        return json.dumps({"record": asdict(self.plan.records[place]), "crc32": self.checksums[place]})


def remove_pack(folder: Path) -> None:
    """Delete the folder of a pack, finished or not, if it is there.

    Raises:
        PackError: it holds something else.
    """
    if not folder.exists():
        return
    ours = {file for name in (VIEWS, MANIFEST, JOURNAL) for file in (name, f".{name}.tmp")}
    foreign = sorted({path.name for path in folder.iterdir()} - ours)
    if foreign:
        raise PackError(f"{folder} is no pack: it holds {', '.join(foreign[:SHOWN])}; nothing was deleted")
    shutil.rmtree(folder)


def _source_of(record: dict) -> tuple[str, int, int]:
    """Return what tells the photograph of a record from every other one, and from itself when it has changed."""
    return record["image"], record["source_bytes"], record["source_mtime_ns"]


def _write_text(path: Path, text: str) -> None:
    with replace_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
