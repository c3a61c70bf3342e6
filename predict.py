"""Score photographs of your own.

python predict.py --checkpoint ckpts/demo/best.pth photo.jpg holiday/ 'scans/*.tif' --csv scores.csv
"""

import argparse
import glob
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from data.datasets import PhotographDataset
from data.decode import EXTENSIONS, decode_rgb
from data.files import natural_order, write_csv, write_json
from data.views import ViewSpec
from utils.bulk.ray_job import add_ray_options, score_with_ray, wants_ray
from utils.checkpoint import load_model
from utils.command_line import (
    entry_point,
    make_folder,
    make_parser,
    output_file,
    parse_options,
    table_file,
    usage_errors,
    whole_number,
)
from utils.distributed import processes, rank, select_device
from utils.errors import EXIT_FAILED_IMAGES, RunError
from utils.export.onnx_runtime import load_onnx
from utils.inference import Scores, score_photographs
from utils.options import (
    add_compile,
    add_compute_options,
    add_fragment_draws,
    add_max_pixels,
    check_fragment_draws,
)
from utils.predictions import predictions_table
from utils.progress import progress_bar
from utils.reporting.figures import draw_quality_map, draw_views
from utils.weights_file import WHERE_TO_GET_WEIGHTS


def predict_parser() -> argparse.ArgumentParser:
    """Return the parser of predict.py."""
    parser = make_parser(
        "Score photographs: files, folders (with what is below them) and patterns, in any mix. Higher is better. Exit "
        f"code {EXIT_FAILED_IMAGES} if an image could not be scored; the others are.",
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
        help="a network that export.py wrote, which onnxruntime runs, in place of a checkpoint; with --fragment_draws "
        "all of it runs for every draw",
    )
    parser.add_argument(
        "--calibration", metavar="FILE", help="a released calibration (UIQA.npy) in place of the checkpoint's"
    )
    parser.add_argument(
        "--csv",
        type=table_file,
        metavar="FILE",
        help="write the scores here: image, score, quality, points of each view, error",
    )
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write the scores here; - for standard output, alone on it"
    )
    parser.add_argument(
        "--views", metavar="DIR", help="draw what the network sees of each photograph, as DIR/<name>_views.png"
    )
    parser.add_argument(
        "--map",
        metavar="DIR",
        help="draw where each photograph gains and loses quality, the quality map, as DIR/<name>_map.png",
    )
    add_fragment_draws(parser)
    parser.add_argument("--batch_size", type=whole_number(1), default=8, metavar="N", help="images a forward pass")
    add_max_pixels(parser)
    add_compute_options(parser)
    add_compile(parser)
    add_ray_options(parser)
    return parser


@entry_point
def main(args: list[str] | None = None) -> int:
    """Score as the command line says; return the exit code."""
    parser = predict_parser()
    options = parse_options(parser, args)
    if options.checkpoint is None and options.onnx is None:
        raise RunError(f"which model? Give one with --checkpoint FILE or --onnx FILE. {WHERE_TO_GET_WEIGHTS}")
    if options.onnx and options.compile:
        raise RunError(
            "--compile: torch compiles a checkpoint's network; onnxruntime optimises an --onnx file by itself"
        )
    if wants_ray(parser, options):
        return score_with_ray(parser, options, find_images)
    paths = list(dict.fromkeys(find_images(options.images)))
    pictures = planned_pictures(paths, {"views": options.views, "map": options.map})
    with usage_errors(parser):
        # onnxruntime takes the views from the CPU, and brings them to --device itself.
        device = select_device("cpu" if options.onnx else options.device)
    with processes(device):
        return predict(parser, options, paths, pictures, device)


def predict(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    paths: Sequence[str],
    pictures: dict[str, list[Path]],
    device: torch.device,
) -> int:
    """Score photographs and draw what was asked for; return the exit code. Of several processes the first writes."""
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
    spec = loaded.view_spec

    result = score_photographs(
        loaded.model.to(device),
        PhotographDataset(paths, spec, draws=options.fragment_draws),
        device,
        options.batch_size,
        options.num_workers,
        progress="scoring",
        maps=bool(options.map),
    )
    errors = dict(result.failures)
    if rank() > 0:
        return 0  # torchrun stops all processes at the first that fails; the one that writes tells of failures
    rows = pd.DataFrame({"image": paths}).join(predictions_table(result, loaded.calibration))
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
        print(f"{len(paths)} images: {result.tally.words()}", file=sys.stderr)
    draw_pictures(paths, pictures, rows, result, spec, loaded.branch_means, options.fragment_draws)
    for message in errors.values():
        print(f"failed: {message}", file=sys.stderr)
    return EXIT_FAILED_IMAGES if errors else 0


def find_images(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the files that arguments mean: files as they are (also missing ones, to be reported), folders searched.

    Raises:
        RunError: a folder or a pattern without an image.
    """
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = [str(file) for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS and file.is_file()]
            if not found:
                raise RunError(f"{argument}: no image in this folder ({', '.join(EXTENSIONS)})")
        elif not path.exists() and glob.has_magic(argument):
            found = [file for file in glob.glob(argument, recursive=True) if Path(file).is_file()]
            if not found:
                raise RunError(f"{argument}: no file matches this pattern")
        else:
            found = [argument]
        yield from sorted(found, key=natural_order)


def planned_pictures(paths: Sequence[str], folders: dict[str, str | None]) -> dict[str, list[Path]]:
    """Return where each photograph's pictures go: <stem>_<kind>.png, for the kinds with a folder, which is made.

    A number tells photographs of the same name apart.

    Raises:
        RunError: a folder cannot be made, or a picture would replace one of the photographs.
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
            raise RunError(
                f"{picture}: this photograph would be replaced by a picture of another; choose another folder"
            )
    return pictures


def draw_pictures(
    paths: Sequence[str],
    pictures: dict[str, list[Path]],
    rows: Sequence[dict],
    result: Scores,
    spec: ViewSpec,
    branch_means: dict[str, float] | None,
    draws: int,
) -> None:
    """Draw the pictures that were asked for of every photograph that was scored."""
    wanted = np.flatnonzero(np.isfinite(result.scores)) if pictures else []
    with progress_bar(len(wanted), "drawing") as bar:
        for index in wanted:
            image = decode_rgb(paths[index], spec.max_pixels)
            if "views" in pictures:
                draw_views(image, spec, pictures["views"][index])
            if "map" in pictures:
                maps = {view: places[index] for view, places in result.maps.items()}
                title = f"{Path(paths[index]).name}: {score_words(rows[index], draws)}"
                draw_quality_map(image, spec, maps, branch_means, title, pictures["map"][index])
            bar.update()


def score_words(row: dict, draws: int) -> str:
    """Return a photograph's score in words."""
    words = f"score {row['score']:.3f}"
    if draws > 1:
        words += f" \u00b1 {row['sampling_error']:.3f} ({draws} draws)"
    return words + (f", quality {row['quality']:.3f}" if np.isfinite(row["quality"]) else "")


def table(rows: Sequence[dict]) -> str:
    """Return the scores for people: quality is on the MOS scale, where the checkpoint has a mapping to it."""
    columns = [name for name in ("score", "sampling_error", "quality") if name in rows[0]]
    heads = {"score": "score", "sampling_error": "+-", "quality": "quality"}
    lines = ["  ".join([*(f"{heads[name]:>8}" for name in columns), "image"])]
    for row in rows:
        numbers = [f"{row[name]:8.4f}" if np.isfinite(row[name]) else f"{'-':>8}" for name in columns]
        lines.append("  ".join([*numbers, row["image"]]))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
