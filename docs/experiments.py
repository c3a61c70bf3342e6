"""Make the tables of docs/experiments.md: train rows of options on the demo set over several seeds, and test each.

    python docs/experiments.py training
    python docs/experiments.py training --commands

Every training gets the same time on one thread, is stopped by SIGTERM, and its best epoch by validation is tested once.
A row that is there is not run again, so that an interrupted table goes on with the same command.
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
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (0, 1, 2)
ENDLESS = "--num_epochs 1000 --decay_interval 1000"
REACHED = 0.6  # SRCC on the validation images; the time to it is told


@dataclass(frozen=True)
class Row:
    """A line of a table: options of train.py beside configs/demo.yaml, and the pack they read."""

    name: str
    options: str
    pack: str = "views"


PACKS = {"views": "--draws 8"}  # options of `prepare.py pack` beside configs/demo.yaml
TABLES = {
    "training": [
        Row(f"{pairing}, {scale}", f"--pairing {pairing} --mos_scale {scale}")
        for pairing in ("partner", "batch")
        for scale in ("none", "standardise")
    ],
}


def pack_command(row: Row, seed: int, out: str) -> str:
    """Return the command that makes the pack of a row."""
    return (
        f"prepare.py pack --config configs/demo.yaml --random_seed {seed} {PACKS[row.pack]} "
        f"--out {out}/packs/{row.pack}_{seed}"
    )


def train_command(row: Row, seed: int, out: str) -> str:
    """Return the command that trains a row, until it is stopped."""
    return (
        f"train.py --config configs/demo.yaml --random_seed {seed} --packed {out}/packs/{row.pack}_{seed} {ENDLESS} "
        f"{row.options} --run {run_of(row, seed)} --snapshot {out}/ckpts --logdir {out}/logs --overwrite"
    )


def test_command(row: Row, seed: int, out: str) -> str:
    """Return the command that tests a row."""
    run = run_of(row, seed)
    return f"test.py --checkpoint {out}/ckpts/{run}/best.pth --logdir {out}/logs"


def run_of(row: Row, seed: int) -> str:
    """Return the name of a row's run."""
    return "_".join(row.name.replace(",", "").replace("+", "").split()) + f"_{seed}"


def run(command: str, seconds: float | None = None) -> None:
    """Run one of our entry points on one thread; SIGTERM ends it after some seconds.

    Raises:
        SystemExit: it failed; the message is its last lines.
    """
    process = subprocess.Popen(
        [sys.executable, *shlex.split(command)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    stopped = False
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        stopped = True
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate()
    if process.returncode not in ((143,) if stopped else (0,)):
        raise SystemExit(f"{command} ended with {process.returncode}:\n" + "\n".join(output.splitlines()[-8:]))


def result_of(row: Row, seed: int, out: str, seconds: float) -> dict:
    """Train and test a row, or read what it came to."""
    logs = ROOT / out / "logs" / run_of(row, seed)
    if not (logs / "test_test.json").exists():
        run(train_command(row, seed, out), seconds)
        run(test_command(row, seed, out))
    measures = json.loads((logs / "test_test.json").read_text(encoding="utf-8"))
    history = pd.read_csv(logs / "history.csv").merge(pd.read_csv(logs / "speed.csv"), on="epoch")
    reached = history["SRCC"] >= REACHED
    took = history["seconds"].cumsum()[reached].min() if reached.any() else float("nan")
    print(f"{row.name}, seed {seed}: {len(history)} epochs, test SRCC {measures['raw']['SRCC']:.3f}", flush=True)
    return {
        "row": row.name,
        "seed": seed,
        "SRCC": measures["raw"]["SRCC"],
        "PLCC": measures["val_fitted"]["PLCC"],
        "epochs": len(history),
        "seconds_to_reach": took,
    }


def markdown(results: pd.DataFrame) -> str:
    """Return a table of means and spreads (lowest to highest) over the seeds."""
    lines = [
        f"| | test SRCC | PLCC | epochs | s to validation SRCC {REACHED} |",
        "|---|---|---|---|---|",
    ]
    for name, found in results.groupby("row", sort=False):
        times = found["seconds_to_reach"]
        in_time = f"{times.mean():.0f} ({times.min():.0f} to {times.max():.0f})" if times.notna().any() else "never"
        if times.isna().any() and times.notna().any():
            in_time += f", {times.isna().sum()} of {len(times)} never"
        lines.append(
            f"| {name} | {found['SRCC'].mean():.3f} ({found['SRCC'].min():.3f} to {found['SRCC'].max():.3f}) "
            f"| {found['PLCC'].mean():.3f} | {found['epochs'].mean():.0f} | {in_time} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Make a table as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--out", default="experiments", metavar="DIR", help="for packs, runs and tables")
    parser.add_argument("--seconds", type=float, default=75, metavar="S", help="of each training, start-up included")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="rows side by side, a core each")
    parser.add_argument("--commands", action="store_true", help="print the commands of every row and do nothing")
    options = parser.parse_args()
    rows = [(row, seed) for seed in SEEDS for row in TABLES[options.table]]
    if options.commands:
        for row, seed in rows:
            for command in (pack_command, train_command, test_command):
                print(f"python {command(row, seed, options.out)}")
        return
    if not (ROOT / "demo_data").exists():
        run("prepare.py synthetic --out demo_data")
    for command in dict.fromkeys(pack_command(row, seed, options.out) for row, seed in rows):
        run(command)
    with ThreadPoolExecutor(options.jobs) as pool:
        found = list(pool.map(lambda each: result_of(*each, options.out, options.seconds), rows))
    results = pd.DataFrame(found)
    results.to_csv(ROOT / options.out / f"{options.table}.csv", index=False)
    print(markdown(results))


if __name__ == "__main__":
    main()
