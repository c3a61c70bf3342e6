"""Score photographs of your own.

python predict.py --checkpoint ckpts/demo/best.pth photo.jpg holiday/ 'scans/*.tif' --csv scores.csv
"""

import argparse
import glob
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.datasets import PhotographDataset
from data.decode import EXTENSIONS, decode_rgb
from data.views import ViewSpec
from utils.checkpoint import WHERE_TO_GET_WEIGHTS, load_model
from utils.command_line import (
    EXIT_FAILED_IMAGES,
    RunError,
    entry_point,
    make_folder,
    make_parser,
    output_file,
    parse_options,
    usage_errors,
    whole_number,
)
from utils.distributed import select_device
from utils.figures import draw_views
from utils.inference import score_photographs
from utils.options import add_compile, add_compute_options, add_max_pixels
from utils.report import write_csv, write_json


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
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="one of ours, or a released state dict such as UIQA.pth (required)"
    )
    parser.add_argument(
        "--calibration", metavar="FILE", help="a released calibration (UIQA.npy) in place of the checkpoint's"
    )
    parser.add_argument(
        "--csv", type=output_file, metavar="FILE", help="write the scores here: image, score, quality, error"
    )
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="write the scores here; - for standard output, alone on it"
    )
    parser.add_argument("--views", metavar="DIR", help="draw what the network sees of each photograph into DIR")
    parser.add_argument("--batch_size", type=whole_number(1), default=8, metavar="N", help="images a forward pass")
    add_max_pixels(parser)
    add_compute_options(parser)
    add_compile(parser)
    return parser


@entry_point
def main(args: list[str] | None = None) -> int:
    """Score as the command line says; return the exit code."""
    parser = predict_parser()
    options = parse_options(parser, args)
    if options.checkpoint is None:
        raise RunError(f"which model? Give one with --checkpoint FILE. {WHERE_TO_GET_WEIGHTS}")
    if options.views:
        make_folder(options.views)
    paths = list(dict.fromkeys(find_images(options.images)))
    with usage_errors(parser):
        device = select_device(options.device)
        loaded = load_model(options.checkpoint, options.calibration)
    if options.compile:
        loaded.model.compile_trunks()
    spec = replace(loaded.view_spec, max_pixels=options.max_pixels)

    result = score_photographs(
        loaded.model.to(device),
        PhotographDataset(paths, spec),
        device,
        options.batch_size,
        options.num_workers,
        progress="scoring",
    )
    errors = dict(result.failures)
    quality = loaded.calibration(result.scores) if loaded.calibration else np.full(len(paths), np.nan)
    rows = [
        {"image": path, "score": score, "quality": mapped, "error": errors.get(index)}
        for index, (path, score, mapped) in enumerate(zip(paths, result.scores, quality, strict=True))
    ]
    if options.csv:
        write_csv(options.csv, rows)
    if options.json:
        calibration = loaded.calibration.describe() if loaded.calibration else "none: the checkpoint has no mapping"
        write_json(options.json, {"checkpoint": options.checkpoint, "calibration": calibration, "images": rows})
    if options.json != "-":
        print(table(rows))
        print(f"{len(paths)} images: {result.tally.words()}", file=sys.stderr)
    if options.views:
        draw_all_views([path for index, path in enumerate(paths) if index not in errors], spec, options.views)
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
        yield from sorted(found, key=_natural)


def draw_all_views(paths: Sequence[str], spec: ViewSpec, folder: str) -> None:
    """Draw one picture a photograph, named after it; a number tells photographs of the same name apart."""
    taken: set[str] = set()
    for path in paths:
        name = stem = Path(path).stem
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        draw_views(decode_rgb(path, spec.max_pixels), spec, Path(folder) / f"{name}.png")


def _natural(name: str) -> list:
    """Return a sort key that puts 2.jpg before 10.jpg."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def table(rows: Sequence[dict]) -> str:
    """Return the scores for people: quality is on the MOS scale, where the checkpoint has a mapping to it."""
    lines = [f"{'score':>8}  {'quality':>8}  image"]
    for row in rows:
        numbers = [f"{row[key]:8.4f}" if np.isfinite(row[key]) else f"{'-':>8}" for key in ("score", "quality")]
        lines.append("  ".join([*numbers, row["image"]]))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
