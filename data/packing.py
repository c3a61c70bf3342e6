"""Plan a pack of views (`data/pack_format.py`) and write its records; `data/unfinished_pack.py` keeps its folder."""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch.utils.data import Dataset

from data.decode import ImageError, decode_rgb, image_size, name_error
from data.files import file_sha256, listing, one_line
from data.fragments import sample_fragments
from data.layout import to_image
from data.pack_format import Entry, PackError, PackPlan, Record, file_stat
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
    return PackPlan(spec, random_seed, draws, tuple(records), tuple(rows["path"]))


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

    An item is (index in the plan, entry, None). Errors are returned, not raised, because a DataLoader's worker would
    add its traceback: (index, None, message) if the image cannot be used, (index, None, OSError) if the record cannot
    be written.

    Args:
        plan: the whole pack.
        todo: indices of the records to write.
        file: `views.bin`, already of its full length.
    """

    def __init__(self, plan: PackPlan, todo: Sequence[int], file: Path):
        self.plan = plan
        self.todo = list(todo)
        self.file = file

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, item: int) -> tuple[int, Entry | None, str | OSError | None]:
        index = self.todo[item]
        record, path = self.plan.records[index], self.plan.paths[index]
        try:
            content = b"".join(part.tobytes() for part in self._parts(record, path))
            if len(content) != record.size(self.plan.spec):
                raise ImageError(f"{path}: the decoded image has another size than its header says")
            sha256 = file_sha256(path)
            if file_stat(path) != (record.source_bytes, record.source_mtime_ns):
                raise ImageError(f"{path}: changed while the pack was being made")
        except ImageError as error:
            return index, None, name_error(error, path)
        except OSError as error:
            return index, None, f"{path}: cannot be read: {one_line(error)}"
        try:
            with self.file.open("r+b") as file:
                file.seek(record.offset)
                file.write(content)
        except OSError as error:
            return index, None, error
        return index, Entry(record, zlib.crc32(content), sha256), None

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
                generator = derive_generator(Purpose.FRAGMENTS, *seed) if is_training else spec.evaluation_fractions()
                yield to_image(sample_fragments(image, spec.n_fragment, spec.patch_size, generator, spec.max_pixels))
        if "patches" in spec.views:
            for seed in seeds:
                generator = derive_generator(Purpose.CROP, *seed) if is_training else None
                yield to_image(crop_patches(image, spec, generator))
