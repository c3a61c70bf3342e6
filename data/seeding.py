"""Where every random number of the data comes from: one generator per purpose and place, never global state."""

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What a generator is for. Each purpose has a stream of its own, so adding a draw to one moves no other."""

    EVALUATION = 1
    SHUFFLE = 2
    PARTNER = 3
    CROP = 4
    FRAGMENTS = 5
    SCENE = 6
    DEGRADATION = 7
    FLIP = 8


def derive_generator(purpose: Purpose, seed: int, *place: int) -> np.random.Generator:
    """Return the generator of one purpose at one place.

    Two calls with the same arguments give the same stream in every process; two that differ anywhere give independent
    ones. That is what makes a score independent of order, batch size and worker count, and a resumed run equal to an
    uninterrupted one.

    Args:
        purpose: what is drawn.
        seed: the run's or the view specification's seed, 0 <= seed < 2**32.
        place: non-negative integers, for example (sample, epoch); each purpose uses a fixed number of them.
    """
    # The length goes in because numpy's SeedSequence takes [1] and [1, 0] for the same entropy.
    return np.random.default_rng([int(purpose), len(place), seed, *place])


def seed_torch(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch's own generators for one training step: stochastic depth and dropout inside trunks draw from them."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank, 1]).generate_state(1, np.uint64)[0] >> 1))
