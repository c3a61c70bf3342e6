"""The options of train.py, in whose words every config under configs/ is written."""

import argparse
from pathlib import Path

from data.datasets import PAIRINGS
from utils.command_line import add_flag, make_parser, number, plain_name, whole_number
from utils.options import (
    add_compile,
    add_compute_options,
    add_data_options,
    add_model_options,
    add_validation_patches,
    add_view_options,
)


def add_training_options(parser) -> None:
    """Add what decides how a model learns."""
    group = parser.add_argument_group("training")
    group.add_argument(
        "--num_epochs", type=whole_number(1), default=100, metavar="N", help="passes over the training images"
    )
    group.add_argument(
        "--batch_size", type=whole_number(1), default=12, metavar="N", help="pairs a step: 12 pairs are 24 images"
    )
    group.add_argument("--lr", type=number(0, above=True), metavar="X", default=1e-5, help="learning rate of Adam")
    group.add_argument("--weight_decay", type=number(0), metavar="X", default=1e-7, help="weight decay of Adam")
    group.add_argument("--decay_interval", type=whole_number(1), default=10, metavar="N", help="epochs between decays")
    group.add_argument(
        "--decay_ratio",
        type=number(0, above=True),
        metavar="X",
        default=0.9,
        help="factor of the learning rate's decay",
    )
    _add_objective(group)
    _add_steps(group)
    add_validation_patches(group)
    _add_start(group)


def _add_objective(group) -> None:
    """Add what the scores are held against."""
    group.add_argument(
        "--lr_weight_L2", type=number(0), metavar="X", default=0.1, help="weight of the squared errors in the loss"
    )
    group.add_argument(
        "--lr_weight_pair", type=number(0), metavar="X", default=1.0, help="weight of the fidelity loss of pairs"
    )
    group.add_argument(
        "--distill_from",
        metavar="CSV",
        help="learn also from another model's scores of the training images, as `test.py --split train` writes them",
    )
    group.add_argument(
        "--distill_weight",
        type=number(0),
        default=1.0,
        metavar="X",
        help="with --distill_from: the loss against the opinions plus X times the same loss against those scores",
    )
    group.add_argument(
        "--mos_scale",
        choices=("none", "standardise"),
        default="none",
        help="opinions the loss sees: as they are (the paper), or less the training mean and over the s.d.; scores are "
        "on the data set's scale either way. UHD-IQA's opinions have a s.d. of 0.046, and pairs are compared in units "
        "of 1: as they are, a reversed pair 0.05 apart costs 0.0008, and the fidelity loss teaches almost nothing",
    )
    group.add_argument(
        "--pairing",
        choices=PAIRINGS,
        default="partner",
        help="partner: each image with one of another opinion (the paper); batch: 2 x batch_size different images and "
        "all their pairs, 276 from the paper's 24 images, for the same work",
    )


def _add_steps(group) -> None:
    """Add how a step is computed."""
    add_flag(group, "--horizontal_flip", "mirror every other photograph")
    group.add_argument(
        "--amp",
        choices=("off", "bf16", "fp16"),
        default="off",
        help="compute the trunks in half precision (fp16 with a scaled loss); head, loss and validation stay float32",
    )
    group.add_argument(
        "--accumulate",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="pass a batch through the network in N parts, for GPUs that it does not fit; the gradient is the same "
        "(batch normalisation and stochastic depth see a part at a time)",
    )
    group.add_argument(
        "--ema",
        type=number(0, below=1),
        default=0.0,
        metavar="DECAY",
        help="validate and keep a moving average of the weights (0.999, say; 0: the weights themselves)",
    )
    group.add_argument(
        "--clip_grad", type=number(0), default=0.0, metavar="X", help="limit the gradient's norm (0: no limit)"
    )
    group.add_argument(
        "--on_bad_image",
        choices=("stop", "skip"),
        default="stop",
        help="when a training image cannot be decoded: end with its name, or leave it out, count and list it",
    )
    add_flag(
        group,
        "--deterministic",
        "use deterministic algorithms only: the same command gives the same history to the last digit on the same "
        "machine with the same number of threads",
    )


def _add_start(group) -> None:
    """Add where the weights come from, and on which GPUs they learn."""
    group.add_argument(
        "--init",
        choices=("imagenet", "scratch"),
        default="imagenet",
        help="where the trunks start, unless --pretrained_path is given",
    )
    group.add_argument(
        "--pretrained_path",
        metavar="FILE",
        help="weights to start from: an AVA checkpoint or a bare trunk (for every branch), or a whole model",
    )
    add_flag(
        group,
        "--multi_gpu",
        "use all visible GPUs with DataParallel; no difference on one GPU or the CPU. torchrun --nproc_per_node N "
        "train.py ... is faster, and takes its place",
    )


def add_run_options(parser) -> None:
    """Add where a training's results go, and how it goes on."""
    group = parser.add_argument_group("run")
    group.add_argument(
        "--run",
        type=plain_name,
        metavar="NAME",
        help="name of the run (default: the config's stem, else <model>_<database>)",
    )
    group.add_argument("--snapshot", default="ckpts", metavar="DIR", help="DIR/<run>/ receives last.pth and best.pth")
    group.add_argument("--logdir", default="logfiles", metavar="DIR", help="DIR/<run>/ receives history and options")
    add_flag(group, "--overwrite", "replace the checkpoints of an earlier run of this name")
    group.add_argument(
        "--resume",
        metavar="auto|FILE",
        help="go on with a training: auto, from the run's own last.pth if there is one; or from a file",
    )
    group.add_argument(
        "--save_every_steps",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="save last.pth also every N steps, not only after epochs and when interrupted (0)",
    )
    group.add_argument(
        "--print_samples", type=whole_number(1), default=50, metavar="N", help="steps between two lines of log"
    )


def train_parser() -> argparse.ArgumentParser:
    """Return the parser of train.py, in which every config under configs/ is written."""
    parser = make_parser(
        "Train a quality model on photographs and their mean opinion scores. Defaults are those of arXiv 2409.00749.",
        prog="train.py",
    )
    parser.add_argument("--config", metavar="FILE", help="a YAML file of options; the command line wins over it")
    add_data_options(parser)
    add_model_options(parser)
    add_view_options(parser)
    parser.add_argument(
        "--packed",
        metavar="DIR",
        help="read the views from here instead of decoding images, see `prepare.py pack`; training then repeats the "
        "pack's draws of the fragments, epoch after epoch",
    )
    add_training_options(parser)
    add_run_options(parser)
    add_compute_options(parser)
    add_compile(parser)
    return parser


def run_name(options: argparse.Namespace) -> str:
    """Return the run's name: given, else the config's stem, else <model>_<database>."""
    if options.run:
        return options.run
    return Path(options.config).stem if options.config else f"{options.model}_{options.database}"
