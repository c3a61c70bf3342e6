"""Derive every random generator of the data pipeline from a purpose, a seed and integer keys; no global state."""

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What a generator is for. Each purpose has its own stream, so adding a draw to one leaves the others unchanged."""

    EVALUATION = 1
    SHUFFLE = 2
    PARTNER = 3
    CROP = 4
    FRAGMENTS = 5
    SCENE = 6
    DEGRADATION = 7
    FLIP = 8
    SOURCE = 9
    MAP_LOSS = 10


def derive_generator(purpose: Purpose, seed: int, *keys: int) -> np.random.Generator:
    """Return the generator for a purpose and keys.

    Equal arguments give the same stream in every process; different ones give independent streams. So a score does not
    depend on order, batch size or worker count, and a resumed run equals an uninterrupted one.

    Args:
        purpose: what is drawn.
        seed: seed of the run or of the ViewSpec, 0 <= seed < 2**32.
        keys: non-negative integers, for example (sample, draw); each purpose uses a fixed number of them.
    """
    # Include the number of keys, because numpy's SeedSequence treats [1] and [1, 0] as the same entropy.
    return np.random.default_rng([int(purpose), len(keys), seed, *keys])


def seed_torch(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch's global generators for one training step; stochastic depth and dropout in the trunks use them.

    Every GPU of this process gets a seed of its own: with DataParallel one GPU may have the first images of the pairs
    and another their partners, which must not share a mask.
    """
    torch.manual_seed(_torch_seed(seed, step, rank))
    if torch.cuda.is_initialized():
        for device, generator in enumerate(torch.cuda.default_generators):
            generator.manual_seed(_torch_seed(seed, step, rank, device))


def _torch_seed(*keys: int) -> int:
    return int(np.random.SeedSequence([*keys, len(keys)]).generate_state(1, np.uint64)[0] >> 1)
