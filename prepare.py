"""Prepare a data set: make the synthetic demo set, write the label table of known data sets, or pack views.

python prepare.py synthetic --out demo_data
python prepare.py labels BIQ2021=BIQ2021 SR4KIQA=SR4KIQA --out labels.csv
python prepare.py pack --config configs/demo.yaml --out packs/demo
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader

from data.decode import DEFAULT_MAX_PIXELS, image_size
from data.files import listing, one_line, printable, write_csv
from data.known_datasets import COLUMNS, KNOWN_DATASETS, load_known_dataset
from data.look_alikes import MAX_DISTANCE, look_alikes_of_test
from data.pack_format import partial_folder
from data.packing import SPLITS, plan_pack
from data.seeding import Purpose, derive_generator
from data.synthetic import LABEL_FILE, make_synthetic_dataset
from data.tables import load_table
from data.unfinished_pack import UnfinishedPack, pack_lock, remove_pack
from utils.bulk.images import find_images
from utils.command_line import (
    add_flag,
    entry_point,
    integer,
    make_folder,
    make_parser,
    parse_options,
    table_file,
    usage_errors,
)
from utils.distributed import default_workers
from utils.errors import EXIT_FAILED_IMAGES, RunError
from utils.options import (
    SEED,
    add_data_options,
    add_model,
    add_validation_patches,
    add_view_options,
    load_labels,
    view_spec,
)
from utils.progress import progress_bar
from utils.training.options import train_parser

BYTES_PER_SCENE = 20e6  # of six versions at 3840 x 2160; the demo set's scenes take 15 MB on average


def prepare_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of prepare.py, and those of its commands by name."""
    parser = make_parser("Prepare a data set.", prog="prepare.py")
    commands = parser.add_subparsers(dest="command", required=True)
    common = {"allow_abbrev": False, "formatter_class": parser.formatter_class}
    synthetic = commands.add_parser(
        "synthetic",
        help="make the demo set: synthetic UHD photographs with simulated opinions",
        description="Make synthetic UHD photographs (dead-leaves scenes, or photographs of yours, in six versions) "
        "with simulated opinions, in UHD-IQA's layout. The same seed gives the same bytes.",
        **common,
    )
    add_synthetic_options(synthetic)
    labels = commands.add_parser(
        "labels",
        help="write one label table from the published files of known data sets",
        description="Write one label table from the published label files of known data sets "
        f"({', '.join(KNOWN_DATASETS)}), for `train.py --database csv --metadata FILE --source_column source`: image "
        "(its path from the table's folder), mos, split, source, group (content, subset, photographer or reference) "
        "and fold. Official splits are kept; where there are none, images or whole groups are drawn at random.",
        **common,
    )
    add_labels_options(labels)
    pack = commands.add_parser(
        "pack",
        help="decode every training and validation image once, for `train.py --packed`",
        description="Decode every training and validation image once and keep its views, for `train.py --packed`. Use "
        "the same options as for the training. An interrupted pack is resumed; a finished one is checked and updated. "
        f"Exit code {EXIT_FAILED_IMAGES} if some images could not be used; the others are packed, but the pack is "
        "unfinished until these are repaired or taken out of the label file.",
        **common,
    )
    add_pack_options(pack)
    return parser, {"synthetic": synthetic, "labels": labels, "pack": pack}


def add_synthetic_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `synthetic`."""
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the data set; created if missing")
    parser.add_argument("--scenes", type=integer(3), default=60, metavar="N", help="number of scenes")
    parser.add_argument(
        "--photographs",
        metavar="DIR|CSV",
        help="degrade photographs instead of rendering scenes: N random ones of this folder, or the N training "
        "images of this label table (from `labels`, of one data set) that people rated best",
    )
    parser.add_argument("--seed", type=SEED, default=0, help="random seed")
    parser.add_argument("--height", type=integer(64), default=2160, help="in pixels")
    parser.add_argument("--width", type=integer(64), default=3840, help="in pixels")
    parser.add_argument(
        "--num_workers", type=integer(1), default=default_workers(), metavar="N", help="processes that render"
    )
    add_flag(parser, "--overwrite", "replace the data set in the folder")


def add_labels_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `labels`."""
    parser.add_argument(
        "datasets",
        nargs="+",
        type=dataset_folder,
        metavar="NAME=FOLDER",
        help=f"a data set and its folder, as its authors ship it; NAME is one of {', '.join(KNOWN_DATASETS)}",
    )
    parser.add_argument("--out", required=True, type=table_file, metavar="FILE", help="the table, a CSV file")
    add_flag(
        parser,
        "--drop_look_alikes",
        "leave out training and validation images that look like a test image of the same data set, found by a "
        f"256-bit hash (at most {MAX_DISTANCE} bits differ)",
    )
    parser.add_argument("--seed", type=SEED, default=0, help="random seed of splits that are not published")


def dataset_folder(text: str) -> tuple[str, str]:
    """Parse NAME=FOLDER: a type for argparse."""
    name, _, folder = text.partition("=")
    if name not in KNOWN_DATASETS or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER, NAME one of {', '.join(KNOWN_DATASETS)}")
    return name, folder


def add_pack_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `pack`."""
    parser.add_argument("--config", metavar="FILE", help="a YAML file of train.py's options; the command line wins")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the pack")
    parser.add_argument(
        "--draws",
        type=integer(1),
        default=4,
        metavar="K",
        help="draws of the fragments of each training image; in epoch e (with --source_weights: the e-th time that the "
        "image is drawn) a pair uses draws 2e and 2e + 1 modulo K, "
        "and with --pairing batch an image uses draw e modulo K",
    )
    parser.add_argument(
        "--num_workers",
        type=integer(0),
        default=default_workers(),
        metavar="N",
        help="processes that decode and cut; 0 uses the main process",
    )
    add_flag(parser, "--overwrite", "replace a pack made with other settings")
    add_data_options(parser)
    add_model(parser)
    add_view_options(parser)
    add_validation_patches(parser)


def choose_photographs(source: str, count: int, seed: int) -> list[str]:
    """Return random photographs of a folder, or the training images of a label table with the highest opinions.

    Raises:
        RunError: there are fewer than three, or the table has several data sets, whose opinions cannot be compared.
    """
    if source.endswith(".csv"):
        frame = load_table("csv", Path(source).parent, splits=("train",), metadata=source).frame
        if frame.get("source", pd.Series(dtype=str)).nunique() > 1:
            raise RunError(f"{source}: has several data sets; make a table of one with: python prepare.py labels")
        frame = frame[frame["split"] == "train"].sort_values(["mos", "image"], ascending=[False, True])
        images, photographs = frame["path"].tolist(), frame["path"].tolist()[:count]
    else:
        if not Path(source).is_dir():
            raise RunError(f"{source}: no such folder")
        found = find_images([source])
        images = [image for image in found.images if image not in found.problems]
        order = derive_generator(Purpose.SCENE, seed).permutation(len(images))
        photographs = [images[position] for position in order[:count]]
    if len(photographs) < 3:
        raise RunError(f"{source}: has {len(images)} photographs; a data set needs at least 3")
    return photographs


@entry_point
def main(args: list[str] | None = None) -> int:
    """Run a command; return the exit code."""
    parser, commands = prepare_parser()
    args = list(sys.argv[1:] if args is None else args)
    command = args[0] if args and args[0] in commands else None
    if command == "pack":
        return make_pack(commands[command], parse_options(commands[command], args[1:], config_parser=train_parser()))
    if command is None:
        parser.parse_args(args)  # which says what is wrong, or helps
    options = parse_options(commands[command], args[1:])
    return write_labels(options) if command == "labels" else make_demo_set(options)


def make_demo_set(options: argparse.Namespace) -> int:
    """Make the synthetic data set and print a summary."""
    folder = Path(options.out)
    if (folder / LABEL_FILE).exists() and not options.overwrite:
        raise RunError(f"{folder / LABEL_FILE} already exists: choose another --out, or replace it with --overwrite")
    make_folder(folder)
    photographs, pixels = [], options.scenes * options.height * options.width
    if options.photographs:
        photographs = choose_photographs(options.photographs, options.scenes, options.seed)
        pixels = sum(np.prod(image_size(path, DEFAULT_MAX_PIXELS)) for path in photographs)
    require_space(folder, pixels * BYTES_PER_SCENE / (2160 * 3840))
    (folder / LABEL_FILE).unlink(missing_ok=True)  # where it is, the data set is complete
    with progress_bar(len(photographs) or options.scenes, "scenes", unit="scene") as bar:

        def progress(jobs: Iterable) -> Iterator:
            for job in jobs:
                yield job
                bar.update()

        table = make_synthetic_dataset(
            folder,
            options.scenes,
            options.seed,
            options.num_workers,
            options.height,
            options.width,
            progress,
            photographs,
        )
    counts = ", ".join(f"{count} {split}" for split, count in table["set"].value_counts(sort=False).items())
    size = table["image_bytes"].sum() / 1e6
    kind = f"of {len(photographs)} photographs" if photographs else f"of {options.width} x {options.height}"
    print(f"{folder}: {len(table)} images {kind} with simulated opinions")
    print(f"{counts}; {size:.0f} MB; labels in {folder / LABEL_FILE}")
    return 0


def write_labels(options: argparse.Namespace) -> int:
    """Write the label table of known data sets and print a summary; return the exit code."""
    names = [name for name, _ in options.datasets]
    if len(set(names)) < len(names):
        raise RunError("a data set is given twice; give each once")
    tables = []
    for name, folder in options.datasets:
        table, missing = load_known_dataset(name, folder, options.seed)
        counts = ", ".join(f"{(table['split'] == split).sum()} {split}" for split in ("train", "val", "test"))
        print(f"{name}: {len(table)} images: {counts}; terms of use: {KNOWN_DATASETS[name].terms}")
        if missing:
            print(f"{name}: {len(missing)} labelled images are missing in {folder}: {listing(missing)}")
        if options.drop_look_alikes:
            dropped, problems = look_alikes_of_test(table, default_workers())
            names_of_dropped = f" and are left out: {listing(dropped)}" if dropped else ""
            print(f"{name}: {len(dropped)} training and validation images look like a test image{names_of_dropped}")
            if problems:
                print(f"{name}: {len(problems)} images cannot be decoded and were not compared: {listing(problems)}")
            table = table[~table["image"].isin(dropped)]
        tables.append(table)
    out = Path(options.out)
    whole = pd.concat(tables, ignore_index=True)
    whole["image"] = [os.path.relpath(path, out.absolute().parent) for path in whole["path"]]
    write_csv(out, whole[list(COLUMNS)])
    several = " --source_column source --mos_scale standardise" if len(names) > 1 else ""
    print(f"{out}: {len(whole)} images; train with --database csv --metadata {out}{several}")
    return 0


def make_pack(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Pack the views of the training and validation images; return the exit code."""
    with usage_errors(parser):
        spec = replace(view_spec(options), patches=options.validation_patches)
    table = load_labels(options, SPLITS)
    rows = table.frame[table.frame["split"].isin(SPLITS)]
    for note in table.notes:
        print(f"Note: {note}")
    folder = Path(options.out)
    if folder.is_symlink():  # a pack on another disk stays there
        folder = folder.resolve()
    make_folder(folder.parent)
    with pack_lock(folder):
        plan = plan_pack(rows, spec, options.random_seed, options.draws)
        if options.overwrite:
            remove_pack(folder)
            remove_pack(partial_folder(folder))
        return fill_pack(UnfinishedPack(folder, plan), options.num_workers)


def fill_pack(pack: UnfinishedPack, workers: int) -> int:
    """Pack what is missing from a pack; return the exit code."""
    folder, count = pack.folder, len(pack.plan.records)
    if pack.is_whole:
        pack.settle()
        print(f"{folder} is complete: {count} photographs, every checksum matches")
        return 0

    todo, needed = len(pack.todo), pack.free_bytes_needed()
    print(f"{folder}: {count} photographs, {pack.plan.size / 1e9:.2f} GB; {todo} to do, {needed / 1e9:.2f} GB more")
    require_space(folder.parent, needed)
    failures = write_records(pack, workers)
    if failures:
        for message in failures:
            print(f"failed: {printable(message)}", file=sys.stderr)
        print(
            f"{folder} is unfinished: {len(failures)} images could not be used. Repair them, or remove them from the "
            "label file, and run the same command again; what is packed is kept",
            file=sys.stderr,
        )
        return EXIT_FAILED_IMAGES
    pack.finish()
    print(f"{folder} is ready: train with --packed {folder}")
    return 0


def write_records(pack: UnfinishedPack, workers: int) -> list[str]:
    """Decode and pack the images that are still missing.

    Returns:
        The messages of the images that could not be used.

    Raises:
        RunError: the pack cannot be written.
    """
    failures = []
    writer = pack.begin()
    loader = DataLoader(writer, batch_size=None, num_workers=min(workers, len(writer)))
    with progress_bar(len(writer), "packing") as bar:
        for index, entry, error in loader:
            if isinstance(error, OSError):
                raise RunError(
                    f"{pack.folder} cannot be written: {one_line(error)}. Run the same command again once it "
                    "can be; what is packed is kept"
                )
            if error is None:
                pack.record(index, entry)
            else:
                failures.append(error)
            bar.update()
    return failures


def require_space(folder: Path, needed: float) -> None:
    """Raise a RunError unless the disk of a folder has as many bytes free as are needed."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(f"{folder}: needs about {needed / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free")


if __name__ == "__main__":
    sys.exit(main())
