"""Make a data set ready.

python prepare.py synthetic --out demo_data
python prepare.py pack --config configs/demo.yaml --out packs/demo
"""

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from torch.utils.data import DataLoader

from data.packing import SPLITS, UnfinishedPack, partial_folder, plan_pack, remove_pack
from data.synthetic import LABEL_FILE, make_synthetic_dataset
from utils.command_line import (
    add_flag,
    entry_point,
    make_folder,
    make_parser,
    parse_options,
    usage_errors,
    whole_number,
)
from utils.distributed import default_workers
from utils.errors import EXIT_FAILED_IMAGES, RunError
from utils.options import (
    SEED,
    add_data_options,
    add_model,
    add_validation_patches,
    add_view_options,
    table_of,
    view_spec,
)
from utils.progress import progress_bar
from utils.training.options import train_parser

BYTES_PER_SCENE = 20e6  # six versions; seen: 15 MB on average


def prepare_parser() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Return the parser of prepare.py, and the one of its `pack`, which reads configs."""
    parser = make_parser("Make a data set ready.", prog="prepare.py")
    commands = parser.add_subparsers(dest="command", required=True)
    synthetic = commands.add_parser(
        "synthetic",
        help="make the demo set: synthetic UHD photographs with simulated opinions",
        description="Make synthetic UHD photographs (dead-leaves scenes in six versions each) with simulated opinions, "
        "in UHD-IQA's layout. The same seed gives the same bytes.",
        allow_abbrev=False,
        formatter_class=parser.formatter_class,
    )
    synthetic.add_argument("--out", required=True, metavar="DIR", help="folder of the data set; made if missing")
    synthetic.add_argument("--scenes", type=whole_number(3), default=60, metavar="N", help="scenes")
    synthetic.add_argument("--seed", type=SEED, default=0, help="of everything drawn (default: 0)")
    synthetic.add_argument("--height", type=whole_number(64), default=2160, help="pixels")
    synthetic.add_argument("--width", type=whole_number(64), default=3840, help="pixels")
    synthetic.add_argument(
        "--num_workers",
        type=whole_number(1),
        default=default_workers(),
        metavar="N",
        help="processes that make them",
    )
    add_flag(synthetic, "--overwrite", "replace the data set that is in the folder")

    pack = commands.add_parser(
        "pack",
        help="decode every training and validation image once, for `train.py --packed`",
        description="Decode every training and validation image once and keep its views, for `train.py --packed`. Give "
        "the options of the training. An interrupted pack is gone on with, a finished one is checked and brought up to "
        f"date. Exit code {EXIT_FAILED_IMAGES} if an image could not be used; the others are packed.",
        allow_abbrev=False,
        formatter_class=parser.formatter_class,
    )
    pack.add_argument("--config", metavar="FILE", help="a YAML file of train.py's options; the command line wins")
    pack.add_argument("--out", required=True, metavar="DIR", help="folder of the pack")
    pack.add_argument(
        "--draws",
        type=whole_number(1),
        default=4,
        metavar="K",
        help="draws of the fragments of a training image; epoch e uses draw e modulo K",
    )
    pack.add_argument(
        "--num_workers",
        type=whole_number(0),
        default=default_workers(),
        metavar="N",
        help="processes that decode and cut; 0 does it in this one",
    )
    add_flag(pack, "--overwrite", "replace a pack that was made with other settings")
    add_data_options(pack)
    add_model(pack)
    add_view_options(pack)
    add_validation_patches(pack)
    return parser, pack


@entry_point
def main(args: list[str] | None = None) -> int:
    """Prepare as the command line says; return the exit code."""
    parser, pack = prepare_parser()
    args = list(sys.argv[1:] if args is None else args)
    if args[:1] == ["pack"]:
        return make_pack(pack, parse_options(pack, args[1:], config_parser=train_parser()))
    return make_demo_set(parser.parse_args(args))


def make_demo_set(options) -> int:
    """Make the synthetic data set and say what it holds."""
    folder = Path(options.out)
    if (folder / LABEL_FILE).exists() and not options.overwrite:
        raise RunError(f"{folder / LABEL_FILE} is there already: choose another --out, or replace it with --overwrite")
    make_folder(folder)
    needed = options.scenes * BYTES_PER_SCENE * options.height * options.width / (2160 * 3840)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(f"{folder}: about {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")

    with progress_bar(options.scenes, "scenes", unit="scene") as bar:

        def progress(jobs):
            for job in jobs:
                yield job
                bar.update()

        table = make_synthetic_dataset(
            folder, options.scenes, options.seed, options.num_workers, options.height, options.width, progress
        )
    counts = ", ".join(f"{count} {split}" for split, count in table["set"].value_counts(sort=False).items())
    size = table["image_bytes"].sum() / 1e6
    print(f"{folder}: {len(table)} images of {options.width} x {options.height} with simulated opinions")
    print(f"{counts}; {size:.0f} MB; labels in {folder / LABEL_FILE}")
    return 0


def make_pack(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Pack the views of the training and validation images; return the exit code."""
    with usage_errors(parser):
        spec = replace(view_spec(options), patches=options.validation_patches)
    table = table_of(options, SPLITS)
    rows = table.frame[table.frame["split"].isin(SPLITS)]
    for note in table.notes:
        print(f"Note: {note}")
    folder = Path(options.out)
    make_folder(folder.parent)
    plan = plan_pack(rows, spec, options.random_seed, options.draws)
    if options.overwrite:
        remove_pack(folder)
        remove_pack(partial_folder(folder))
    pack = UnfinishedPack(folder, plan)
    if pack.is_whole:
        print(f"{folder} is whole: {len(rows)} photographs, every checksum is right")
        return 0

    todo = len(pack.todo)
    needed, free = pack.free_bytes_needed(), shutil.disk_usage(folder.parent).free
    print(f"{folder}: {len(rows)} photographs, {plan.size / 1e9:.2f} GB; {todo} to do, {needed / 1e9:.2f} GB more")
    if free < needed:
        raise RunError(f"{folder}: {needed / 1e9:.2f} GB more are needed, {free / 1e9:.2f} GB are free")
    failures = []
    writer = pack.begin(rows["path"])
    loader = DataLoader(writer, batch_size=None, num_workers=min(options.num_workers, todo))
    with progress_bar(todo, "packing") as bar:
        for place, checksum, message in loader:
            if isinstance(message, OSError):
                raise RunError(
                    f"{folder} cannot be written: {message.strerror}. Run this again once it can be; what is packed is "
                    "kept"
                )
            if message is None:
                pack.record(place, checksum)
            else:
                failures.append(message)
            bar.update()
    for message in failures:
        print(f"failed: {message}", file=sys.stderr)
    if failures:
        print(
            f"{folder} is unfinished: {len(failures)} images could not be used. Mend them, or take them from the label "
            "file, and run this again; what is packed is kept",
            file=sys.stderr,
        )
        return EXIT_FAILED_IMAGES
    pack.finish()
    print(f"{folder} is ready: train with --packed {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
