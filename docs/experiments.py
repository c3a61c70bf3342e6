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
from functools import cache
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (0, 1, 2)
ENDLESS = "--num_epochs 1000 --decay_interval 1000"
REACHED = 0.6  # SRCC on the validation images; the time to it is told


@dataclass(frozen=True)
class Row:
    """A line of a table: options beside configs/demo.yaml, the pack that is read, and a row to learn from."""

    name: str
    model: str = ""
    training: str = ""
    pack: str = "views"
    teacher: str | None = None

    @property
    def options(self) -> str:
        """What tells its training from others, beside configs/demo.yaml and the options that all have."""
        words = [PACKS[self.pack], VALIDATED.get(self.pack, ""), self.model, self.training]
        return " ".join([*filter(None, words), *(["--distill_from ..."] if self.teacher else [])])

    def run(self, seed: int) -> str:
        """Return the name of the row's run."""
        return f"{'_'.join(self.name.replace(',', '').split())}_{seed}"

    def distilling(self, seed: int, out: str) -> str:
        """Return the option by which it learns from its teacher, if it has one."""
        return f"--distill_from {out}/logs/{Row(self.teacher).run(seed)}/predictions_train.csv" if self.teacher else ""


# The views of a pack, and of the models that read it: options beside configs/demo.yaml
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
    """Return what is run for a row: pack, train until it is stopped, test; and teach, before another learns from it."""
    run, pack = row.run(seed), f"{out}/packs/{row.pack}_{seed}"
    views = f"--config configs/demo.yaml --random_seed {seed} {PACKS[row.pack]} {VALIDATED.get(row.pack, '')}"
    train = f"train.py {views} {row.model} {row.training} {row.distilling(seed, out)} --packed {pack} {ENDLESS}"
    test = f"test.py --checkpoint {out}/ckpts/{run}/best.pth --logdir {out}/logs"
    found = {
        "pack": f"prepare.py pack {views} --draws 8 --out {pack}",
        "train": f"{train} --run {run} --snapshot {out}/ckpts --logdir {out}/logs --overwrite",
        "test": test,
        "teach": f"{test} --split train",
    }
    return {name: " ".join(words.split()) for name, words in found.items()}


def run(command: str, seconds: float | None = None) -> str:
    """Run one of our entry points on one thread and return what it printed; SIGTERM ends it after some seconds.

    Raises:
        SystemExit: it failed; the message is its last lines.
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
        raise SystemExit(
            f"{command} ended with {process.returncode}:\n" + "\n".join((output + errors).splitlines()[-8:])
        )
    return output


@cache
def gmacs_of(row: Row) -> float:
    """Return the GMACs of a row's model for a photograph of the demo set, as published (ptflops, aten)."""
    words = f"flops.py --config configs/demo.yaml {PACKS[row.pack]} {row.model} --json -"
    return json.loads(run(words))["gmacs"]["ptflops_aten"]


def result_of(row: Row, seed: int, out: str, seconds: float) -> dict:
    """Train and test a row, or read what it came to."""
    logs = ROOT / out / "logs" / row.run(seed)
    if not (logs / "test_test.json").exists():
        if row.teacher and not (logs.with_name(Row(row.teacher).run(seed)) / "predictions_train.csv").exists():
            run(commands(Row(row.teacher), seed, out)["teach"])
        run(commands(row, seed, out)["train"], seconds)
        run(commands(row, seed, out)["test"])
    measures = json.loads((logs / "test_test.json").read_text(encoding="utf-8"))
    history = pd.read_csv(logs / "history.csv").merge(pd.read_csv(logs / "speed.csv"), on="epoch")
    reached = history["SRCC"] >= REACHED
    took = history["seconds"].cumsum()[reached].min() if reached.any() else float("nan")
    print(f"{row.name}, seed {seed}: {len(history)} epochs, test SRCC {measures['raw']['SRCC']:.3f}", flush=True)
    return {
        "row": row.name,
        "seed": seed,
        "options": row.options,
        "SRCC": measures["raw"]["SRCC"],
        "PLCC": measures["val_fitted"]["PLCC"],
        "gmacs": gmacs_of(row),
        "epochs": len(history),
        "seconds_to_reach": took,
    }


def markdown(results: pd.DataFrame) -> str:
    """Return a table of means and spreads (lowest to highest) over the seeds."""
    lines = [
        f"| | options | test SRCC | PLCC | GMACs | epochs | s to validation SRCC {REACHED} |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in results.groupby("row", sort=False):
        times, options = found["seconds_to_reach"], found["options"].iloc[0]
        options = f"`{options}`" if options else ""
        srcc = f"{found['SRCC'].mean():.3f} ({found['SRCC'].min():.3f} to {found['SRCC'].max():.3f})"
        in_time = f"{times.mean():.0f} ({times.min():.0f} to {times.max():.0f})" if times.notna().any() else "never"
        if times.isna().any() and times.notna().any():
            in_time += f", {times.isna().sum()} of {len(times)} never"
        lines.append(
            f"| {name} | {options} | {srcc} | {found['PLCC'].mean():.3f} | {found['gmacs'].mean():.2f} "
            f"| {found['epochs'].mean():.0f} | {in_time} |"
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
    # A row that others learn from stands before them.
    rows = [(row, seed) for row in TABLES[options.table] for seed in SEEDS]
    if options.commands:
        for row, seed in rows:
            wanted = commands(row, seed, options.out)
            if all(row.name != other.teacher for other in TABLES[options.table]):
                del wanted["teach"]
            print("\n".join(f"python {command}" for command in wanted.values()))
        return
    if not (ROOT / "demo_data" / "uhd-iqa-metadata.csv").exists():
        run("prepare.py synthetic --out demo_data")
    for command in dict.fromkeys(commands(row, seed, options.out)["pack"] for row, seed in rows):
        run(command)
    with ThreadPoolExecutor(options.jobs) as pool:
        found = list(pool.map(lambda each: result_of(*each, options.out, options.seconds), rows))
    results = pd.DataFrame(found)
    results.to_csv(ROOT / options.out / f"{options.table}.csv", index=False)
    print(markdown(results))


if __name__ == "__main__":
    main()
