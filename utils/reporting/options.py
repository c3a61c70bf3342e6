"""The options of test.py."""

import argparse

from data.tables import ALL, SPLITS
from utils.command_line import add_flag, file_name, integer, make_parser, result_file
from utils.options import (
    DATA_OPTIONS,
    add_compile,
    add_compute_options,
    add_data_options,
    add_fragment_draws,
    add_max_pixels,
)
from utils.precision import add_precision


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
        help="a released calibration (UIQA.npy) that replaces the checkpoint's (default for a state dict: the .npy "
        "beside it)",
    )
    parser.add_argument(
        "--split",
        choices=(*SPLITS, ALL),
        help="the split to score; all: every row of the label file, which then needs no splits (default: test, or that "
        "of --predictions DIR/predictions_<split>.csv)",
    )
    parser.add_argument("--batch_size", type=integer(1), default=8, metavar="N", help="images per forward pass")
    add_fragment_draws(parser)
    add_flag(parser, "--controls", "also measure an untrained model, and the file size used as the score")
    parser.add_argument(
        "--group_by", metavar="COLUMN", help="also measure within each group: a column of the label file (e.g. subset)"
    )
    parser.add_argument(
        "--resample_by",
        metavar="COLUMN",
        help="resample whole groups of images for the 95 %% intervals and for --compare, by a column of the label file "
        "(or of A.csv): versions of one content, for example, or photographs of one user_name",
    )
    parser.add_argument(
        "--predictions",
        metavar="CSV",
        help="measure and report the scores in this file, written by an earlier run, instead of scoring; the report "
        "shows photographs with --checkpoint or --database_dir, and their views and maps with --checkpoint",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A.csv", "B.csv"),
        help="only test whether two prediction files for the same images differ by more than chance; this compares two "
        "checkpoints, not two methods (the variation between training seeds is not included)",
    )
    add_result_options(parser)
    add_data_options(parser)
    add_max_pixels(parser)
    add_precision(add_compute_options(parser))
    add_compile(parser)
    # Data options that are not given are taken from the checkpoint, so that a random split is the one of training.
    parser.set_defaults(**dict.fromkeys(DATA_OPTIONS))
    return parser


def add_result_options(parser: argparse.ArgumentParser) -> None:
    """Add what is written, and where."""
    add_flag(
        parser,
        "--report",
        "write DIR/<run>/report_<split>.html, a page that opens offline, and the scatter plot as PDF and PNG",
    )
    parser.add_argument(
        "--run",
        type=file_name,
        metavar="NAME",
        help="name of the results (default: the run that trained the model, or in whose folder the predictions are)",
    )
    parser.add_argument("--logdir", default="logfiles", metavar="DIR", help="results are written to DIR/<run>/")
    parser.add_argument(
        "--json",
        type=result_file,
        metavar="FILE",
        help="also write the measures here; - for standard output, nothing else on it",
    )
