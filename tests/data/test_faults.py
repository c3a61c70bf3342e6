"""Faults in some mini-patches of a view."""

import numpy as np

from data.faults import STRONG_DROP, add_faults
from data.seeding import Purpose, derive_generator

N, SIZE = 4, 32


def mosaic() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N * SIZE, N * SIZE, 3), np.uint8)


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    return add_faults(mosaic(), N, derive_generator(Purpose.MAP_LOSS, seed))


def test_only_the_mini_patches_with_a_drop_are_changed():
    for seed in range(20):
        degraded, drops = draw(seed)
        changed = (degraded != mosaic()).reshape(N, SIZE, N, SIZE, 3).any(axis=(1, 3, 4))
        assert (changed == (drops > 0)).all()
        assert 0 < changed.sum() < N * N


def test_drops_lie_between_visible_and_strong():
    largest = [draw(seed)[1].max() for seed in range(100)]
    assert 0 < min(largest) < 0.15 * STRONG_DROP
    assert 0.85 * STRONG_DROP < max(largest) <= STRONG_DROP


def test_a_mini_patch_is_degraded_without_its_neighbours():
    other = mosaic()
    other[:, : N * SIZE // 2] = 0
    for seed in range(20):
        degraded, of_other = (
            add_faults(image, N, derive_generator(Purpose.MAP_LOSS, seed))[0] for image in (mosaic(), other)
        )
        np.testing.assert_array_equal(degraded[:, N * SIZE // 2 :], of_other[:, N * SIZE // 2 :])


def test_equal_generators_draw_the_same():
    for first, second in zip(draw(3), draw(3), strict=True):
        np.testing.assert_array_equal(first, second)
