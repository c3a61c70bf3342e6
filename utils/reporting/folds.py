"""Measures of a k-fold evaluation: means over folds and seeds, with intervals that resample whole contents."""

import numpy as np
import pandas as pd

from utils.metrics import plcc, srcc

RESAMPLES = 1000


class Contents:
    """Predictions of all folds, to measure and to resample by content.

    Args:
        tables: predictions by (fold, seed), with `score`, `mos` and `group`.

    Attributes:
        rows: by (fold, seed) and content, (n, 2) of score and mos.
        within: by (fold, seed), the SRCC within each content, (number of contents,).
    """

    def __init__(self, tables: dict[tuple[int, int], pd.DataFrame]):
        self.rows = {
            key: [part[["score", "mos"]].to_numpy() for _, part in table.groupby("group")]
            for key, table in tables.items()
        }
        self.within = {key: np.array([srcc(*part.T) for part in parts]) for key, parts in self.rows.items()}

    def drawn(self, generator: np.random.Generator | None) -> dict[int, np.ndarray]:
        """Return for each fold the positions of its contents, drawn with replacement; each once without a generator."""
        sizes = {fold: len(groups) for (fold, _), groups in self.rows.items()}
        if generator is None:
            return {fold: np.arange(size) for fold, size in sizes.items()}
        return {fold: generator.integers(0, size, size) for fold, size in sizes.items()}

    def measure(self, drawn: dict[int, np.ndarray]) -> dict[str, float]:
        """Return the means over folds and seeds: SRCC and PLCC of a fold's images, and SRCC within contents."""
        values = []
        for key, groups in self.rows.items():
            positions = drawn[key[0]]
            scores, mos = np.concatenate([groups[position] for position in positions]).T
            values.append((srcc(scores, mos), plcc(scores, mos), np.nanmean(self.within[key][positions])))
        return dict(zip(("SRCC", "PLCC", "within"), np.mean(values, axis=0).tolist(), strict=True))


def table_of(rows: dict[str, Contents], options: dict[str, str], seed: int = 0) -> str:
    """Return a table of means with 95 % intervals, and of paired differences from the first row."""
    generator = np.random.default_rng(seed)
    first = next(iter(rows))
    draws = [rows[first].drawn(generator) for _ in range(RESAMPLES)]
    resampled = {
        name: np.array([contents.measure(drawn)["SRCC"] for drawn in draws]) for name, contents in rows.items()
    }
    lines = [
        "| | options | SRCC | PLCC | SRCC within contents | difference in SRCC from the first row |",
        "|---|---|---|---|---|---|",
    ]
    for name, contents in rows.items():
        measures = contents.measure(contents.drawn(None))
        low, high = np.percentile(resampled[name], [2.5, 97.5])
        difference = measures["SRCC"] - rows[first].measure(rows[first].drawn(None))["SRCC"]
        limits = np.percentile(resampled[name] - resampled[first], [2.5, 97.5])
        compared = "" if name == first else f"{difference:+.3f} [{limits[0]:+.3f}, {limits[1]:+.3f}]"
        shown = f"`{options[name]}`" if options.get(name) else ""
        lines.append(
            f"| {name} | {shown} | {measures['SRCC']:.3f} [{low:.3f}, {high:.3f}] | {measures['PLCC']:.3f} "
            f"| {measures['within']:.3f} | {compared} |"
        )
    return "\n".join(lines)
