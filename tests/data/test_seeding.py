"""Random generators: one stream for each purpose, seed and keys, and no global state."""

import random

import numpy as np
import pytest
import torch

from data.seeding import Purpose, derive_generator, seed_torch


def draws(purpose: Purpose, seed: int, *keys: int) -> list[int]:
    return derive_generator(purpose, seed, *keys).integers(0, 2**63, 8).tolist()


def test_equal_keys_give_the_same_stream():
    assert draws(Purpose.CROP, 7, 3, 5) == draws(Purpose.CROP, 7, 3, 5)


@pytest.mark.parametrize(
    "other",
    [
        (Purpose.FRAGMENTS, 7, 3, 5),
        (Purpose.CROP, 8, 3, 5),
        (Purpose.CROP, 7, 4, 5),
        (Purpose.CROP, 7, 3, 6),
        (Purpose.CROP, 7, 5, 3),
        (Purpose.CROP, 7, 3),
        (Purpose.CROP, 7, 3, 5, 0),
    ],
    ids=str,
)
def test_any_difference_in_the_arguments_gives_another_stream(other):
    assert draws(Purpose.CROP, 7, 3, 5) != draws(*other)


def test_trailing_zeros_give_another_stream():
    assert draws(Purpose.SHUFFLE, 0) != draws(Purpose.SHUFFLE, 0, 0) != draws(Purpose.SHUFFLE, 0, 0, 0)


def test_no_two_purposes_share_a_stream():
    streams = {tuple(draws(purpose, 0, 0)) for purpose in Purpose}
    assert len(streams) == len(Purpose)


def test_the_whole_range_of_seeds_is_usable():
    assert draws(Purpose.PARTNER, 0, 1) != draws(Purpose.PARTNER, 2**32 - 1, 1)


def test_global_generators_neither_move_a_stream_nor_are_moved_by_it():
    np.random.seed(1)
    random.seed(1)
    before = draws(Purpose.CROP, 7, 3)
    numpy_state, python_state, torch_state = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
    np.random.rand()
    random.random()
    assert draws(Purpose.CROP, 7, 3) == before
    np.random.seed(1)
    random.seed(1)
    draws(Purpose.CROP, 7, 3)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert random.getstate() == python_state
    assert torch.equal(torch.get_rng_state(), torch_state)


def torch_draws(*arguments: int) -> list[float]:
    with torch.random.fork_rng(devices=[]):
        seed_torch(*arguments)
        return torch.rand(4).tolist()


def test_a_training_step_has_the_same_torch_stream_whenever_it_runs():
    first = torch_draws(1000, 17, 0)
    torch.rand(3)
    assert torch_draws(1000, 17, 0) == torch_draws(1000, 17) == first


def test_seeds_steps_and_ranks_have_torch_streams_of_their_own():
    steps = [(seed, step, rank) for seed in (0, 1, 2**32 - 1) for step in (0, 1, 2) for rank in (0, 1, 2)]
    assert len({tuple(torch_draws(*arguments)) for arguments in steps}) == len(steps)


def test_every_gpu_of_a_process_has_a_torch_stream_of_its_own(monkeypatch):
    gpus = torch.Generator(), torch.Generator()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "default_generators", gpus)
    with torch.random.fork_rng(devices=[]):
        seed_torch(1000, 17, 0)
        streams = [torch.rand(4, generator=generator).tolist() for generator in gpus] + [torch.rand(4).tolist()]
        assert streams[0] != streams[1] != streams[2] != streams[0]
        seed_torch(1000, 17, 0)
        assert [torch.rand(4, generator=generator).tolist() for generator in gpus] == streams[:2]
