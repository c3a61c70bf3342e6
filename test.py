"""Score one split of a data set with a checkpoint and measure how well the scores agree with the opinions.

python test.py --checkpoint ckpts/demo/best.pth --report
python test.py --checkpoint ckpts/UIQA.pth --database_dir UHDIQA/challenge/training/
python test.py --compare logfiles/one/predictions_test.csv logfiles/other/predictions_test.csv
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from data.files import write_csv, write_json
from data.tables import ALL, SPLITS, LabelTable, data_fingerprint
from utils.checkpoint import load_model
from utils.command_line import (
    entry_point,
    make_folder,
    parse_options,
    usage_errors,
)
from utils.distributed import process_group, rank, select_device
from utils.environment import environment
from utils.errors import EXIT_FAILED_IMAGES
from utils.inference import score_photographs
from utils.loaded_model import LoadedModel
from utils.memory import keep_freed_memory
from utils.options import (
    check_fragment_draws,
    load_labels,
    several_sources_note,
    take_data_options,
)
from utils.precision import check_precision, warn_if_slow
from utils.progress import print_failures
from utils.reporting.comparison import compare, compare_sources, comparison_text
from utils.reporting.measures import (
    MAX_GROUPS,
    evaluation_report,
    few_groups_note,
    group_names,
    has_too_many_groups,
    resampling_groups,
    summary,
)
from utils.reporting.notes import count_training_images, orientation_notes, training_notes
from utils.reporting.options import test_parser
from utils.reporting.page import write_report
from utils.reporting.scoring import ScoredSplit, by_source, measure_controls, read_split, score_split

UNUSED_BY_COMPARE = ("checkpoint", "calibration", "predictions", "split", "group_by", "controls", "report")


@entry_point
def main(args: list[str] | None = None) -> int:
    """Score a split, measure the scores and report the measures; return the exit code.

    Under torchrun each rank scores its part of the split; rank 0 alone measures and writes.
    """
    keep_freed_memory()
    parser = test_parser()
    options = parse_options(parser, args)
    say = partial(print, file=sys.stderr if options.json == "-" else sys.stdout)
    if options.compare:
        unused = [name for name in UNUSED_BY_COMPARE if getattr(options, name)]
        if unused:
            parser.error(f"--compare reads two files of predictions and nothing else; leave out --{unused[0]}")
        return compare_files(*options.compare, options.source_column, options.resample_by, options.json, say)
    if not (options.checkpoint or options.predictions):
        parser.error("give a model with --checkpoint FILE (or scores with --predictions CSV, or --compare A.csv B.csv)")
    if options.controls and options.predictions:
        parser.error("--controls scores photographs; leave out --predictions")
    if options.calibration and options.predictions:
        parser.error("--calibration: the qualities of --predictions stay as they are; score again to map them anew")
    options.split = options.split or split_of(options.predictions)
    with usage_errors(parser):
        device = select_device(options.device)
    with process_group(device):
        loaded, labels, folder = set_up(parser, options, device, say)
        columns = [name for name in (options.group_by, options.resample_by, options.source_column) if name]
        score = partial(
            score_photographs,
            device=device,
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            precision=options.precision,
        )
        if options.predictions:
            scored = read_split(options.predictions, labels, options.split, columns)
        else:
            rows = labels.split(options.split)
            scored = score_split(loaded, rows, options.fragment_draws, columns, score, options.source_column)
        if rank() > 0:
            return 0  # even after failures: torchrun stops all ranks at the first error, and rank 0 has yet to write
        if not options.predictions:
            write_csv(folder / f"predictions_{options.split}.csv", scored.table)

        reports = {}
        for source, part in by_source(scored, options.source_column).items():
            report = reports[source] = measure_split(part, loaded, labels, options, score, source)
            say(summary(report))
            if options.report:
                on_its_scale = loaded and loaded.for_source(source)
                say(f"Report: {write_report(report, part, on_its_scale, score, vars(options), folder)}")
        write_measures(reports, scored, options.split, folder, options.json, say)
    print_failures(
        [failure["error"] for failure in scored.failures], f"all are in {folder / f'test_{options.split}.json'}"
    )
    return EXIT_FAILED_IMAGES if scored.failures else 0


def set_up(
    parser: argparse.ArgumentParser, options: argparse.Namespace, device: torch.device, say: Callable
) -> tuple[LoadedModel | None, LabelTable | None, Path]:
    """Return the model on the device, the label table and the folder for results.

    The model is None without a checkpoint. The label table is None if predictions are read and no data set is known.
    """
    with usage_errors(parser):
        loaded = load_model(options.checkpoint, options.calibration) if options.checkpoint else None
        if loaded:
            check_fragment_draws(options.fragment_draws, loaded.view_spec)
            check_precision(options.precision, loaded.architecture["backbone"])
            warn_if_slow(options.precision, device)
            loaded = loaded.with_max_pixels(options.max_pixels)
            loaded.model.to(device)
    if loaded and loaded.sources and options.source_column and options.calibration:
        parser.error("--calibration: with --source_column each data set has its own mapping, from the checkpoint")
    if loaded and options.compile:
        loaded.model.compile_trunks()
    take_data_options(options, loaded.options if loaded else {})
    if options.predictions and options.lower_is_better and not (options.database_dir or options.metadata):
        parser.error(
            "--lower_is_better says how to read a label file; predictions of test.py hold negated DMOS already"
        )
    has_labels = options.database_dir or options.metadata or not options.predictions
    labels = load_labels(options, splits=(options.split,)) if has_labels else None
    for note in labels.notes if labels and rank() == 0 else ():
        say(f"Note: {note}")
    if not options.predictions:  # an unusable column fails here, before scoring
        rows = labels.split(options.split)
        for source, part in rows.groupby(options.source_column) if options.source_column else [(None, rows)]:
            if options.group_by and (source is None or not has_too_many_groups(part, options.group_by)):
                group_names(part, options.group_by)
            resampling_groups(part, options.resample_by)
    name = options.run or results_name(loaded, options.checkpoint, options.predictions, options.logdir)
    return loaded, labels, make_folder(Path(options.logdir) / name)


def split_of(predictions: str | None) -> str:
    """Return the split that a file of predictions is named after, else test."""
    name = Path(predictions or "").stem.removeprefix("predictions_")
    return name if name in (*SPLITS, ALL) else "test"


def results_name(loaded: LoadedModel | None, checkpoint: str | None, predictions: str | None, logdir: str) -> str:
    """Return the run that results belong to: the checkpoint's, or the one whose folder holds the predictions."""
    if loaded:
        return loaded.options.get("run") or Path(checkpoint).stem
    path = Path(predictions).resolve()
    return path.parent.name if path.parent.parent == Path(logdir).resolve() else path.stem


def compare_files(
    first: str, second: str, source_column: str | None, resample_by: str | None, json_path: str | None, say: Callable
) -> int:
    """Compare two files of predictions, those of each data set by themselves; return the exit code."""
    if source_column:
        sources = compare_sources(first, second, source_column, resample_by)
        measured = {"sources": sources}
    else:
        measured = compare(first, second, resample_by=resample_by)
        sources = {"": measured}
    for source, result in sources.items():
        say(f"{source}{': ' if source else ''}{comparison_text(result, first, second)}")
        warn(result["notes"])
    if json_path:
        write_json(json_path, {"first": first, "second": second} | measured)
    return 0


def measure_split(
    scored: ScoredSplit,
    loaded: LoadedModel | None,
    labels: LabelTable | None,
    options: argparse.Namespace,
    score: Callable,
    source: str | None = None,
) -> dict:
    """Return the measures of a scored split, or of its part from one data set, with what they depend on."""
    calibration = loaded and loaded.calibration
    if loaded and loaded.sources and source in loaded.sources:
        calibration = loaded.sources[source].calibration
    mapping = calibration.describe() if calibration else f"as in {options.predictions}"
    trained, count, notes, group_by = loaded.options if loaded else {}, None, [], options.group_by
    if source is not None and group_by and has_too_many_groups(scored.table, group_by):
        notes.append(f"--group_by {group_by}: more than {MAX_GROUPS} groups; nothing was measured within them")
        group_by = None
    report = evaluation_report(scored.table, options.split, mapping, group_by, options.resample_by)
    report["controls"] = None
    if options.controls:
        report["controls"] = measure_controls(scored, loaded, options.fragment_draws, score, options.resample_by)
    rows = labels.split(options.split) if labels else scored.table
    rows = rows[rows["image"].isin(scored.table["image"])]
    if loaded and labels:
        if options.split != "train":
            count = count_training_images(rows, trained, loaded.fingerprint)
        notes += training_notes(labels, len(rows), options.split, count, trained, options.database)
    if loaded and loaded.sources and source is None and options.split != "train":
        notes.append(
            f"the checkpoint was trained on {', '.join(loaded.sources)}; all scores are on the scale of "
            f"{loaded.options['score_scale']}: if the label file has images of several data sets, give --source_column"
        )
    elif source is None:
        notes += several_sources_note(rows)
    notes += few_groups_note(resampling_groups(scored.table, options.resample_by), options.resample_by)
    if labels and options.database == "csv":
        notes += orientation_notes(report, options.lower_is_better, trained)
    if source is not None:
        notes = [f"{source}: {note}" for note in notes]
    warn(notes)
    return report | {
        "source": source,
        "is_training_known": not loaded or bool(trained),
        "database": options.database,
        "training_images": count,
        "notes": [*(labels.notes if labels else ()), *notes],
        "checkpoint": options.checkpoint,
        "predictions": options.predictions,
        "labels": os.path.relpath(labels.source) if labels else None,
        "split_rule": labels.split_rule if labels else None,
        "fingerprint": data_fingerprint(scored.table),
        "fragment_draws": options.fragment_draws,
        "precision": options.precision if scored.tally else None,
        "failures": scored.failures,
        "images_per_s": scored.tally.images_per_s if scored.tally else None,
        "data_wait": scored.tally.data_wait if scored.tally else None,
        "environment": environment(),
    }


def warn(notes: Sequence[str]) -> None:
    """Print warnings on standard error."""
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)


def write_measures(
    reports: dict, scored: ScoredSplit, split: str, folder: Path, json_path: str | None, say: Callable
) -> None:
    """Write the measures to the run's folder, if the split has just been scored, and to the file asked for.

    Those of several data sets are in one file, under `sources` by name.
    """
    content = reports.get(None, {"sources": reports, "failures": scored.failures})
    if scored.tally:
        path = folder / f"test_{split}.json"
        write_json(path, content)
        say(f"\nScored {len(scored.table) + len(scored.failures)} images: {scored.tally.summary()}")
        say(f"Predictions: {folder / f'predictions_{split}.csv'}; measures: {path}")
    if json_path:
        write_json(json_path, content)


if __name__ == "__main__":
    sys.exit(main())
