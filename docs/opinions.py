"""Produce the tables of docs/experiments.md on people's opinions: SR4KIQA, four folds of six contents, three seeds.

    python docs/opinions.py branches opinions.csv
    python docs/opinions.py branches opinions.csv --commands

`opinions.csv` is a label table of `prepare.py labels` with SR4KIQA in it. Every row is trained on three folds and
tested on the fourth, four times for each seed; two contents of the training folds select the epoch. Finished runs are
skipped, so the same command goes on with an interrupted table, and --row NAME makes one row alone.
"""

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from experiments import SEEDS, run
from scipy import stats

FOLDS = (0, 1, 2, 3)
VALIDATION_CONTENTS = 2
RESAMPLES = 1000
BASE = "three branches"
CONFIG = "configs/sr4kiqa.yaml"
BRANCHES = ("aesthetic", "distortion", "salient")


@dataclass(frozen=True)
class Row:
    """A row of a table: options added to CONFIG, and the pack to read."""

    name: str
    options: str = ""
    pack: str = "center"

    @property
    def run_name(self) -> str:
        """The row's name, for files."""
        return "_".join(self.name.replace(",", "").split())


PACKS = {"center": "", "spectral": "--saliency spectral"}
TABLES = {
    "branches": [
        Row(BASE),
        *(Row(f"{name} alone", f"--branches {name}") for name in BRANCHES),
        *(Row(f"{' and '.join(pair)}", f"--branches {','.join(pair)}") for pair in combinations(BRANCHES, 2)),
        Row("one shared trunk", "--shared_trunk"),
        Row("spectral saliency", "--saliency spectral", "spectral"),
    ],
    "learning": [
        Row(BASE),
        Row("random weights", "--init scratch"),
        Row("partner pairs", "--pairing partner --num_epochs 3"),  # an epoch has twice the steps
        Row("squared errors alone", "--lr_weight_pair 0"),
        Row("fidelity alone", "--lr_weight_L2 0"),
    ],
}


def fold_table(opinions: pd.DataFrame, fold: int) -> pd.DataFrame:
    """Return SR4KIQA's rows with one fold as the test split; two contents of the next fold validate, for all seeds."""
    table = opinions[opinions["source"] == "SR4KIQA"].copy()
    following = sorted(table.loc[table["fold"] == (fold + 1) % len(FOLDS), "group"].unique())
    validation = table["group"].isin(following[:VALIDATION_CONTENTS])
    table["split"] = np.select([table["fold"] == fold, validation], ["test", "val"], "train")
    return table[["image", "mos", "split", "group"]]


def commands(row: Row, fold: int, seed: int, out: Path) -> dict[str, str]:
    """Return the commands of a run: pack, train, test."""
    run, pack, labels = (
        f"{row.run_name}_{fold}_{seed}",
        f"{out}/packs/{row.pack}_{fold}_{seed}",
        f"{out}/fold{fold}.csv",
    )
    common = f"--config {CONFIG} --metadata {labels} --random_seed {seed} {PACKS[row.pack]}"
    train = f"train.py {common} {row.options} --packed {pack} --run {run} --snapshot {out}/ckpts --logdir {out}/logs"
    checkpoint = f"{out}/ckpts/{run}/best.pth"
    lines = {
        "pack": f"prepare.py pack {common} --draws 6 --out {pack}",
        "train": f"{train} --resume auto",
        "test": f"test.py --checkpoint {checkpoint} --metadata {labels} --group_by group --logdir {out}/logs",
    }
    return {name: " ".join(line.split()) for name, line in lines.items()}


def predictions(row: Row, fold: int, seed: int, out: Path) -> pd.DataFrame:
    """Train and test a run, unless its predictions exist, and return them with the test images' contents."""
    path = out / "logs" / f"{row.run_name}_{fold}_{seed}" / "predictions_test.csv"
    if not path.exists():
        lines = commands(row, fold, seed, out)
        run(lines["train"])
        run(lines["test"])
        for name in ("last", "previous"):  # the optimizer's state is three times as large as the weights
            (out / "ckpts" / path.parent.name / f"{name}.pth").unlink(missing_ok=True)
        measures = json.loads((path.parent / "test_test.json").read_text(encoding="utf-8"))
        print(f"{row.name}, fold {fold}, seed {seed}: SRCC {measures['raw']['SRCC']:.3f}", flush=True)
    return pd.read_csv(path)


class Contents:
    """Predictions of all folds, to measure and to resample by content.

    Args:
        tables: predictions by (fold, seed), with `score`, `mos` and `group`.
    """

    def __init__(self, tables: dict[tuple[int, int], pd.DataFrame]):
        self.rows = {
            key: [part[["score", "mos"]].to_numpy() for _, part in table.groupby("group")]
            for key, table in tables.items()
        }

    def drawn(self, generator: np.random.Generator | None) -> dict[int, np.ndarray]:
        """Return for each fold the positions of its contents, drawn with replacement; each once without a generator."""
        sizes = {fold: len(groups) for (fold, _), groups in self.rows.items()}
        if generator is None:
            return {fold: np.arange(size) for fold, size in sizes.items()}
        return {fold: generator.integers(0, size, size) for fold, size in sizes.items()}

    def measure(self, drawn: dict[int, np.ndarray]) -> dict[str, float]:
        """Return the means over folds and seeds: SRCC and PLCC of a fold's images, and SRCC within contents."""
        values = []
        for (fold, _), groups in self.rows.items():
            parts = [groups[position] for position in drawn[fold]]
            scores, mos = np.concatenate(parts).T
            within = [stats.spearmanr(*part.T).statistic for part in parts]
            values.append(
                (stats.spearmanr(scores, mos).statistic, stats.pearsonr(scores, mos).statistic, np.nanmean(within))
            )
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
        "| | options | SRCC | PLCC | SRCC within contents | SRCC, less that of the first row |",
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


def file_sizes(opinions: pd.DataFrame, folder: Path) -> Contents:
    """Return the control that takes the size of the file as the score."""
    table = opinions[opinions["source"] == "SR4KIQA"]
    table = table.assign(score=[(folder / image).stat().st_size for image in table["image"]])
    return Contents({(fold, 0): part for fold, part in table.groupby("fold")})


def main() -> None:
    """Produce a table; with --commands only print its commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("opinions", type=Path, help="label table of `prepare.py labels`")
    parser.add_argument("--out", type=Path, default=Path("experiments/opinions"), metavar="DIR", help="packs and runs")
    parser.add_argument("--row", metavar="NAME", help="make this row alone (the table compares it with the first)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs at a time, one core each")
    parser.add_argument("--commands", action="store_true", help="only print the commands of every row")
    options = parser.parse_args()
    rows = [row for row in TABLES[options.table] if options.row in (None, row.name)]
    if not rows:
        parser.error(f"--row {options.row}: choose from {', '.join(row.name for row in TABLES[options.table])}")
    runs = [(row, fold, seed) for seed in SEEDS for row in rows for fold in FOLDS]
    if options.commands:
        print("\n".join(f"python {line}" for run_ in runs for line in commands(*run_, options.out).values()))
        return
    options.out = options.out.resolve()
    opinions = pd.read_csv(options.opinions, dtype={"image": str})
    for fold in FOLDS:
        options.out.mkdir(parents=True, exist_ok=True)
        table = fold_table(opinions, fold)
        table["image"] = [os.path.abspath(options.opinions.parent / image) for image in table["image"]]
        table.to_csv(options.out / f"fold{fold}.csv", index=False)
    with ThreadPoolExecutor(options.jobs) as pool:

        def result(job: tuple[Row, int, int]) -> pd.DataFrame:
            return predictions(*job, options.out)

        for command in dict.fromkeys(commands(*job, options.out)["pack"] for job in runs):
            run(command)
        results = dict(zip(runs, pool.map(result, runs), strict=True))
    measured = {
        row.name: Contents({(fold, seed): table for (of, fold, seed), table in results.items() if of == row})
        for row in rows
    }
    measured["control: file size"] = file_sizes(opinions, options.opinions.parent)
    print(table_of(measured, {row.name: row.options for row in rows}))


if __name__ == "__main__":
    main()
