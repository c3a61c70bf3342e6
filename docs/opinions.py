"""Produce the tables of docs/experiments.md on people's opinions: SR4KIQA, four folds of six contents, three seeds.

    python docs/opinions.py branches opinions.csv
    python docs/opinions.py branches opinions.csv --commands

`opinions.csv` is a label table of `prepare.py labels` with SR4KIQA in it. Every row is trained on three folds and
tested on the fourth, four times for each seed; two contents of the training folds select the epoch. The scores of
every run are kept in docs/opinions_scores.csv: a run whose scores are there is skipped, so the same command resumes an
interrupted table and prints a finished one without training. With another --scores and --out it trains everything
again. --row NAME makes one row.
"""

import argparse
import os
import sys
import time
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from experiments import ROOT, SEEDS, run
from scipy import stats

sys.path.insert(0, str(ROOT))

from data.files import exclusive_lock, listing, write_csv
from data.label_files import TableError, read_labels
from utils.command_line import entry_point, integer
from utils.errors import RunError
from utils.reporting.folds import Contents, table_of

FOLDS = (0, 1, 2, 3)
VALIDATION_CONTENTS = 2
BASE = "three branches"
CONFIG = "configs/sr4kiqa.yaml"
SCORES = ROOT / "docs" / "opinions_scores.csv"
BRANCHES = ("aesthetic", "distortion", "salient")


DRAWS = 2  # of the fragments in a pack: one for each epoch
PRETRAINING_PHOTOGRAPHS = 120  # of BIQ2021's training split, without their opinions
# Pre-training options of each start; `simulated` is trained once per seed, `BIQ2021`, which takes an hour, once.
STARTS = {
    "simulated": f"--config {CONFIG} --database UHD_IQA --database_dir {{out}}/simulated --random_seed {{seed}}",
    "BIQ2021": "--config configs/lite.yaml --metadata {out}/biq2021.csv --source_weights BIQ2021=5,simulated=2 "
    "--map_weight 0 --freeze_stages 4 --num_epochs 2 --random_seed 0",
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


def read_opinions(file: Path) -> pd.DataFrame:
    """Return a label table of `prepare.py labels`, with `fold` as a number.

    Raises:
        TableError: it is missing or damaged, has no column of folds or contents, or no image of SR4KIQA.
    """
    remedy = f"write it with: python prepare.py labels SR4KIQA=FOLDER --out {file}"
    if not file.is_file():
        raise TableError(f"{file}: no such file; {remedy}")
    table = read_labels("csv", file, "image", "mos", "split")
    missing = {"source", "group", "fold"} - set(table)
    if missing:
        raise TableError(f"{file}: no column {listing(sorted(missing))}; {remedy}")
    if "SR4KIQA" not in set(table["source"]):
        raise TableError(f"{file}: no image of SR4KIQA; {remedy}")
    return table.assign(fold=pd.to_numeric(table["fold"]))


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


def wait_for_lock(path: Path) -> IO:
    """Lock a file until it is closed, as soon as other threads and commands have released it."""
    while True:
        try:
            return exclusive_lock(path)
        except BlockingIOError:
            time.sleep(0.1)


class Scores:
    """The scores of all runs, kept in a file: a row for each photograph, a column for each row of a table and seed.

    Args:
        file: CSV with `image` and the columns of the runs so far, or not there yet.
        opinions: the labels of SR4KIQA, with `image`, `mos`, `group` and `fold`.
    """

    def __init__(self, file: Path, opinions: pd.DataFrame):
        self.file = file
        self.opinions = opinions.assign(name=[Path(image).name for image in opinions["image"]]).set_index("name")
        self.table = self._read()

    def _read(self) -> pd.DataFrame:
        kept = pd.read_csv(self.file, index_col="image") if self.file.exists() else pd.DataFrame()
        return kept.reindex(sorted({*kept.index, *self.opinions.index}))

    def add(self, column: str, scores: pd.Series) -> None:
        """Keep the scores of a run, by name of the photograph."""
        with wait_for_lock(self.file.with_suffix(".lock")):
            self.table = self._read()  # another command may have added its own
            self.table.loc[scores.index, column] = scores.round(4)
            write_csv(self.file, self.table.rename_axis("image").reset_index())
            self.file.with_suffix(".lock").unlink()

    def of(self, column: str, fold: int) -> pd.DataFrame | None:
        """Return `score`, `mos` and `group` of a fold's photographs, or None if the run is not finished."""
        images = self.opinions[self.opinions["fold"] == fold]
        if column not in self.table or self.table.loc[images.index, column].isna().any():
            return None
        return images[["mos", "group"]].assign(score=self.table.loc[images.index, column])


def train_and_test(row: Row, fold: int, seed: int, out: Path) -> pd.Series:
    """Train and test a run; return the scores of the fold's photographs, by name."""
    lines = commands(row, fold, seed, out)
    trained = out / "ckpts" / f"{row.run_name}_{fold}_{seed}"
    if (trained / "last.pth").exists() or not (trained / "best.pth").exists():  # else only the scores were lost
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
        raise TableError("the row `simulated opinions first` needs BIQ2021 in the label table")
    chosen, step = out / "photographs", max(1, len(photographs) // PRETRAINING_PHOTOGRAPHS)
    chosen.mkdir(parents=True, exist_ok=True)
    for image in photographs["image"].sort_values().iloc[::step]:
        link = chosen / Path(image).name
        if not link.is_symlink():
            link.symlink_to(image)
    if not (out / "simulated" / "uhd-iqa-metadata.csv").exists():
        run(f"prepare.py synthetic --photographs {chosen} --scenes {PRETRAINING_PHOTOGRAPHS} --out {out}/simulated")


def file_sizes(opinions: pd.DataFrame, folder: Path) -> Contents:
    """Return the control that takes the size of the file as the score."""
    table = opinions.assign(score=[(folder / image).stat().st_size for image in opinions["image"]])
    return Contents({(fold, 0): part for fold, part in table.groupby("fold")})


def write_tables(opinions: pd.DataFrame, starts: Container[str], out: Path) -> None:
    """Write the label tables that the runs read.

    Raises:
        TableError: a start needs data sets that the opinions lack.
    """
    for fold in FOLDS:
        write_csv(out / f"fold{fold}.csv", fold_table(opinions, fold))
    if "BIQ2021" in starts:
        others = opinions[opinions["source"] != "SR4KIQA"]
        if set(others["source"]) != {"BIQ2021", "simulated"}:
            raise TableError("the row `BIQ2021 first` needs a label table of BIQ2021, SR4KIQA and simulated alone")
        write_csv(out / "biq2021.csv", others[["image", "mos", "split", "source", "group"]])


def train_all(
    runs: list[tuple[Row, int, int]], opinions: pd.DataFrame, folder: Path, out: Path, jobs: int, scores: Scores
) -> None:
    """Pack what the runs read, then train and test them, some at a time, and keep their scores."""
    out.mkdir(parents=True, exist_ok=True)
    opinions = opinions.assign(image=[os.path.abspath(folder / image) for image in opinions["image"]])
    starts = {row.start for row, _, _ in runs}
    write_tables(opinions, starts, out)
    if "simulated" in starts:
        simulate(opinions, out)
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


@entry_point
def main(args: list[str] | None = None) -> int:
    """Produce a table; with --commands only print its commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("opinions", type=Path, help="label table of `prepare.py labels`")
    parser.add_argument("--out", type=Path, default=Path("experiments/opinions"), metavar="DIR", help="packs and runs")
    parser.add_argument("--scores", type=Path, default=SCORES, metavar="CSV", help="where the scores are kept")
    parser.add_argument("--row", metavar="NAME", help="only this row, beside the first, which it is compared with")
    parser.add_argument(
        "--seeds", type=integer(1, len(SEEDS)), default=len(SEEDS), metavar="N", help="the first N of three seeds"
    )
    parser.add_argument("--jobs", type=integer(1), default=2, metavar="N", help="runs at a time, one core each")
    parser.add_argument("--finished", action="store_true", help="train nothing; show the rows whose runs are all kept")
    parser.add_argument(
        "--commands",
        action="store_true",
        help="only print the commands of every row, which read tables that a run without it writes",
    )
    options = parser.parse_args(args)
    first, *others = TABLES[options.table]
    rows = [first, *(row for row in others if options.row in (None, row.name))]
    if options.row not in (None, first.name) and len(rows) == 1:
        parser.error(f"--row {options.row}: choose from {', '.join(row.name for row in TABLES[options.table])}")
    seeds = SEEDS[: options.seeds]
    runs = [(row, fold, seed) for seed in seeds for row in rows for fold in FOLDS]
    if options.commands:
        lines = dict.fromkeys(line for run_ in runs for line in commands(*run_, options.out).values())
        print("\n".join(f"python {line}" for line in lines))
        return 0
    opinions = read_opinions(options.opinions)
    folder = options.opinions.parent
    labels = opinions[opinions["source"] == "SR4KIQA"]
    scores = Scores(options.scores, labels)
    todo = [(row, fold, seed) for row, fold, seed in runs if scores.of(row.column(seed), fold) is None]
    if options.finished:
        unfinished = {row for row, _, _ in todo}
        rows = [row for row in rows if row not in unfinished]
        if first not in rows:
            raise RunError(f"no row can be compared yet: `{first.name}` is not finished with {options.seeds} seeds")
    else:
        train_all(todo, opinions, folder, options.out.resolve(), options.jobs, scores)
    measured = {
        row.name: Contents({(fold, seed): scores.of(row.column(seed), fold) for fold in FOLDS for seed in seeds})
        for row in rows
    }
    measured["control: file size"] = file_sizes(labels, folder)
    print(table_of(measured, {row.name: row.options for row in rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
