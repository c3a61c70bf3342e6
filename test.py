"""Score one split of a data set with a checkpoint and report how well the scores agree with the opinions.

python test.py --checkpoint ckpts/demo/best.pth
python test.py --checkpoint ckpts/UIQA.pth --database_dir UHDIQA/challenge/training/
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from data.datasets import PhotographDataset
from data.tables import SPLITS
from models import build_model
from utils.calibration import fit_calibration
from utils.checkpoint import LoadedModel, load_model
from utils.command_line import (
    EXIT_FAILED_IMAGES,
    RunError,
    add_flag,
    entry_point,
    make_folder,
    make_parser,
    output_file,
    parse_options,
    plain_name,
    usage_errors,
    whole_number,
)
from utils.distributed import select_device
from utils.inference import Scores, score_photographs
from utils.metrics import bootstrap_intervals, mapped_metrics
from utils.options import DATA_OPTIONS, add_compile, add_compute_options, add_data_options, add_max_pixels, table_of
from utils.report import RESAMPLES, environment, evaluation_report, measures_table, write_csv, write_json


def test_parser() -> argparse.ArgumentParser:
    """Return the parser of test.py."""
    parser = make_parser(
        "Score one split with a checkpoint: SRCC, KRCC, PLCC, RMSE and MAE with 95 % intervals. The preprocessing, and "
        "every data option that is not given, come from the checkpoint.",
        prog="test.py",
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="FILE", help="one of ours, or a released state dict such as UIQA.pth"
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="a released calibration (UIQA.npy) in place of the checkpoint's; a .npy beside a state dict is found",
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="the split to score")
    parser.add_argument("--batch_size", type=whole_number(1), default=8, metavar="N", help="images a forward pass")
    add_flag(parser, "--controls", "also measure an untrained model and the file size as the score")
    parser.add_argument(
        "--run",
        type=plain_name,
        metavar="NAME",
        help="name of the results (default: of the run that trained the model)",
    )
    parser.add_argument("--logdir", default="logfiles", metavar="DIR", help="DIR/<run>/ receives the results")
    parser.add_argument(
        "--json",
        type=output_file,
        metavar="FILE",
        help="also write the measures here; - for standard output, alone on it",
    )
    add_data_options(parser)
    add_max_pixels(parser)
    add_compute_options(parser)
    add_compile(parser)
    # What is not given is the checkpoint's to say, so that a random split is the one of training.
    parser.set_defaults(**dict.fromkeys(DATA_OPTIONS))
    return parser


@entry_point
def main(args: list[str] | None = None) -> int:
    """Evaluate as the command line says; return the exit code."""
    parser = test_parser()
    options = parse_options(parser, args)
    say = print if options.json != "-" else lambda *words: print(*words, file=sys.stderr)
    with usage_errors(parser):
        device = select_device(options.device)
        loaded = load_model(options.checkpoint, options.calibration)
    if options.compile:
        loaded.model.compile_trunks()
    loaded = replace(loaded, view_spec=replace(loaded.view_spec, max_pixels=options.max_pixels))
    take_data_options(options, loaded)
    table = table_of(options, splits=(options.split,))
    rows = table.split(options.split)
    for note in table.notes:
        say(f"Note: {note}")

    run = options.run or loaded.options.get("run") or Path(options.checkpoint).stem
    folder = make_folder(Path(options.logdir) / run)
    result = score(loaded.model, rows, loaded, device, options)
    usable = np.isfinite(result.scores)
    failures = [{"image": rows["image"].iloc[index], "error": message} for index, message in result.failures]
    if not usable.any():
        raise RunError(f"none of the {len(rows)} images could be scored; the first: {failures[0]['error']}")
    scores, mos = result.scores[usable], rows["mos"].to_numpy()[usable]

    # The network's time is spent: keep what it said before anything is computed from it.
    quality = loaded.calibration(scores) if loaded.calibration else np.full(len(scores), np.nan)
    predictions = {"image": rows["image"][usable], "mos": mos, "score": scores, "quality": quality}
    write_csv(folder / f"predictions_{options.split}.csv", pd.DataFrame(predictions))

    report = evaluation_report(scores, mos, options.split, loaded.calibration)
    report["controls"] = controls(rows, usable, loaded, device, options) if options.controls else None
    report |= {
        "checkpoint": options.checkpoint,
        "labels": str(table.source),
        "split_rule": table.split_rule,
        "bootstrap": f"paired percentile, {RESAMPLES} resamples, the mapping held fixed",
        "failures": failures,
        "images_per_s": result.tally.images_per_s,
        "data_wait": result.tally.data_wait,
        "environment": environment(),
    }
    path = folder / f"test_{options.split}.json"
    write_json(path, report)
    if options.json:
        write_json(options.json, report)
    say(summary(report, loaded))
    say(f"\nScored {len(rows)} images: {result.tally.words()}")
    say(f"Predictions: {folder / f'predictions_{options.split}.csv'}; measures: {path}")
    for failure in failures:
        print(f"failed: {failure['error']}", file=sys.stderr)
    return EXIT_FAILED_IMAGES if failures else 0


def take_data_options(options: argparse.Namespace, loaded: LoadedModel) -> None:
    """Fill data options that were not given from the run that trained the model, else from the defaults."""
    defaults = make_parser("")
    add_data_options(defaults)
    defaults = defaults.parse_args([])
    # A new folder or kind of data set brings its own label file.
    moved = options.database_dir is not None or options.database is not None
    for name in DATA_OPTIONS:
        if getattr(options, name) is None:
            trained_with = None if moved and name == "metadata" else loaded.options.get(name)
            setattr(options, name, getattr(defaults, name) if trained_with is None else trained_with)


def score(
    model: torch.nn.Module,
    rows: pd.DataFrame,
    loaded: LoadedModel,
    device: torch.device,
    options: argparse.Namespace,
    label: str = "scoring",
) -> Scores:
    """Score the rows of a label table with a model, cut as the checkpoint says."""
    photographs = PhotographDataset(rows["path"], loaded.view_spec)
    return score_photographs(
        model.to(device), photographs, device, options.batch_size, options.num_workers, progress=label
    )


def controls(
    rows: pd.DataFrame, usable: np.ndarray, loaded: LoadedModel, device: torch.device, options: argparse.Namespace
) -> dict[str, dict]:
    """Measure two scores that know nothing of quality: whatever they reach, a model has to beat.

    Both get the mapping fitted on the split's own labels, which favours them.
    """
    torch.manual_seed(0)
    untrained = build_model(
        loaded.options.get("model", type(loaded.model).__name__),
        backbone=loaded.options.get("backbone", "swin_t"),
        view_sizes=loaded.view_spec.view_sizes,
    )
    candidates = {
        "untrained": score(untrained, rows[usable], loaded, device, options, "untrained model").scores,
        "file_size": np.array([Path(path).stat().st_size for path in rows["path"][usable]], float),
    }
    mos = rows["mos"].to_numpy()[usable]
    measured = {}
    for name, scores in candidates.items():
        mapped = fit_calibration(scores, mos, options.split)(scores)
        intervals = bootstrap_intervals(scores, mapped, mos, RESAMPLES)
        measured[name] = mapped_metrics(scores, mapped, mos) | {"ci95": intervals}
    return measured


def summary(report: dict, loaded: LoadedModel) -> str:
    """Return the measures for people, with the data that each mapping was fitted on."""
    rows = {"raw": report["raw"], "val-fitted": report["val_fitted"], "test-fitted": report["test_fitted"]}
    for name, measures in (report["controls"] or {}).items():
        rows[f"control: {name.replace('_', ' ')}"] = measures
    lines = [
        f"{report['split']} split, {report['n']} images, {report['checkpoint']}; [95 % interval]",
        measures_table(rows),
        "SRCC and KRCC are of raw scores. PLCC, RMSE and MAE:",
        "  raw          of the scores as they are",
        f"  val-fitted   mapping {loaded.calibration.describe()}; the honest figure"
        if loaded.calibration
        else "  val-fitted   needs a mapping: the checkpoint has none; give one with --calibration FILE (UIQA.npy)",
        f"  test-fitted  mapping {report['test_fitted']['mapping']}; how published tables are made",
        f"Intervals: {report['bootstrap']}.",
    ]
    if report["controls"]:
        lines.append("The controls' mapping is fitted on the split's own labels, which favours them.")
    if not np.isfinite(report["raw"]["SRCC"]):
        lines.append("nan: correlations of constant values, or of fewer than two images, are undefined.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
