"""Produce the tables of docs/experiments.md on people's opinions: SR4KIQA, four folds of six contents, three seeds.

    python docs/opinions.py branches opinions.csv
    python docs/opinions.py branches opinions.csv --commands

`opinions.csv` is a label table of `prepare.py labels` with SR4KIQA in it. Every row is trained on three folds and
tested on the fourth, four times for each seed; two contents of the training folds select the epoch. The scores of
every run are kept in docs/opinions_scores.csv: a run whose scores are there is skipped, so the same command resumes an
interrupted table, prints a finished one without training, and with another --scores trains everything again. --row
NAME makes one row alone.
"""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd
from experiments import ROOT, SEEDS, run
from scipy import stats

sys.path.insert(0, str(ROOT))

from data.files import write_csv

FOLDS = (0, 1, 2, 3)
VALIDATION_CONTENTS = 2
RESAMPLES = 1000
BASE = "three branches"
CONFIG = "configs/sr4kiqa.yaml"
SCORES = ROOT / "docs" / "opinions_scores.csv"
BRANCHES = ("aesthetic", "distortion", "salient")


DRAWS = 2  # of the fragments in a pack: one for each epoch
PRETRAINING_PHOTOGRAPHS = 120  # of BIQ2021's training split, without their opinions
# What a row may learn from before SR4KIQA: the options of that training, once a seed or, as it takes an hour, once.
STARTS = {
    "simulated": f"--config {CONFIG} --database UHD_IQA --database_dir {{out}}/simulated --random_seed {{seed}}",
    "BIQ2021": "--config configs/lite.yaml --metadata {out}/biq2021.csv --source_weights BIQ2021=5,simulated=2 "
    "--freeze_stages 4 --num_epochs 2 --random_seed 0",
}


@dataclass(frozen=True)
class Row:
    """A row of a table: options added to CONFIG, the pack to read, and the opinions to learn from first, of STARTS."""

    name: str
    options: str = ""
    pack: str = "center"
    start: str = ""

    @property
    def run_name(self) -> str:
        """The row's name, for files."""
        return "_".join(self.name.replace(",", "").split())

    def start_name(self, seed: int) -> str:
        """The name of the run that this row starts from."""
        return f"simulated_{seed}" if self.start == "simulated" else self.start.lower()

    def column(self, seed: int) -> str:
        """The name of the row's scores with a seed."""
        return f"{self.name}, seed {seed}"


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
        Row("random weights", "--init scratch --freeze_stages 0"),
        Row("partner pairs", "--pairing partner --num_epochs 1"),  # an epoch has twice the steps
        Row("squared errors alone", "--lr_weight_pair 0"),
        Row("fidelity alone", "--lr_weight_L2 0"),
        Row("simulated opinions first", start="simulated"),
        Row("BIQ2021 first", start="BIQ2021"),
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
    """Return the commands of a run: pack, pre-train if the row has a start, train, test."""
    run, pack, labels = (
        f"{row.run_name}_{fold}_{seed}",
        f"{out}/packs/{row.pack}_{fold}_{seed}",
        f"{out}/fold{fold}.csv",
    )
    folders = f"--snapshot {out}/ckpts --logdir {out}/logs"
    common = f"--config {CONFIG} --metadata {labels} --random_seed {seed} {PACKS[row.pack]}"
    train = f"train.py {common} {row.options} --packed {pack} --run {run} {folders}"
    checkpoint = f"{out}/ckpts/{run}/best.pth"
    lines = {"pack": f"prepare.py pack {common} --draws {DRAWS} --out {pack}"}
    if row.start:
        options, name = STARTS[row.start].format(out=out, seed=seed), row.start_name(seed)
        lines["pretrain"] = f"train.py {options} --run {name} {folders} --resume auto"
        train += f" --pretrained_path {out}/ckpts/{name}/best.pth"
    lines["train"] = f"{train} --resume auto"
    lines["test"] = f"test.py --checkpoint {checkpoint} --metadata {labels} --logdir {out}/logs"
    return {name: " ".join(line.split()) for name, line in lines.items()}


class Scores:
    """The scores of all runs, kept in a file: a row for each photograph, a column for each row of a table and seed.

    Args:
        file: CSV with `image` and the columns of the runs so far, or not there yet.
        opinions: the labels of SR4KIQA, with `image`, `mos`, `group` and `fold`.
    """

    def __init__(self, file: Path, opinions: pd.DataFrame):
        self.file = file
        self.lock = Lock()  # runs finish in several threads
        self.opinions = opinions.assign(name=[Path(image).name for image in opinions["image"]]).set_index("name")
        kept = pd.read_csv(file, index_col="image") if file.exists() else pd.DataFrame()
        self.table = kept.reindex(sorted({*kept.index, *self.opinions.index}))

    def add(self, column: str, scores: pd.Series) -> None:
        """Keep the scores of a run, by name of the photograph."""
        with self.lock:
            self.table.loc[scores.index, column] = scores.round(4)
            write_csv(self.file, self.table.rename_axis("image").reset_index())

    def of(self, column: str, fold: int) -> pd.DataFrame | None:
        """Return `score`, `mos` and `group` of a fold's photographs, or None if the run is not finished."""
        images = self.opinions[self.opinions["fold"] == fold]
        if column not in self.table or self.table.loc[images.index, column].isna().any():
            return None
        return images[["mos", "group"]].assign(score=self.table.loc[images.index, column])


def train_and_test(row: Row, fold: int, seed: int, out: Path) -> pd.Series:
    """Train and test a run; return the scores of the fold's photographs, by name."""
    lines = commands(row, fold, seed, out)
    run(lines["train"])
    run(lines["test"])
    predictions = pd.read_csv(out / "logs" / f"{row.run_name}_{fold}_{seed}" / "predictions_test.csv")
    scores = predictions["score"].set_axis([Path(image).name for image in predictions["image"]])
    srcc = stats.spearmanr(predictions["score"], predictions["mos"]).statistic
    print(f"{row.name}, fold {fold}, seed {seed}: SRCC {srcc:.3f}", flush=True)
    return scores


def simulate(opinions: pd.DataFrame, out: Path) -> None:
    """Make a data set of simulated opinions from photographs of BIQ2021's training split, unless it is there."""
    photographs = opinions[(opinions["source"] == "BIQ2021") & (opinions["split"] == "train")]
    if photographs.empty:
        raise SystemExit("the row `simulated opinions first` needs BIQ2021 in the label table")
    chosen = out / "photographs"
    chosen.mkdir(parents=True, exist_ok=True)
    for image in photographs["image"].sort_values().iloc[:: len(photographs) // PRETRAINING_PHOTOGRAPHS]:
        link = chosen / Path(image).name
        if not link.is_symlink():
            link.symlink_to(image)
    if not (out / "simulated" / "uhd-iqa-metadata.csv").exists():
        run(f"prepare.py synthetic --photographs {chosen} --scenes {PRETRAINING_PHOTOGRAPHS} --out {out}/simulated")


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
    table = opinions.assign(score=[(folder / image).stat().st_size for image in opinions["image"]])
    return Contents({(fold, 0): part for fold, part in table.groupby("fold")})


def train_all(
    runs: list[tuple[Row, int, int]], opinions: pd.DataFrame, folder: Path, out: Path, jobs: int, scores: Scores
) -> None:
    """Pack what the runs read, then train and test them, some at a time, and keep their scores."""
    opinions = opinions.assign(image=[os.path.abspath(folder / image) for image in opinions["image"]])
    for fold in FOLDS:
        write_csv(out / f"fold{fold}.csv", fold_table(opinions, fold))
    starts = {row.start for row, _, _ in runs}
    if "simulated" in starts:
        simulate(opinions, out)
    if "BIQ2021" in starts:
        others = opinions[opinions["source"] != "SR4KIQA"]
        if set(others["source"]) != {"BIQ2021", "simulated"}:
            raise SystemExit("the row `BIQ2021 first` needs a label table of BIQ2021, SR4KIQA and simulated alone")
        write_csv(out / "biq2021.csv", others[["image", "mos", "split", "source", "group"]])
    for step in ("pack", "pretrain"):
        for command in dict.fromkeys(lines[step] for lines in (commands(*job, out) for job in runs) if step in lines):
            run(command)

    def finish(job: tuple[Row, int, int]) -> None:
        row, fold, seed = job
        scores.add(row.column(seed), train_and_test(*job, out))
        for state in ("last", "previous"):  # the optimizer's state is three times as large as the weights
            (out / "ckpts" / f"{row.run_name}_{fold}_{seed}" / f"{state}.pth").unlink(missing_ok=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(finish, runs))


def main() -> None:
    """Produce a table; with --commands only print its commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("opinions", type=Path, help="label table of `prepare.py labels`")
    parser.add_argument("--out", type=Path, default=Path("experiments/opinions"), metavar="DIR", help="packs and runs")
    parser.add_argument("--scores", type=Path, default=SCORES, metavar="CSV", help="where the scores are kept")
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
    options.out.mkdir(parents=True, exist_ok=True)
    opinions = pd.read_csv(options.opinions, dtype={"image": str})
    folder = options.opinions.parent
    labels = opinions[opinions["source"] == "SR4KIQA"]
    scores = Scores(options.scores, labels)
    todo = [(row, fold, seed) for row, fold, seed in runs if scores.of(row.column(seed), fold) is None]
    train_all(todo, opinions, folder, options.out, options.jobs, scores)
    measured = {
        row.name: Contents({(fold, seed): scores.of(row.column(seed), fold) for fold in FOLDS for seed in SEEDS})
        for row in rows
    }
    measured["control: file size"] = file_sizes(labels, folder)
    print(table_of(measured, {row.name: row.options for row in rows}))


if __name__ == "__main__":
    main()
