"""Measures of folds: intervals resample whole contents, and differences between rows are paired."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from utils.reporting import folds
from utils.reporting.folds import Contents, table_of


def scored(noise: float, seed: int) -> dict[tuple[int, int], pd.DataFrame]:
    generator = np.random.default_rng(seed)
    tables = {}
    for fold in range(4):
        mos = generator.normal(size=120)
        table = pd.DataFrame({"mos": mos, "score": mos + noise * generator.normal(size=120)})
        tables[fold, 0] = table.assign(group=np.arange(120) // 20)
    return tables


def test_the_table_has_intervals_and_paired_differences(monkeypatch):
    monkeypatch.setattr(folds, "RESAMPLES", 200)
    rows = {"good": Contents(scored(0.2, 1)), "bad": Contents(scored(2.0, 1))}
    first, second = table_of(rows, {"bad": "--shared_trunk"}).splitlines()[2:]
    good = Contents(scored(0.2, 1)).measure({fold: np.arange(6) for fold in range(4)})
    assert first.startswith(f"| good |  | {good['SRCC']:.3f} [")
    assert first.endswith("|  |")
    assert "| `--shared_trunk` |" in second
    assert second.split("|")[-2].strip().startswith("-")  # worse, and its interval is below zero
    assert float(second.split("|")[-2].split(",")[1].strip(" ]")) < 0


def test_the_same_row_twice_differs_by_nothing(monkeypatch):
    monkeypatch.setattr(folds, "RESAMPLES", 50)
    rows = {name: Contents(scored(1.0, 2)) for name in ("one", "same")}
    assert table_of(rows, {}).splitlines()[3].endswith("| +0.000 [+0.000, +0.000] |")


def test_the_measures_are_means_over_folds_of_scipys():
    tables = scored(0.5, 3)
    measured = Contents(tables).measure({fold: np.arange(6) for fold in range(4)})
    frames = list(tables.values())
    assert measured["SRCC"] == pytest.approx(np.mean([stats.spearmanr(t["score"], t["mos"]).statistic for t in frames]))
    assert measured["PLCC"] == pytest.approx(np.mean([stats.pearsonr(t["score"], t["mos"]).statistic for t in frames]))
    parts = [part for table in frames for _, part in table.groupby("group")]
    within = np.mean([stats.spearmanr(part["score"], part["mos"]).statistic for part in parts])
    assert measured["within"] == pytest.approx(within)


def test_copies_of_images_within_a_content_add_nothing(monkeypatch):
    """Contents are drawn, so three copies of each image are no more than one."""
    monkeypatch.setattr(folds, "RESAMPLES", 50)
    tables = scored(1.0, 4)
    copies = {key: pd.concat([table] * 3, ignore_index=True) for key, table in tables.items()}
    once, thrice = (table_of({"row": Contents(given)}, {}) for given in (tables, copies))
    assert once == thrice
