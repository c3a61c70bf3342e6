"""Make a data set ready.

python prepare.py synthetic --out demo_data
"""

import shutil
import sys
from pathlib import Path

from data.synthetic import LABEL_FILE, make_synthetic_dataset
from utils.command_line import RunError, add_flag, entry_point, make_folder, make_parser, whole_number
from utils.distributed import default_workers
from utils.options import SEED
from utils.progress import progress_bar

BYTES_PER_SCENE = 20e6  # six versions; seen: 15 MB on average


@entry_point
def main(args: list[str] | None = None) -> int:
    """Prepare as the command line says; return the exit code."""
    parser = make_parser("Make a data set ready.", prog="prepare.py")
    commands = parser.add_subparsers(dest="command", required=True)
    synthetic = commands.add_parser(
        "synthetic",
        help="make the demo set: synthetic UHD photographs with simulated opinions",
        description="Make synthetic UHD photographs (dead-leaves scenes in six versions each) with simulated opinions, "
        "in UHD-IQA's layout. The same seed gives the same bytes.",
        allow_abbrev=False,
    )
    synthetic.add_argument("--out", required=True, metavar="DIR", help="folder of the data set; made if missing")
    synthetic.add_argument("--scenes", type=whole_number(3), default=60, metavar="N", help="scenes (default: 60)")
    synthetic.add_argument("--seed", type=SEED, default=0, help="of everything drawn (default: 0)")
    synthetic.add_argument("--height", type=whole_number(64), default=2160, help="pixels (default: 2160)")
    synthetic.add_argument("--width", type=whole_number(64), default=3840, help="pixels (default: 3840)")
    synthetic.add_argument(
        "--num_workers",
        type=whole_number(1),
        default=default_workers(),
        metavar="N",
        help="processes (default: all cores)",
    )
    add_flag(synthetic, "--overwrite", "replace the data set that is in the folder")
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


if __name__ == "__main__":
    sys.exit(main())
