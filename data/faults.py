"""Faults in some mini-patches of a distortion view, which teach a quality map where a fault is."""

import numpy as np

from data.synthetic import AMOUNT_RANGES, STRONG_MOS, UNTOUCHED_MOS, degrade, fault_amount, simulated_mos

STRONG_DROP = 3.5  # what the strongest fault takes from a mini-patch, in standard deviations of opinions


def add_faults(mosaic: np.ndarray, n_fragment: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Degrade a random rectangle of mini-patches, never all of them, with one fault of one amount.

    Each mini-patch is degraded on its own, as nothing of its neighbours was beside it in the photograph. The fault and
    its amount are those of the demo data set (`data.synthetic`), and so is the drop, up to a factor: linear in the
    logarithm of the amount.

    Args:
        mosaic: (S, S, 3) uint8, the distortion view; not changed.
        n_fragment: mini-patches along each side, at least 2.
        generator: draws the fault, its amount and its place.

    Returns:
        The degraded view, (S, S, 3) uint8, and by how many standard deviations of opinions each mini-patch became
        worse, (n_fragment, n_fragment) float32, 0 outside the rectangle.
    """
    fault = str(generator.choice(list(AMOUNT_RANGES)))
    amount = fault_amount(fault, generator.random())
    rows, columns = generator.integers(1, n_fragment, 2)
    top, left = generator.integers(n_fragment - rows + 1), generator.integers(n_fragment - columns + 1)
    size = len(mosaic) // n_fragment
    degraded = mosaic.copy()
    for y in range(top * size, (top + rows) * size, size):
        for x in range(left * size, (left + columns) * size, size):
            patch = slice(y, y + size), slice(x, x + size)
            degraded[patch] = degrade(mosaic[patch], fault, amount, generator)
    drops = np.zeros((n_fragment, n_fragment), np.float32)
    share = (UNTOUCHED_MOS - simulated_mos(fault, amount)) / (UNTOUCHED_MOS - STRONG_MOS)
    drops[top : top + rows, left : left + columns] = STRONG_DROP * share
    return degraded, drops
