"""Produce the tables of docs/experiments.md: train each row's options on the demo set with several seeds, and test.

    python docs/experiments.py training
    python docs/experiments.py training --commands

Every training run gets the same time on one thread and is then stopped by SIGTERM; its best epoch by validation is
tested once. Finished runs are skipped, so the same command resumes an interrupted table.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.command_line import entry_point, integer, number  # noqa: E402
from utils.errors import RunError  # noqa: E402

SEEDS = (0, 1, 2)
UNLIMITED_EPOCHS = "--num_epochs 1000 --schedule step --decay_interval 1000 --ema 0"
TARGET_SRCC = 0.6  # on the validation images; the table has the time to reach it


@dataclass(frozen=True)
class Row:
    """A row of a table: options added to configs/demo.yaml, the pack to read, and the row of its teacher, if any."""

    name: str
    model: str = ""
    training: str = ""
    pack: str = "views"
    teacher: str | None = None

    @property
    def options(self) -> str:
        """The options that distinguish this row from the others."""
        parts = [PACKS[self.pack], VALIDATED.get(self.pack, ""), self.model, self.training]
        return " ".join([*filter(None, parts), *(["--distill_from ..."] if self.teacher else [])])

    def run_name(self, seed: int) -> str:
        """Return the name of the row's run."""
        return f"{'_'.join(self.name.replace(',', '').split())}_{seed}"

    def teacher_option(self, seed: int, out: str) -> str:
        """Return the option for learning from the teacher's scores, if there is a teacher."""
        if self.teacher is None:
            return ""
        return f"--distill_from {out}/logs/{Row(self.teacher).run_name(seed)}/predictions_train.csv"


# For each pack, the options of its views and of the models that read it, added to configs/demo.yaml
PACKS = {
    "views": "",
    "all_patches": "--model Patches --patch_dimension 128",
    "texture": "--model Patches --patch_dimension 128 --patch_policy texture",
}
VALIDATED = {"all_patches": "--validation_patches 12"}
BRANCHES = ("aesthetic", "distortion", "salient")
LITE = "--backbone timm:mobilenetv4_conv_small_050"
TEACHER = "all three"
TABLES = {
    "training": [
        Row(f"{pairing}, {scale}", training=f"--pairing {pairing} --mos_scale {scale}")
        for pairing in ("partner", "batch")
        for scale in ("none", "standardise")
    ],
    "looking": [
        Row(TEACHER),
        *(Row(f"{name} alone", f"--branches {name}") for name in BRANCHES),
        *(
            Row(f"without {name}", f"--branches {','.join(other for other in BRANCHES if other != name)}")
            for name in BRANCHES
        ),
        Row("one shared trunk", "--shared_trunk"),
        Row("all patches", pack="all_patches"),
        Row("three patches of most texture", pack="texture"),
        Row("lite", LITE),
        Row("lite, distilled", LITE, teacher=TEACHER),
    ],
}


def commands(row: Row, seed: int, out: str) -> dict[str, str]:
    """Return the commands of a row: pack, train (until stopped), test, and teach (score the training images)."""
    run, pack = row.run_name(seed), f"{out}/packs/{row.pack}_{seed}"
    views = f"--config configs/demo.yaml --random_seed {seed} {PACKS[row.pack]} {VALIDATED.get(row.pack, '')}"
    options = f"{views} {row.model} {row.training} {row.teacher_option(seed, out)}"
    train = f"train.py {options} --packed {pack} {UNLIMITED_EPOCHS}"
    test = f"test.py --checkpoint {out}/ckpts/{run}/best.pth --logdir {out}/logs"
    lines = {
        "pack": f"prepare.py pack {views} --draws 8 --out {pack}",
        "train": f"{train} --run {run} --snapshot {out}/ckpts --logdir {out}/logs --overwrite",
        "test": test,
        "teach": f"{test} --split train",
    }
    return {name: " ".join(line.split()) for name, line in lines.items()}


def run(command: str, seconds: float | None = None) -> str:
    """Run an entry point on one thread and return its output; after some seconds, if given, stop it with SIGTERM.

    Raises:
        RunError: it failed; the message has the last lines of its output.
    """
    process = subprocess.Popen(
        [sys.executable, *shlex.split(command)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stopped = False
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        stopped = True
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate()
    if process.returncode not in ((143,) if stopped else (0,)):
        raise RunError(f"{command} ended with {process.returncode}:\n" + "\n".join((output + errors).splitlines()[-8:]))
    return output


@cache
def gmacs_of(row: Row) -> float:
    """Return the GMACs of a row's model for a photograph of the demo set, as published (ptflops, aten)."""
    command = f"flops.py --config configs/demo.yaml {PACKS[row.pack]} {row.model} --json -"
    return json.loads(run(command))["gmacs"]["ptflops_aten"]


def result_of(row: Row, seed: int, out: str, seconds: float) -> dict:
    """Train and test a row, unless its result exists, and return the result."""
    logs = ROOT / out / "logs" / row.run_name(seed)
    if not (logs / "test_test.json").exists():
        if row.teacher and not (logs.with_name(Row(row.teacher).run_name(seed)) / "predictions_train.csv").exists():
            run(commands(Row(row.teacher), seed, out)["teach"])
        run(commands(row, seed, out)["train"], seconds)
        run(commands(row, seed, out)["test"])
    measures = json.loads((logs / "test_test.json").read_text(encoding="utf-8"))
    history = pd.read_csv(logs / "history.csv").merge(pd.read_csv(logs / "speed.csv"), on="epoch")
    reached = history["SRCC"] >= TARGET_SRCC
    seconds_to_reach = history["seconds"].cumsum()[reached].min() if reached.any() else float("nan")
    print(f"{row.name}, seed {seed}: {len(history)} epochs, test SRCC {measures['raw']['SRCC']:.3f}", flush=True)
    return {
        "row": row.name,
        "seed": seed,
        "options": row.options,
        "SRCC": measures["raw"]["SRCC"],
        "PLCC": measures["val_fitted"]["PLCC"],
        "gmacs": gmacs_of(row),
        "epochs": len(history),
        "seconds_to_reach": seconds_to_reach,
    }


def markdown(results: pd.DataFrame) -> str:
    """Return a table of means and ranges (lowest to highest) over the seeds."""
    lines = [
        f"| | options | test SRCC | PLCC | GMACs | epochs | s to validation SRCC {TARGET_SRCC} |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.groupby("row", sort=False):
        times, options = runs["seconds_to_reach"], runs["options"].iloc[0]
        options = f"`{options}`" if options else ""
        srcc = f"{runs['SRCC'].mean():.3f} ({runs['SRCC'].min():.3f} to {runs['SRCC'].max():.3f})"
        time_to_target = (
            f"{times.mean():.0f} ({times.min():.0f} to {times.max():.0f})" if times.notna().any() else "never"
        )
        if times.isna().any() and times.notna().any():
            time_to_target += f", {times.isna().sum()} of {len(times)} never"
        lines.append(
            f"| {name} | {options} | {srcc} | {runs['PLCC'].mean():.3f} | {runs['gmacs'].mean():.2f} "
            f"| {runs['epochs'].mean():.0f} | {time_to_target} |"
        )
    return "\n".join(lines)


@entry_point
def main(args: list[str] | None = None) -> int:
    """Produce a table; with --commands only print its commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--out", default="experiments", metavar="DIR", help="folder of packs, runs and tables")
    parser.add_argument(
        "--seconds",
        type=number(0, above=True),
        default=75,
        metavar="S",
        help="time of each training run, start-up included",
    )
    parser.add_argument("--jobs", type=integer(1), default=2, metavar="N", help="runs at a time, one core each")
    parser.add_argument("--commands", action="store_true", help="only print the commands of every row")
    options = parser.parse_args(args)
    rows = [(row, seed) for row in TABLES[options.table] for seed in SEEDS]
    if options.commands:
        for row, seed in rows:
            lines = commands(row, seed, options.out)
            if all(row.name != other.teacher for other in TABLES[options.table]):
                del lines["teach"]
            print("\n".join(f"python {command}" for command in lines.values()))
        return 0
    if not (ROOT / "demo_data" / "uhd-iqa-metadata.csv").exists():
        run("prepare.py synthetic --out demo_data")
    for command in dict.fromkeys(commands(row, seed, options.out)["pack"] for row, seed in rows):
        run(command)
    teachers = {row.teacher for row, _ in rows}
    teaching = [(row, seed) for row, seed in rows if row.name in teachers]
    with ThreadPoolExecutor(options.jobs) as pool:
        for part in (teaching, rows):  # teachers have finished before anything learns from them
            results = list(pool.map(lambda run: result_of(*run, options.out, options.seconds), part))
    results = pd.DataFrame(results)
    results.to_csv(ROOT / options.out / f"{options.table}.csv", index=False)
    print(markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
