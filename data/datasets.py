"""Batches of views: single photographs for scoring, pairs for training."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset, Sampler

from data.decode import ImageError, decode_rgb, name_error, to_rgb
from data.layout import to_image, to_view
from data.packed import PackedViews
from data.seeding import Purpose, derive_generator
from data.tables import TableError
from data.views import ViewSpec, make_views, sample_draws


class PhotographDataset(Dataset):
    """Photographs for scoring, each cut into the views of evaluation.

    An item is a sample: the views by name, `index` (the position in `paths`) and `mos`. A photograph that cannot be
    used is a sample of `index` and `error`, a message, so that the rest of its batch can be scored.

    Args:
        paths: image files, or anything else that `data.decode.to_rgb` accepts.
        spec: how views are cut.
        mos: opinion of each photograph; NaN where there is none.
        draws: number of fragment draws. With more than one, the distortion view is (draws, 3, S, S), draw 0 first; the
            other views do not change.
        keep_image: add the decoded photograph to its sample, as `image`, (H, W, 3) uint8.
        reduce: called with the decoded photograph and its views, in the process or thread that decodes; what it returns
            is added to the sample as `reduced`. So small pictures are made in parallel, and the large one is not kept.

    Attributes:
        is_ragged: whether photographs differ in how many patches they have, so that they cannot be stacked.
    """

    def __init__(
        self,
        paths: Sequence,
        spec: ViewSpec,
        mos: Sequence | None = None,
        draws: int = 1,
        keep_image: bool = False,
        reduce: Callable[[np.ndarray, dict[str, torch.Tensor]], object] | None = None,
    ):
        self.paths = list(paths)
        self.spec = spec
        self.mos = np.full(len(self.paths), np.nan) if mos is None else np.asarray(mos, float)
        self.draws = draws
        self.keep_image = keep_image
        self.reduce = reduce
        self.is_ragged = spec.is_ragged

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        try:
            image = to_rgb(self.paths[index], self.spec.max_pixels)
            views = make_views(image, self.spec)
            if self.draws > 1:
                views["distortion"] = sample_draws(image, self.spec, self.draws)
        except ImageError as error:
            return {"index": index, "error": name_error(error, self.paths[index])}
        kept = {"image": image} if self.keep_image else {}
        if self.reduce is not None:
            kept["reduced"] = self.reduce(image, views)
        return views | {"index": index, "mos": self.mos[index]} | kept


PAIRINGS = ("partner", "batch")
TARGETS = ("mos", "teacher")  # what a sample's score is compared with in training


class PairDataset(Dataset):
    """Photographs for training: each paired with one of a different opinion, redrawn every epoch; or each alone.

    An item is a list of two samples (or one) as in PhotographDataset, whose `mos` (and `teacher`) are on the scale of
    the loss. All draws come from (seed, sample, epoch, role, purpose), so an item does not depend on what was read
    before it or by which process, and a photograph that appears in an epoch as first and as partner is cut twice.

    Args:
        table: rows with `path`, `mos` and, for distillation, another model's score as `teacher`; the index identifies
            the sample.
        spec: how views are cut; the aesthetic crop is random here.
        seed: 0 <= seed < 2**32.
        packed: where the views are read; None to cut them from the image files.
        pairing: "partner" for two samples per item, "batch" for one, where the batch forms the pairs.
        flip: mirror each photograph with probability 1/2, all its views alike; left and right carry no information
            about quality.
        standardise: shift and scale opinions by their mean and s.d., those of each source by its own.
        source_column: column of the table that says which data set a photograph is from; its opinions are compared only
            with those of the same source. None if all are from one.

    Attributes:
        source_names: the sources, in the order of the table; a single "" without a column.
        sources: (n,) int64, the position of each photograph's source in `source_names`.
        mos_scales: for each source `mean` and `sd` of its opinions if they are standardised, else 0 and 1.

    Raises:
        TableError: fewer than two distinct opinions in a source, so that no pair can be ranked.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        spec: ViewSpec,
        seed: int,
        packed: PackedViews | None = None,
        pairing: str = "partner",
        flip: bool = False,
        standardise: bool = False,
        source_column: str | None = None,
    ):
        self.paths = table["path"].tolist()
        self.mos = table["mos"].to_numpy(float)
        self.samples = table.index.to_numpy()
        self.spec = spec
        self.seed = seed
        self.packed = packed
        self.pairing = pairing
        self.flip = flip
        sources = table[source_column] if source_column else pd.Series("", table.index, str)
        self.source_names = tuple(sources.unique()) if source_column else ("",)
        self.sources = pd.Categorical(sources, self.source_names).codes.astype(np.int64)
        self.mos_scales = {}
        for number, name in enumerate(self.source_names):
            mos = self.mos[self.sources == number]
            if len(np.unique(mos)) < 2:
                raise TableError(
                    f"training ranks pairs of different opinions, but all {len(mos)} training images"
                    f"{f' of {name}' if name else ''} have the same one; check the label file and the split"
                )
            scale = {"mean": float(mos.mean()), "sd": float(mos.std())}
            self.mos_scales[name] = scale if standardise else {"mean": 0.0, "sd": 1.0}
        mean, sd = (
            torch.tensor([scale[key] for scale in self.mos_scales.values()])[self.sources] for key in ("mean", "sd")
        )
        self._targets = {
            name: (torch.tensor(table[name].to_numpy(float), dtype=torch.float32) - mean) / sd
            for name in TARGETS
            if name in table
        }

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> list[dict]:
        """Return the samples of a key (epoch, index), as EpochBatches makes them."""
        epoch, index = key
        indices = [index, self.partner(index, epoch)] if self.pairing == "partner" else [index]
        return [self._sample(index, len(indices) * epoch + role) for role, index in enumerate(indices)]

    @property
    def target_names(self) -> tuple[str, ...]:
        """Which of TARGETS the samples have."""
        return tuple(self._targets)

    @property
    def opinion_scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the opinions on the scale of the loss: 0 and 1 if they are standardised."""
        mos = self._targets["mos"]
        return float(mos.mean()), float(mos.std(correction=0))

    def partner(self, index: int, epoch: int) -> int:
        """Return a photograph of the same source with another opinion, each with the same probability."""
        generator = derive_generator(Purpose.PARTNER, self.seed, int(self.samples[index]), epoch)
        candidates = (self.mos != self.mos[index]) & (self.sources == self.sources[index])
        return int(generator.choice(np.flatnonzero(candidates)))

    def _sample(self, index: int, draw: int) -> dict:
        """Return one sample; `draw` numbers its appearances over the epochs: 2 * epoch + role in a pair, else epoch."""
        sample = int(self.samples[index])
        crop_generator = derive_generator(Purpose.CROP, self.seed, sample, draw)
        try:
            if self.packed is not None:
                views = self.packed.views(sample, draw, crop_generator)
            else:
                image = decode_rgb(self.paths[index], self.spec.max_pixels)
                generator = derive_generator(Purpose.FRAGMENTS, self.seed, sample, draw)
                views = make_views(image, self.spec, generator, crop_generator)
        except ImageError as error:
            return {"index": index, "error": name_error(error, self.paths[index])}
        if self.flip and derive_generator(Purpose.FLIP, self.seed, sample, draw).random() < 0.5:
            views = {name: view.flip(-1) for name, view in views.items()}
        targets = {name: target[index].item() for name, target in self._targets.items()}
        return views | {"index": index, "source": int(self.sources[index])} | targets


class EpochBatches(Sampler):
    """Yields the batches of several epochs one after the other, as lists of keys (epoch, index).

    An epoch's order depends on seed and epoch alone; its last batch may be short. With sources, each is drawn in a
    stated proportion, evenly over the epoch: a small one several times, a large one in part, and the next epoch goes on
    where this one has stopped. The key's "epoch" is then how often a photograph has been drawn before, so that it is
    cut anew each time.

    One iteration serves a whole training, so that the first batches of an epoch are read while the previous one is
    still being validated. The epoch is part of the key because worker processes hold copies of the data set that no
    later assignment reaches.

    Args:
        length: samples of an epoch.
        batch_size: samples of a batch.
        seed: 0 <= seed < 2**32.
        epochs: which epochs to yield.
        first_step: batches of the first epoch to leave out, because a resumed training has seen them.
        rank, world_size: each rank gets its part of every batch; a short batch may leave a rank with nothing.
        sources: (length,) number of the source of each sample; None to draw each sample once an epoch.
        proportions: of the sources in every epoch, positive, in any unit; needed with sources.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        epochs: range,
        first_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        sources: np.ndarray | None = None,
        proportions: Sequence[float] = (),
    ):
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.epochs = epochs
        self.first_step = first_step
        self.rank = rank
        self.world_size = world_size
        self.members = [np.flatnonzero(sources == number) for number in range(len(proportions))]
        self.draws = _divide(length, proportions)

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-self.length // self.batch_size)

    def __len__(self) -> int:
        return self.steps * len(self.epochs) - self.first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first = self.first_step
        for epoch in self.epochs:
            keys = self._keys(epoch)
            for step in range(first, self.steps):
                batch = keys[step * self.batch_size : (step + 1) * self.batch_size]
                yield [(int(times), int(index)) for times, index in np.array_split(batch, self.world_size)[self.rank]]
            first = 0

    def _keys(self, epoch: int) -> np.ndarray:
        """Return the keys of an epoch in order, (length, 2)."""
        generator = derive_generator(Purpose.SHUFFLE, self.seed, epoch)
        if not self.members:
            return np.stack([np.full(self.length, epoch), generator.permutation(self.length)], axis=1)
        keys, positions = [], []
        for source, (members, draws) in enumerate(zip(self.members, self.draws, strict=True)):
            times, positions_in_pass = np.divmod(np.arange(epoch * draws, (epoch + 1) * draws), len(members))
            for number in np.unique(times):
                order = derive_generator(Purpose.SOURCE, self.seed, source, int(number)).permutation(members)
                drawn = order[positions_in_pass[times == number]]
                keys.append(np.stack([np.full(len(drawn), number), drawn], axis=1))
            positions.append((np.arange(draws) + generator.random(draws)) / max(1, draws))
        return np.concatenate(keys)[np.argsort(np.concatenate(positions), kind="stable")]


def _divide(total: int, proportions: Sequence[float]) -> list[int]:
    """Divide a number in proportions, by largest remainders."""
    exact = total * np.asarray(proportions, float) / (sum(proportions) or 1)
    parts = np.floor(exact).astype(int)
    parts[np.argsort(parts - exact, kind="stable")[: total - parts.sum()]] += 1
    return parts.tolist()


def collate_photographs(samples: Sequence[dict]) -> dict:
    """Stack samples into a batch of the B that could be used.

    Returns:
        `views`: for each view (B, 3, S, S), or (B, K, 3, S, S) for K draws or patches, uint8, channels last in memory;
        `mos` and, if samples have it, the `teacher`'s score: (B,) float32; `source`: (B,) int64, 0 where samples
        have none; `index`: (B,) int64 numpy array; `images` and `reduced`, if samples have an `image` or what it was
        `reduced` to: lists of B; `errors`: list of (index, message) of the other samples.
    """
    errors = [(sample["index"], sample["error"]) for sample in samples if "error" in sample]
    usable = [sample for sample in samples if "error" not in sample]
    names = (
        [name for name in usable[0] if name not in ("index", "image", "reduced", "source", *TARGETS)] if usable else []
    )
    targets = [name for name in TARGETS if name == "mos" or not usable or name in usable[0]]
    kept = {
        plural: [sample[name] for sample in usable]
        for name, plural in (("image", "images"), ("reduced", "reduced"))
        if usable and name in usable[0]
    }
    return {
        "views": {name: _stack([sample[name] for sample in usable]) for name in names},
        **{name: torch.tensor([sample[name] for sample in usable], dtype=torch.float32) for name in targets},
        "index": np.array([sample["index"] for sample in usable], dtype=np.int64),
        "source": torch.tensor([sample.get("source", 0) for sample in usable], dtype=torch.int64),
        "errors": errors,
        **kept,
    }


def collate_pairs(pairs: Sequence[list[dict]]) -> dict:
    """Stack the items of a PairDataset to one batch, as `collate_photographs`: all firsts, then all seconds.

    An item with a sample that could not be used is dropped with its pair.
    """
    usable = [pair for pair in pairs if not any("error" in sample for sample in pair)]
    batch = collate_photographs([sample for samples in zip(*usable, strict=True) for sample in samples])
    batch["errors"] = [(sample["index"], sample["error"]) for pair in pairs for sample in pair if "error" in sample]
    return batch


def _stack(views: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack views into a batch in their own memory order, which is twenty times as fast as reordering them."""
    return to_view(np.stack([to_image(view) for view in views]))
