"""Score your own photographs.

python predict.py photo.jpg holiday/ 'scans/*.tif' --csv scores.csv
python predict.py --checkpoint ckpts/UIQA.pth photo.jpg
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch

from data.files import printable, utf8, write_json
from utils.batches import gather_batches
from utils.bulk.images import FoundImages, find_images
from utils.bulk.manifest import scoring_settings
from utils.bulk.ray_job import add_ray_options, check_ray_options, score_with_ray
from utils.bulk.score_table import ScoreTable
from utils.checkpoint import OWN_MODEL, load_model
from utils.command_line import (
    closed_pipes_ignored,
    entry_point,
    integer,
    make_parser,
    page_file,
    parse_options,
    result_file,
    table_file,
    usage_errors,
)
from utils.distributed import all_gather_objects, launched_processes, process_group, rank, select_device
from utils.environment import environment
from utils.errors import EXIT_FAILED_IMAGES, EXIT_UNUSABLE_INPUT, RunError
from utils.export.onnx_runtime import load_onnx
from utils.inference import score_batches
from utils.loaded_model import LoadedModel
from utils.memory import keep_freed_memory
from utils.options import add_compile, add_compute_options, add_fragment_draws, add_max_pixels, check_fragment_draws
from utils.precision import add_precision, check_precision, warn_if_slow
from utils.predictions import batch_predictions
from utils.progress import PRINTED_FAILURES, Tally, print_failures, progress_bar
from utils.reporting.folder_page import MAX_EMBEDDED, FolderReport
from utils.reporting.pictures import Drawings, plan_pictures
from utils.weights_file import WHERE_TO_GET_WEIGHTS

DRAWN_BATCH = 2  # photographs per batch, and decoding workers, while drawing: each photograph is kept until it is drawn


def predict_parser() -> argparse.ArgumentParser:
    """Return the parser of predict.py."""
    parser = make_parser(
        "Score photographs: any mix of files, folders (with their subfolders) and patterns. Higher is better. The exit "
        f"code is {EXIT_FAILED_IMAGES} if an image could not be scored; the others are still scored.",
        prog="predict.py",
        epilog=WHERE_TO_GET_WEIGHTS,
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image files, folders, or quoted patterns such as '*.jpg'"
    )
    network = parser.add_mutually_exclusive_group()
    network.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="one of ours, or a released state dict such as UIQA.pth (default: ckpts/lite.safetensors, the model that "
        "comes with the repository)",
    )
    network.add_argument(
        "--onnx",
        metavar="FILE",
        help="instead of a checkpoint, a network from export.py, run by onnxruntime; with --fragment_draws the whole "
        "network runs once per draw",
    )
    parser.add_argument(
        "--calibration", metavar="FILE", help="a released calibration (UIQA.npy) instead of the checkpoint's"
    )
    parser.add_argument(
        "--csv",
        type=table_file,
        metavar="FILE",
        help="table of image, score, quality, points, error; until it is complete, its rows are in FILE.partial, where "
        "they are written as they are scored",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on where an interrupted command with the same --csv stopped, or add to the CSV of a finished one: "
        "images that have a row are not scored again, nor are those that failed: delete their rows to retry them "
        "(--ray always resumes)",
    )
    parser.add_argument(
        "--json", type=result_file, metavar="FILE", help="the same as JSON, written at the end; - for standard output"
    )
    parser.add_argument("--views", metavar="DIR", help="draw the views of each photograph as DIR/<name>_views.png")
    parser.add_argument("--map", metavar="DIR", help="draw the quality map of each photograph as DIR/<name>_map.png")
    parser.add_argument(
        "--report",
        type=page_file,
        metavar="FILE.html",
        help="write a page to look through the photographs offline: sorted by quality, with search, views, maps and a "
        f"comparison of two; the pictures of more than {MAX_EMBEDDED} photographs are in FILE_files beside it",
    )
    add_fragment_draws(parser)
    parser.add_argument(
        "--batch_size",
        type=integer(1),
        default=8,
        metavar="N",
        help=f"images per forward pass; with --views or --map at most {DRAWN_BATCH}",
    )
    add_max_pixels(parser)
    add_precision(add_compute_options(parser))
    add_compile(parser)
    add_ray_options(parser)
    return parser


@entry_point
def main(args: list[str] | None = None) -> int:
    """Run predict.py with these arguments; return the exit code."""
    keep_freed_memory()
    parser = predict_parser()
    options = parse_options(parser, args)
    check_options(parser, options)
    found = find_images(options.images, lists=options.ray)
    if options.ray:
        return score_with_ray(parser, options, found)
    photographs = [image for image in found.images if image not in found.problems]
    pictures = plan_pictures(photographs, {"views": options.views, "map": options.map})
    with usage_errors(parser):
        # onnxruntime takes views from the CPU and moves them to --device itself.
        device = select_device("cpu" if options.onnx else options.device)
    report = FolderReport(options.report, len(photographs)) if options.report else None
    with process_group(device), report or nullcontext():
        loaded = load(parser, options, device)
        return predict(options, loaded, found, Drawings(pictures, report), device)


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Report options that contradict each other; without a network, take the one of the repository."""
    if options.checkpoint is None and options.onnx is None:
        options.checkpoint = os.path.relpath(OWN_MODEL)
    for name in ("checkpoint", "onnx", "calibration"):
        if getattr(options, name) == "":
            parser.error(f"--{name}: the name of the file is empty")
    if options.onnx and options.compile:
        raise RunError("--compile compiles a checkpoint's network; onnxruntime optimises an --onnx file by itself")
    if options.onnx and options.precision != "fp32":
        raise RunError(f"--precision {options.precision}: the precision of an --onnx file is fixed when it is exported")
    check_ray_options(parser, options)
    if options.report and options.resume:
        parser.error("--report shows photographs as they are scored, and --resume scores only some; leave out one")
    if options.resume and not options.ray and options.csv is None:
        parser.error("--resume goes on with the rows of --csv FILE; give the same one")
    if options.report and launched_processes() > 1:
        parser.error("--report is written by a single process; run it with python, not torchrun")


def load(parser: argparse.ArgumentParser, options: argparse.Namespace, device: torch.device) -> LoadedModel:
    """Load the checkpoint or ONNX file, and check that the options suit it."""
    with usage_errors(parser):
        if options.onnx:
            loaded = load_onnx(options.onnx, options.device, options.calibration)
        else:
            loaded = load_model(options.checkpoint, options.calibration)
            check_precision(options.precision, loaded.architecture["backbone"])
            warn_if_slow(options.precision, device)
        loaded = loaded.with_max_pixels(options.max_pixels)
        check_fragment_draws(options.fragment_draws, loaded.view_spec)
        if (options.views or options.map) and "patches" in loaded.view_spec.views:
            raise ValueError("--views and --map draw the views of UIQA and SwinT; this model reads patches")
    if options.compile:
        loaded.model.compile_trunks()
    return loaded


def predict(
    options: argparse.Namespace,
    loaded: LoadedModel,
    found: FoundImages,
    drawings: Drawings,
    device: torch.device,
) -> int:
    """Score and draw photographs and report the scores; return the exit code."""
    images = [image for image in found.images if image not in found.problems]
    tally = Tally()
    # Only rank 0 writes, and knows which images have a row already.
    with open_table(options, loaded) or nullcontext() as score_table:
        remaining = all_gather_objects(score_table.remaining(images) if score_table else None)[0]
        for rows in score_rows(options, loaded, remaining, drawings, device, tally):
            if score_table:
                score_table.add(rows)
        without_pictures = sum(all_gather_objects(drawings.unwritten.count))
        if score_table is None:
            return 0  # torchrun stops every process as soon as one fails, so only rank 0 reports failures
        problems = [(utf8(name), utf8(found.problems[name])) for name in score_table.remaining(list(found.problems))]
        if problems:
            score_table.add(pd.DataFrame(problems, columns=["image", "error"]))
        table_of_all = score_table.finish(found.images)  # a resumed one may hold images that were not named this time
        rows = table_of_all[table_of_all["image"].isin(set(map(utf8, found.images)))].to_dict("records")
    errors = [row["error"] for row in rows if isinstance(row["error"], str)]
    if options.json != "-":
        with closed_pipes_ignored():  # the other results are not lost
            print(table(rows))
        before = f" ({len(images) - len(remaining)} scored before)" if len(remaining) < len(images) else ""
        is_timed = remaining and not drawings.pictures and len(errors) < len(rows)
        speed = f": {tally.summary()}" if is_timed else ""  # drawing would count as scoring
        scored = f"{len(rows) - len(errors)} of {len(rows)} images scored"
        print(f"{scored} by {options.checkpoint or options.onnx}{before}{speed}", file=sys.stderr)
    calibration = loaded.calibration.describe() if loaded.calibration else "none: the checkpoint has no mapping"
    if loaded.calibration and loaded.calibration.parameters is None:
        print(f"warning: quality is the raw score: mapping {calibration}", file=sys.stderr)
    if options.json:
        with closed_pipes_ignored():
            content = {"checkpoint": options.checkpoint or options.onnx, "calibration": calibration, "images": rows}
            write_json(options.json, content)
    if drawings.report:
        details = {"model": options.checkpoint or options.onnx, "mapping to quality": calibration} | environment()
        drawings.report.write(rows, loaded.branch_means, details)
    if found.skipped:
        print(found.skipped_text(), file=sys.stderr)
    listed = options.csv or options.json
    print_failures(errors, f"all are in {listed}" if listed else "give --csv FILE to have all of them listed")
    if without_pictures > PRINTED_FAILURES:
        print(f"the pictures of {without_pictures} photographs could not be written", file=sys.stderr)
    return EXIT_FAILED_IMAGES if errors or without_pictures else 0


def open_table(options: argparse.Namespace, loaded: LoadedModel) -> ScoreTable | None:
    """Return the table of rows on rank 0, with those that --resume goes on with; None on the others.

    If it cannot be opened, the other ranks leave, too, without a word: rank 0 says why.
    """
    score_table = error = None
    if rank() == 0:
        try:
            settings = scoring_settings(options, loaded) if options.csv else {}
            score_table = ScoreTable(options.csv, settings, options.resume)
        except Exception as raised:
            error = raised
    if all_gather_objects(error is not None)[0]:
        raise error or SystemExit(EXIT_UNUSABLE_INPUT)
    return score_table


def score_rows(
    options: argparse.Namespace,
    loaded: LoadedModel,
    images: Sequence[str],
    drawings: Drawings,
    device: torch.device,
    tally: Tally,
) -> Iterator[pd.DataFrame]:
    """Score and draw photographs; yield the rows of each batch, on every rank those of all.

    Its six parameters are what `predict` has; `tally` counts the images.
    """
    draws, view_names, spec = options.fragment_draws, loaded.model.view_names, loaded.view_spec
    photographs = drawings.photographs(images, spec, draws)
    batch_size, workers = options.batch_size, options.num_workers
    if drawings.pictures:
        batch_size, workers = min(batch_size, DRAWN_BATCH), min(workers, DRAWN_BATCH)
    model, maps = loaded.model.to(device), drawings.need_maps(spec)
    batches = score_batches(model, photographs, device, batch_size, workers, maps=maps, precision=options.precision)
    # Drawn before the rows are written, so that an interruption between them loses no picture.
    batches = drawings.draw(batches, images, loaded, draws)
    with progress_bar(len(images), "scoring" if rank() == 0 else None) as bar:
        for batch in gather_batches(batches, photographs, batch_size):
            yield batch_predictions(batch, images, draws, view_names, loaded.calibration)
            count = len(batch.index) + len(batch.failures)
            tally.add(count, batch.waited)
            bar.update(count)
    tally.stop()


def table(rows: Sequence[dict]) -> str:
    """Return the scores as a table to read; a quality of "-" means that there is no mapping to the MOS scale."""
    columns = [name for name in ("score", "sampling_error", "quality") if name in rows[0]]
    heads = {"score": "score", "sampling_error": "+-", "quality": "quality"}
    lines = ["  ".join([*(f"{heads[name]:>8}" for name in columns), "image"])]
    for row in rows:
        numbers = [f"{row[name]:8.4f}" if np.isfinite(row[name]) else f"{'-':>8}" for name in columns]
        lines.append("  ".join([*numbers, printable(row["image"])]))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
