"""Score your own photographs.

python predict.py --checkpoint ckpts/demo/best.pth photo.jpg holiday/ 'scans/*.tif' --csv scores.csv
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from data.datasets import PhotographDataset
from data.files import one_line, write_csv, write_json
from utils.bulk.images import find_images
from utils.bulk.ray_job import add_ray_options, check_ray_options, score_with_ray
from utils.calibration import Calibration
from utils.checkpoint import load_model
from utils.command_line import (
    entry_point,
    integer,
    make_folder,
    make_parser,
    parse_options,
    result_file,
    table_file,
    usage_errors,
)
from utils.distributed import process_group, rank, select_device
from utils.errors import EXIT_FAILED_IMAGES, RunError
from utils.export.onnx_runtime import load_onnx
from utils.inference import ScoredBatch, collect_scores, score_batches
from utils.loaded_model import LoadedModel
from utils.options import add_compile, add_compute_options, add_fragment_draws, add_max_pixels, check_fragment_draws
from utils.predictions import predictions_table
from utils.reporting.figures import draw_quality_map, draw_views
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
    network.add_argument("--checkpoint", metavar="FILE", help="one of ours, or a released state dict such as UIQA.pth")
    network.add_argument(
        "--onnx",
        metavar="FILE",
        help="instead of a checkpoint, a network from export.py, run by onnxruntime; with --fragment_draws the whole "
        "network runs once per draw",
    )
    parser.add_argument(
        "--calibration", metavar="FILE", help="a released calibration (UIQA.npy) instead of the checkpoint's"
    )
    parser.add_argument("--csv", type=table_file, metavar="FILE", help="table of image, score, quality, points, error")
    parser.add_argument("--json", type=result_file, metavar="FILE", help="the same as JSON; - for standard output")
    parser.add_argument("--views", metavar="DIR", help="draw the views of each photograph as DIR/<name>_views.png")
    parser.add_argument("--map", metavar="DIR", help="draw the quality map of each photograph as DIR/<name>_map.png")
    add_fragment_draws(parser)
    parser.add_argument(
        "--batch_size",
        type=integer(1),
        default=8,
        metavar="N",
        help=f"images per forward pass; with --views or --map at most {DRAWN_BATCH}",
    )
    add_max_pixels(parser)
    add_compute_options(parser)
    add_compile(parser)
    add_ray_options(parser)
    return parser


@entry_point
def main(args: list[str] | None = None) -> int:
    """Run predict.py with these arguments; return the exit code."""
    parser = predict_parser()
    options = parse_options(parser, args)
    if options.checkpoint is None and options.onnx is None:
        raise RunError(f"no model: give one with --checkpoint FILE or --onnx FILE. {WHERE_TO_GET_WEIGHTS}")
    if options.onnx and options.compile:
        raise RunError("--compile compiles a checkpoint's network; onnxruntime optimises an --onnx file by itself")
    check_ray_options(parser, options)
    images = find_images(options.images, lists=options.ray)
    if options.ray:
        return score_with_ray(parser, options, images)
    paths = list(dict.fromkeys(images))
    pictures = plan_pictures(paths, {"views": options.views, "map": options.map})
    with usage_errors(parser):
        # onnxruntime takes views from the CPU and moves them to --device itself.
        device = select_device("cpu" if options.onnx else options.device)
    with process_group(device):
        loaded = load(parser, options)
        return predict(options, loaded, paths, pictures, device)


def load(parser: argparse.ArgumentParser, options: argparse.Namespace) -> LoadedModel:
    """Load the checkpoint or ONNX file, and check that the options suit it."""
    with usage_errors(parser):
        if options.onnx:
            loaded = load_onnx(options.onnx, options.device, options.calibration)
        else:
            loaded = load_model(options.checkpoint, options.calibration)
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
    paths: Sequence[str],
    pictures: dict[str, list[Path]],
    device: torch.device,
) -> int:
    """Score and draw photographs and report the scores; return the exit code."""
    draws = options.fragment_draws
    photographs = PhotographDataset(paths, loaded.view_spec, draws=draws, keep_image=bool(pictures))
    limits = options.batch_size, options.num_workers
    if pictures:
        limits = tuple(min(limit, DRAWN_BATCH) for limit in limits)
    batches = score_batches(loaded.model.to(device), photographs, device, *limits, maps=bool(options.map))
    unwritten: list[str] = []
    if pictures:
        batches = draw_pictures(batches, paths, pictures, loaded, draws, unwritten)
    scores = collect_scores(batches, photographs, loaded.model.view_names, progress="scoring")
    if rank() > 0:
        return 0  # torchrun stops every process as soon as one fails, so only rank 0, which writes, reports failures
    errors = dict(scores.failures)
    rows = pd.DataFrame({"image": paths}).join(predictions_table(scores, loaded.calibration))
    rows["error"] = [errors.get(index) for index in range(len(paths))]
    rows = rows.to_dict("records")
    if options.csv:
        write_csv(options.csv, rows)
    if options.json:
        calibration = loaded.calibration.describe() if loaded.calibration else "none: the checkpoint has no mapping"
        write_json(
            options.json, {"checkpoint": options.checkpoint or options.onnx, "calibration": calibration, "images": rows}
        )
    if options.json != "-":
        print(table(rows))
        speed = "" if pictures else f": {scores.tally.summary()}"  # drawing would count as scoring
        print(f"{len(paths)} images{speed}", file=sys.stderr)
    for message in errors.values():
        print(f"failed: {message}", file=sys.stderr)
    return EXIT_FAILED_IMAGES if errors or unwritten else 0


def plan_pictures(paths: Sequence[str], folders: dict[str, str | None]) -> dict[str, list[Path]]:
    """Return the path of each photograph's pictures, <stem>_<kind>.png, for every kind with a folder; make the folders.

    Photographs with the same stem are numbered.

    Raises:
        RunError: a folder cannot be made, or a picture would overwrite one of the photographs.
    """
    stems: dict[str, None] = {}
    for path in paths:
        stem, number = Path(path).stem, 1
        while stem in stems:
            number += 1
            stem = f"{Path(path).stem}_{number}"
        stems[stem] = None
    pictures = {
        kind: [make_folder(folder) / f"{stem}_{kind}.png" for stem in stems]
        for kind, folder in folders.items()
        if folder is not None
    }
    photographs = {Path(path).resolve() for path in paths}
    for picture in chain(*pictures.values()):
        if picture.resolve() in photographs:
            raise RunError(f"{picture}: a picture would overwrite this photograph; choose another folder")
    return pictures


def draw_pictures(
    batches: Iterable[ScoredBatch],
    paths: Sequence[str],
    pictures: dict[str, list[Path]],
    loaded: LoadedModel,
    draws: int,
    unwritten: list[str],
) -> Iterator[ScoredBatch]:
    """Draw the pictures of the scored photographs of each batch, then pass the batch on.

    A picture that cannot be written is reported, and the scores are not lost.
    """
    for batch in batches:
        for row in np.flatnonzero(np.isfinite(batch.outputs.get("score", []))):
            index = batch.index[row]
            try:
                draw_photograph(
                    batch,
                    row,
                    Path(paths[index]).name,
                    {kind: pictures[kind][index] for kind in pictures},
                    loaded,
                    draws,
                )
            except OSError as error:
                print(f"failed: {paths[index]}: its picture cannot be written: {one_line(error)}", file=sys.stderr)
                unwritten.append(paths[index])
        yield batch


def draw_photograph(
    batch: ScoredBatch, row: int, name: str, pictures: dict[str, Path], loaded: LoadedModel, draws: int
) -> None:
    """Draw the pictures of one photograph of a batch.

    Args:
        batch, row: the batch, and the photograph's row in it.
        name: for the title.
        pictures: path of each kind of picture.
        loaded: the model that scored it.
        draws: of the fragments; the first one's mosaic is drawn.

    Raises:
        OSError: a picture cannot be written.
    """
    spec, image = loaded.view_spec, batch.images[row]
    outputs = {name: values[row] for name, values in batch.outputs.items()}
    views = {name: batch.views[name][row] for name in spec.views}
    if draws > 1:
        views["distortion"] = views["distortion"][0]
    if "views" in pictures:
        draw_views(image, views, spec, pictures["views"])
    if "map" in pictures:
        maps = {name: outputs[f"map_{name}"] for name in loaded.model.view_names}
        title = f"{name}: {score_text(outputs['score'], outputs['draw_sd'], draws, loaded.calibration)}"
        draw_quality_map(image, views, spec, maps, loaded.branch_means, title, pictures["map"])


def score_text(score: float, draw_sd: float, draws: int, calibration: Calibration | None) -> str:
    """Return a photograph's score as text for the title of its map."""
    text = f"score {score:.3f}"
    if draws > 1:
        text += f" \u00b1 {draw_sd / np.sqrt(draws):.3f} ({draws} draws)"
    return text + (f", quality {calibration(score):.3f}" if calibration else "")


def table(rows: Sequence[dict]) -> str:
    """Return the scores as a table to read; a quality of "-" means that there is no mapping to the MOS scale."""
    columns = [name for name in ("score", "sampling_error", "quality") if name in rows[0]]
    heads = {"score": "score", "sampling_error": "+-", "quality": "quality"}
    lines = ["  ".join([*(f"{heads[name]:>8}" for name in columns), "image"])]
    for row in rows:
        numbers = [f"{row[name]:8.4f}" if np.isfinite(row[name]) else f"{'-':>8}" for name in columns]
        lines.append("  ".join([*numbers, row["image"]]))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
