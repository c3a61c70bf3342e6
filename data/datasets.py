"""Batches of views: single photographs for scoring, pairs for training."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset, Sampler

from data.decode import ImageError, decode_rgb
from data.seeding import Purpose, derive_generator
from data.tables import TableError
from data.views import ViewSpec, make_views


class PhotographDataset(Dataset):
    """Photographs for scoring, each cut as in evaluation.

    An item is a sample: the views by name, `index` (its place in `paths`) and `mos`. A photograph that cannot be used
    gives `index` and `error`, a message, instead, so that the rest of a batch goes on.

    Args:
        paths: of the image files.
        spec: how views are cut.
        mos: opinion of each; NaN where there is none.
        draw: which draw of the fragments.
    """

    def __init__(self, paths: Sequence[str], spec: ViewSpec, mos: Sequence[float] | None = None, draw: int = 0):
        self.paths = list(paths)
        self.spec = spec
        self.mos = np.full(len(self.paths), np.nan) if mos is None else np.asarray(mos, float)
        self.draw = draw

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        try:
            image = decode_rgb(self.paths[index], self.spec.max_pixels)
            views = make_views(image, self.spec, self.spec.evaluation_generator(self.draw))
        except ImageError as error:
            return {"index": index, "error": _named(error, self.paths[index])}
        return views | {"index": index, "mos": self.mos[index]}


class PairDataset(Dataset):
    """Pairs for training: each photograph with a partner of another opinion, drawn anew every epoch.

    An item is a list of two samples as in PhotographDataset, `index` being the place in the table. All draws come from
    (seed, sample, epoch, purpose), so an item does not depend on what was read before it or by which process.

    Args:
        table: rows with `path` and `mos`; the index identifies the sample.
        spec: how views are cut; the aesthetic crop is random here.
        seed: 0 <= seed < 2**32.

    Raises:
        TableError: fewer than two distinct opinions, so that no pair can be ranked.
    """

    def __init__(self, table: pd.DataFrame, spec: ViewSpec, seed: int):
        self.paths = table["path"].tolist()
        self.mos = table["mos"].to_numpy(float)
        self.samples = table.index.to_numpy()
        self.spec = spec
        self.seed = seed
        if len(np.unique(self.mos)) < 2:
            raise TableError(
                f"training ranks pairs of different opinions, but the {len(table)} training images have "
                f"{len(np.unique(self.mos))} distinct opinion(s); check the label file and the split"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> list[dict]:
        """Return the pair of a key (epoch, index), as EpochSampler makes them."""
        epoch, index = key
        return [self._sample(index, epoch), self._sample(self.partner(index, epoch), epoch)]

    def partner(self, index: int, epoch: int) -> int:
        """Return a photograph with another opinion, each as likely as any other."""
        generator = derive_generator(Purpose.PARTNER, self.seed, int(self.samples[index]), epoch)
        return int(generator.choice(np.flatnonzero(self.mos != self.mos[index])))

    def _sample(self, index: int, epoch: int) -> dict:
        place = (int(self.samples[index]), epoch)
        try:
            views = make_views(
                decode_rgb(self.paths[index], self.spec.max_pixels),
                self.spec,
                generator=derive_generator(Purpose.FRAGMENTS, self.seed, *place),
                crop_generator=derive_generator(Purpose.CROP, self.seed, *place),
            )
        except ImageError as error:
            return {"index": index, "error": _named(error, self.paths[index])}
        return views | {"index": index, "mos": self.mos[index]}


class EpochSampler(Sampler):
    """Yields (epoch, index) over all indices in an order that depends on seed and epoch alone.

    The epoch travels in the key because worker processes hold copies of the data set that no later assignment reaches.
    """

    def __init__(self, length: int, seed: int):
        self.length = length
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = derive_generator(Purpose.SHUFFLE, self.seed, self.epoch).permutation(self.length)
        return ((self.epoch, int(index)) for index in order)


def collate_photographs(samples: Sequence[dict]) -> dict:
    """Stack samples to a batch.

    Returns:
        `views`: for each view (B, 3, S, S) uint8; `mos`: (B,) float32; `index`: (B,) int64 numpy array; `errors`: list
        of (index, message) of samples that could not be used, which are in nothing else. B is 0 if all failed.
    """
    errors = [(sample["index"], sample["error"]) for sample in samples if "error" in sample]
    usable = [sample for sample in samples if "error" not in sample]
    names = [name for name in usable[0] if name not in ("index", "mos")] if usable else []
    return {
        "views": {name: torch.stack([sample[name] for sample in usable]) for name in names},
        "mos": torch.tensor([sample["mos"] for sample in usable], dtype=torch.float32),
        "index": np.array([sample["index"] for sample in usable], dtype=np.int64),
        "errors": errors,
    }


def collate_pairs(pairs: Sequence[list[dict]]) -> dict:
    """Stack pairs to one batch of 2B photographs, as `collate_photographs`: all firsts, then all seconds."""
    return collate_photographs([first for first, _ in pairs] + [second for _, second in pairs])


def _named(error: ImageError, path: str) -> str:
    """Return the message of an error, with the file's name in front where it lacks it."""
    message = str(error)
    return message if message.startswith(str(path)) else f"{path}: {message}"
