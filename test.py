"""Score one split of a data set with a checkpoint and report how well the scores agree with the opinions.

python test.py --checkpoint ckpts/demo/best.pth --report
python test.py --checkpoint ckpts/UIQA.pth --database_dir UHDIQA/challenge/training/
python test.py --compare logfiles/one/predictions_test.csv logfiles/other/predictions_test.csv
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from data.datasets import PhotographDataset
from data.decode import DEFAULT_MAX_PIXELS
from data.files import write_csv, write_json
from data.tables import SPLITS, LabelTable, data_fingerprint
from models import build_model
from utils.calibration import fit_calibration
from utils.checkpoint import load_model
from utils.command_line import (
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
from utils.distributed import processes, rank, select_device
from utils.environment import environment
from utils.errors import EXIT_FAILED_IMAGES, RunError
from utils.inference import Scores, score_photographs
from utils.loaded_model import LoadedModel
from utils.options import (
    DATA_OPTIONS,
    add_compile,
    add_compute_options,
    add_data_options,
    add_fragment_draws,
    add_max_pixels,
    check_fragment_draws,
    table_of,
    take_data_options,
)
from utils.predictions import predictions_table, read_predictions
from utils.progress import Tally
from utils.reporting.comparison import compare, comparison_text
from utils.reporting.figures import draw_scatter
from utils.reporting.gallery import choose, make_gallery, thumbnails
from utils.reporting.measures import (
    RESAMPLES,
    evaluation_report,
    group_names,
    group_report,
    measured,
    measures_table,
    protocol_words,
)
from utils.reporting.page import write_html_report

NO_MAPPING = "needs a mapping: the checkpoint has none; give one with --calibration FILE (UIQA.npy)"


def test_parser() -> argparse.ArgumentParser:
    """Return the parser of test.py."""
    parser = make_parser(
        "Score one split with a checkpoint: SRCC, KRCC, PLCC, RMSE and MAE with 95 % intervals. The preprocessing, and "
        "every data option that is not given, come from the checkpoint.",
        prog="test.py",
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="one of ours, or a released state dict such as UIQA.pth")
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="a released calibration (UIQA.npy) in place of the checkpoint's; a .npy beside a state dict is found",
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="the split to score")
    parser.add_argument("--batch_size", type=whole_number(1), default=8, metavar="N", help="images a forward pass")
    add_fragment_draws(parser)
    add_flag(parser, "--controls", "also measure an untrained model and the file size as the score")
    parser.add_argument(
        "--group_by", metavar="COLUMN", help="also measure within each group: a column of the label file (subset, say)"
    )
    add_flag(
        parser,
        "--report",
        "write DIR/<run>/report_<split>.html, a page that opens offline, and the scatter plot as PDF and PNG",
    )
    parser.add_argument(
        "--predictions",
        metavar="CSV",
        help="measure and report the scores of this file, written earlier, instead of scoring; with --checkpoint the "
        "report's gallery has views and maps, with it or --database_dir it has pictures",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A.csv", "B.csv"),
        help="do nothing but tell the difference of two prediction files for the same images from noise",
    )
    parser.add_argument(
        "--run",
        type=plain_name,
        metavar="NAME",
        help="name of the results (default: of the run that trained the model, or in whose folder the predictions are)",
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
    if options.compare:
        return compare_files(options, say)
    if not (options.checkpoint or options.predictions):
        parser.error("give a model with --checkpoint FILE (or scores with --predictions CSV, or --compare A.csv B.csv)")
    if options.controls and options.predictions:
        parser.error("--controls scores photographs; leave out --predictions")
    with usage_errors(parser):
        device = select_device(options.device)
    with processes(device):
        return evaluate(parser, options, device, say)


def evaluate(parser: argparse.ArgumentParser, options: argparse.Namespace, device: torch.device, say: Callable) -> int:
    """Score a split, or take its scores from a file, and report; return the exit code.

    Of several processes each scores its part; the first one alone measures and writes.
    """
    with usage_errors(parser):
        loaded = load_model(options.checkpoint, options.calibration) if options.checkpoint else None
        if loaded:
            check_fragment_draws(options.fragment_draws, loaded.view_spec)
            loaded = loaded.with_max_pixels(options.max_pixels)
            loaded.model.to(device)
    if loaded and options.compile:
        loaded.model.compile_trunks()
    take_data_options(options, loaded.options if loaded else {})
    labels = table_of(options, splits=(options.split,)) if options.database_dir or not options.predictions else None
    for note in labels.notes if labels and rank() == 0 else ():
        say(f"Note: {note}")

    if labels and options.group_by and not options.predictions:
        group_names(labels.split(options.split), options.group_by)  # a misspelt column is told before hours of scoring

    folder = make_folder(Path(options.logdir) / name_of_results(options, loaded))
    if options.predictions:
        table, tally, failures = with_labels(read_predictions(options.predictions), labels, options), None, []
    else:
        table, tally, failures = scored(loaded, labels, device, options, folder)
    if rank() > 0:
        return 0  # torchrun stops all processes at the first that fails; the one that writes tells of failures

    mapped = bool(np.isfinite(table["quality"]).all())
    calibration = loaded.calibration if loaded else None
    mapping = calibration.describe() if calibration else f"as in {options.predictions}"
    scores, mos = table["score"].to_numpy(), table["mos"].to_numpy()
    report = evaluation_report(scores, mos, options.split, table["quality"].to_numpy() if mapped else None, mapping)
    report["groups"] = group_report(table.drop(columns="path"), options.group_by) if options.group_by else None
    report["controls"] = controls(table, loaded, device, options) if options.controls else None
    report |= {
        "checkpoint": options.checkpoint,
        "predictions": options.predictions,
        "labels": os.path.relpath(labels.source) if labels else None,
        "split_rule": labels.split_rule if labels else None,
        "fingerprint": data_fingerprint(table),
        "bootstrap": f"paired percentile, {RESAMPLES} resamples, the mapping held fixed",
        "fragment_draws": options.fragment_draws,
        "failures": failures,
        "images_per_s": tally.images_per_s if tally else None,
        "data_wait": tally.data_wait if tally else None,
        "environment": environment(),
    }
    say(summary(report))
    if tally:
        path = folder / f"test_{options.split}.json"
        write_json(path, report)
        say(f"\nScored {len(table) + len(failures)} images: {tally.words()}")
        say(f"Predictions: {folder / f'predictions_{options.split}.csv'}; measures: {path}")
    if options.json:
        write_json(options.json, report)
    if options.report:
        say(f"Report: {write_report(report, table, loaded, device, options, folder)}")
    for failure in failures:
        print(f"failed: {failure['error']}", file=sys.stderr)
    return EXIT_FAILED_IMAGES if failures else 0


def name_of_results(options: argparse.Namespace, loaded: LoadedModel | None) -> str:
    """Return the run that the results belong to: as told, the checkpoint's, or the one that holds the predictions."""
    if options.run or (loaded and loaded.options.get("run")):
        return options.run or loaded.options["run"]
    if loaded:
        return Path(options.checkpoint).stem
    predictions = Path(options.predictions).resolve()
    of_a_run = predictions.parent.parent == Path(options.logdir).resolve()
    return predictions.parent.name if of_a_run else predictions.stem


def compare_files(options: argparse.Namespace, say: Callable) -> int:
    """Compare two files of predictions; return the exit code."""
    result = compare(*options.compare)
    say(comparison_text(result, *options.compare))
    if options.json:
        write_json(options.json, {"first": options.compare[0], "second": options.compare[1]} | result)
    return 0


def scored(
    loaded: LoadedModel, labels: LabelTable, device: torch.device, options: argparse.Namespace, folder: Path
) -> tuple[pd.DataFrame, Tally, list[dict]]:
    """Score the split, and write the predictions before anything is computed from them.

    Returns:
        A row for each photograph that could be scored: image, mos, score, quality, points of each view, the column to
        group by, path; the speed; and the failures.
    """
    rows = labels.split(options.split).reset_index(drop=True)
    result = score(loaded.model, rows["path"], loaded, device, options)
    failures = [{"image": rows["image"][index], "error": message} for index, message in result.failures]
    table = rows[["image", "mos"]].join(predictions_table(result, loaded.calibration))
    table = with_labels(table, labels, options)[np.isfinite(result.scores)]
    if table.empty:
        raise RunError(f"none of the {len(rows)} images could be scored; the first: {failures[0]['error']}")
    if rank() == 0:
        write_csv(folder / f"predictions_{options.split}.csv", table.drop(columns="path"))
    return table, result.tally, failures


def with_labels(table: pd.DataFrame, labels: LabelTable | None, options: argparse.Namespace) -> pd.DataFrame:
    """Add to predictions the photographs' paths (None where unknown), and the column to group by.

    Raises:
        RunError: no photograph of the predictions is in the label file's split.
    """
    rows = labels.split(options.split).set_index("image") if labels else pd.DataFrame({"path": []}, dtype=object)
    if labels and not table["image"].isin(rows.index).any():
        raise RunError(f"{options.predictions}: none of its images is in the {options.split} split of {labels.source}")
    known = rows.reindex(table["image"])
    if options.group_by and options.group_by not in table and options.group_by in known:
        table = table.assign(**{options.group_by: known[options.group_by].to_numpy()})
    paths = [path if isinstance(path, str) else None for path in known["path"]]
    return table.assign(path=pd.Series(paths, index=table.index, dtype=object))


def score(
    model: torch.nn.Module,
    paths: pd.Series,
    loaded: LoadedModel,
    device: torch.device,
    options: argparse.Namespace,
    label: str = "scoring",
    together: bool = True,
) -> Scores:
    """Score photographs with a model, cut as the checkpoint says."""
    photographs = PhotographDataset(paths, loaded.view_spec, draws=options.fragment_draws)
    return score_photographs(
        model.to(device), photographs, device, options.batch_size, options.num_workers, label, distributed=together
    )


def controls(
    table: pd.DataFrame, loaded: LoadedModel, device: torch.device, options: argparse.Namespace
) -> dict[str, dict]:
    """Measure two scores that know nothing of quality: whatever they reach, a model has to beat.

    Both get the mapping fitted on the split's own labels, which favours them.
    """
    torch.manual_seed(0)
    untrained = build_model(**loaded.architecture, view_sizes=loaded.view_spec.view_sizes)
    candidates = {
        "untrained": score(untrained, table["path"], loaded, device, options, "untrained model", False).scores,
        "file_size": np.array([Path(path).stat().st_size for path in table["path"]], float),
    }
    mos = table["mos"].to_numpy()
    return {
        name: measured(scores, fit_calibration(scores, mos, options.split)(scores), mos)
        for name, scores in candidates.items()
    }


def write_report(
    report: dict,
    table: pd.DataFrame,
    loaded: LoadedModel | None,
    device: torch.device,
    options: argparse.Namespace,
    folder: Path,
) -> Path:
    """Write the page and the figures of an evaluation; return the page's path."""
    table = table.reset_index(drop=True)
    sections = choose(table)
    chosen = [row for rows in sections.values() for row in rows if table["path"][row] is not None]
    gallery = None
    if loaded and chosen and "patches" not in loaded.view_spec.views:  # hundreds of them are no picture to look at
        gallery = make_gallery(
            chosen, table["path"], loaded, device, options.batch_size, options.num_workers, options.fragment_draws
        )
    mapped = table["quality"].notna().all()
    shown = table.assign(error=table["quality"] - table["mos"]) if mapped else table
    if options.group_by:
        shown = shown.rename(columns={options.group_by: "group"})
    limit = loaded.view_spec.max_pixels if loaded else options.max_pixels or DEFAULT_MAX_PIXELS
    small = thumbnails(table["path"].tolist(), limit)
    facts = {
        **report["environment"],
        "options": ", ".join(f"{name}={value}" for name, value in vars(options).items() if value is not None),
        "data": f"{report['n']} images; fingerprint of names and opinions {report['fingerprint']}",
    }
    page = folder / f"report_{options.split}.html"
    write_html_report(page, report, shown, small, sections, gallery, facts)
    figures = [folder / f"scatter_{options.split}.{ending}" for ending in ("pdf", "png")]
    draw_scatter(table, report["val_fitted"]["mapping"] if mapped else "", figures)
    return page


def summary(report: dict) -> str:
    """Return the measures for people, with the data that each mapping was fitted on."""
    rows = {"raw": report["raw"], "val-fitted": report["val_fitted"], "test-fitted": report["test_fitted"]}
    for name, found in (report["controls"] or {}).items():
        rows[f"control: {name.replace('_', ' ')}"] = found
    source, words = report["predictions"] or report["checkpoint"], protocol_words(report)
    lines = [
        f"{report['split']} split, {report['n']} images, {source}; [95 % interval]",
        measures_table(rows),
        "SRCC and KRCC are of raw scores. PLCC, RMSE and MAE:",
        f"  raw          {words['raw']}",
        f"  val-fitted   {words.get('val_fitted', NO_MAPPING)}",
        f"  test-fitted  {words['test_fitted']}",
        f"Intervals: {report['bootstrap']}.",
    ]
    if report["controls"]:
        lines.append("The controls' mapping is fitted on the split's own labels, which favours them.")
    correlations = [report["raw"]["SRCC"]]
    if report["groups"]:
        groups = report["groups"]
        named = {f"{name} ({found['n']})": found for name, found in groups["measures"].items()}
        lines += ["", f"Within each {groups['column']} (images); {groups['protocol']}", measures_table(named)]
        correlations += [found["SRCC"] for found in named.values()]
    if not np.isfinite(correlations).all():
        lines.append("nan: correlations of constant values, or of fewer than two images, are undefined.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
