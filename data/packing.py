"""Make packs of views (`data/pack_format.py`); an interrupted pack can be resumed any number of times.

Every finished record is entered into the journal with its checksum. On resuming, records whose bytes match their
checksum are kept, and the finished pack is the same, byte for byte, as without an interruption.
"""

import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from torch.utils.data import Dataset

from data.decode import ImageError, decode_rgb, image_size, name_error
from data.files import listing, write_text
from data.fragments import sample_fragments
from data.layout import to_image
from data.pack_format import JOURNAL, MANIFEST, VIEWS, PackError, PackPlan, Record, file_stat, partial_folder, read_pack
from data.patches import N_PATCHES, count_patches
from data.seeding import Purpose, derive_generator
from data.views import ViewSpec, crop_patches, crop_salient, resize_short_side, short_side_shape

SPLITS = ("train", "val")  # training never reads the test split


def plan_pack(rows: pd.DataFrame, spec: ViewSpec, random_seed: int, draws: int) -> PackPlan:
    """Lay out a pack, reading only the headers of its images.

    Args:
        rows: rows of a label table, with `image`, `split` and `path`; the index identifies the sample.
        spec, random_seed, draws: as in PackPlan.

    Raises:
        PackError: headers cannot be read, or images are too long and thin; the message lists them.
    """
    records, faults, offset = [], [], 0
    for sample, image, split, path in zip(rows.index, rows["image"], rows["split"], rows["path"], strict=True):
        try:
            shape = _record_shape(path, split, spec, draws)
        except ImageError as error:
            faults.append(str(error))
            continue
        records.append(Record(image, split, int(sample), *file_stat(path), offset, *shape))
        offset += records[-1].size(spec)
    if faults:
        raise PackError(
            f"{len(faults)} of {len(rows)} images cannot be used: {listing(faults, 5, 300)}. Repair them, or remove "
            "them from the label file"
        )
    return PackPlan(spec, random_seed, draws, tuple(records))


def _record_shape(path: str, split: str, spec: ViewSpec, draws: int) -> tuple[int, int, int, int]:
    """Return height, width, draws and patches of a photograph's record."""
    height, width = image_size(path, spec.max_pixels)
    patches = 0
    if "patches" in spec.views:
        count = N_PATCHES if split == "train" else spec.patches
        patches = count_patches(height, width, spec.patch_dimension, spec.patch_policy, count)
    height, width = short_side_shape(height, width, spec.resize) if "aesthetic" in spec.views else (0, 0)
    if height * width > spec.max_pixels:  # decoding would refuse it, and its record could be larger than all others
        raise ImageError(f"{path}: resized to {width} x {height} it would exceed --max_pixels {spec.max_pixels}")
    is_drawn = split == "train" and not ("patches" in spec.views and spec.patch_policy == "texture")
    return height, width, draws if is_drawn else 1, patches


class PackWriter(Dataset):
    """Photographs to be packed. Reading an item writes its record, so that no views travel between processes.

    An item is (index in the plan, checksum, None). Errors are returned, not raised, because a DataLoader's worker would
    add its traceback: (index, None, message) if the image cannot be used, (index, None, OSError) if the record cannot
    be written.

    Args:
        plan: the whole pack.
        paths: image file of every record.
        todo: indices of the records to write.
        file: `views.bin`, already of its full length.
    """

    def __init__(self, plan: PackPlan, paths: Sequence[str], todo: Sequence[int], file: Path):
        self.plan = plan
        self.paths = list(paths)
        self.todo = list(todo)
        self.file = file

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, item: int) -> tuple[int, int | None, str | OSError | None]:
        index = self.todo[item]
        record, path = self.plan.records[index], self.paths[index]
        try:
            content = b"".join(part.tobytes() for part in self._parts(record, path))
            if len(content) != record.size(self.plan.spec):
                raise ImageError(f"{path}: the decoded image has another size than its header says")
        except ImageError as error:
            return index, None, name_error(error, path)
        try:
            with self.file.open("r+b") as file:
                file.seek(record.offset)
                file.write(content)
        except OSError as error:
            return index, None, error
        return index, zlib.crc32(content), None

    def _parts(self, record: Record, path: str) -> Iterator[np.ndarray]:
        """Yield the parts of a record, in file order."""
        spec, is_training = self.plan.spec, record.split == "train"
        seeds = [(self.plan.random_seed, record.sample, draw) for draw in range(record.draws)]
        image = decode_rgb(path, spec.max_pixels)
        if "aesthetic" in spec.views:
            yield resize_short_side(image, spec.resize, spec.max_pixels)
        if "salient" in spec.views:
            yield crop_salient(image, spec)
        if "distortion" in spec.views:
            for seed in seeds:
                generator = derive_generator(Purpose.FRAGMENTS, *seed) if is_training else spec.evaluation_generator()
                yield to_image(sample_fragments(image, spec.n_fragment, spec.patch_size, generator, spec.max_pixels))
        if "patches" in spec.views:
            for seed in seeds:
                generator = derive_generator(Purpose.CROP, *seed) if is_training else None
                yield to_image(crop_patches(image, spec, generator))


class UnfinishedPack:
    """A pack that is being made or checked.

    Args:
        folder: the finished pack.
        plan: its intended content.

    Attributes:
        checksums: of the records that are in the file and intact, by index in the plan.

    Raises:
        PackError: the folder holds something else, or a pack of other photographs or with other settings.
    """

    def __init__(self, folder: str | os.PathLike, plan: PackPlan):
        self.folder = Path(folder)
        self.partial = partial_folder(folder)
        self.plan = plan
        self.exists = self.folder.is_dir()
        self._source = self.folder if self.exists else self.partial
        self.checksums = self._intact_records()

    def _intact_records(self) -> dict[int, int]:
        """Return the checksums of the records that are in the file and intact, by index in the plan."""
        settings, checksums = read_pack(self._source)
        if settings is None:
            if self.exists and any(self.folder.iterdir()):
                raise PackError(f"{self.folder} exists and is not a pack: choose another --out")
            return {}
        remedy = "Choose another --out, or replace it with --overwrite"
        differences = self.plan.differences(settings)
        if differences:
            raise PackError(f"{self._source} was made with other settings: {differences}. {remedy}")
        # Photographs may be added, removed or changed; but a pack with none of these belongs to another data set.
        sources = {record.source for record in checksums}
        if sources and sources.isdisjoint(record.source for record in self.plan.records):
            raise PackError(
                f"{self._source} was made of other photographs: none of its {len(checksums)} is among these "
                f"{len(self.plan.records)} as they are now. {remedy}"
            )
        path, intact = self._source / VIEWS, {}
        if not path.is_file():  # deleted, or the process was killed before creating it
            return intact
        with path.open("rb") as file:
            for index, record in enumerate(self.plan.records):
                if record in checksums:
                    file.seek(record.offset)
                    if zlib.crc32(file.read(record.size(self.plan.spec))) == checksums[record]:
                        intact[index] = checksums[record]
        return intact

    @property
    def todo(self) -> list[int]:
        """Indices in the plan of the records that are still to be made."""
        return [index for index in range(len(self.plan.records)) if index not in self.checksums]

    @property
    def is_whole(self) -> bool:
        """Whether the finished pack exists and needs no change."""
        return self.exists and not self.todo and (self.folder / VIEWS).stat().st_size == self.plan.size

    def free_bytes_needed(self) -> int:
        """Return how much disk space the remaining records need."""
        path = self._source / VIEWS
        used = (
            getattr(path.stat(), "st_blocks", 0) * 512 if path.exists() else 0
        )  # less than its length while it has holes
        return max(0, self.plan.size - used)

    def begin(self, paths: Sequence[str]) -> PackWriter:
        """Create or reopen the unfinished folder and return the photographs that are still to be packed."""
        if self.exists:  # some records are out of date
            remove_pack(self.partial)
            self.folder.rename(self.partial)
        self.partial.mkdir(parents=True, exist_ok=True)
        lines = [self.plan.settings, *map(self._entry, sorted(self.checksums))]
        write_text(self.partial / JOURNAL, "".join(json.dumps(line) + "\n" for line in lines))
        (self.partial / MANIFEST).unlink(missing_ok=True)
        with (self.partial / VIEWS).open("ab") as file:
            file.truncate(self.plan.size)
        return PackWriter(self.plan, paths, self.todo, self.partial / VIEWS)

    def record(self, index: int, checksum: int) -> None:
        """Enter a written record into the journal."""
        self.checksums[index] = checksum
        with (self.partial / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(self._entry(index)) + "\n")

    def finish(self) -> None:
        """Replace the journal by the manifest and rename the folder; every record must be written."""
        with (self.partial / VIEWS).open("rb") as file:
            os.fsync(file.fileno())
        entries = [self._entry(index) for index in range(len(self.plan.records))]
        manifest = self.plan.settings | {"bytes": self.plan.size, "records": entries}
        write_text(self.partial / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        (self.partial / JOURNAL).unlink()
        self.partial.rename(self.folder)

    def _entry(self, index: int) -> dict:
        return {"record": asdict(self.plan.records[index]), "crc32": self.checksums[index]}


def remove_pack(folder: Path) -> None:
    """Delete the folder of a pack, finished or not, if it exists.

    Raises:
        PackError: the folder holds other files.
    """
    if not folder.exists():
        return
    own = {file for name in (VIEWS, MANIFEST, JOURNAL) for file in (name, f".{name}.tmp")}
    foreign = sorted({path.name for path in folder.iterdir()} - own)
    if foreign:
        raise PackError(f"{folder} is not a pack: it holds {listing(foreign)}; nothing was deleted")
    shutil.rmtree(folder)
