"""The options of train.py, which are also the keys of every config under configs/."""

import argparse
from pathlib import Path

import torch

from data.datasets import PAIRINGS
from utils.command_line import add_flag, file_name, integer, list_first, make_parser, number, weights
from utils.distributed import launched_processes
from utils.options import (
    add_compile,
    add_compute_options,
    add_data_options,
    add_model_options,
    add_validation_patches,
    add_view_options,
    view_spec,
)
from utils.precision import add_precision

COMMON = (
    *("--config", "--database_dir", "--database", "--backbone", "--pretrained_path", "--num_epochs", "--batch_size"),
    *("--lr", "--run", "--resume"),
)


def train_parser() -> argparse.ArgumentParser:
    """Return the parser of train.py and of the configs."""
    parser = make_parser(
        "Train a quality model on photographs and their mean opinion scores. Defaults: the paper's, arXiv 2409.00749.",
        prog="train.py",
        usage="%(prog)s [--config FILE] [--database_dir DIR] [options]",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of options; the command line takes precedence")
    add_data_options(parser).add_argument(
        "--packed",
        metavar="DIR",
        help="load the views from this pack (see `prepare.py pack`) instead of decoding images; training then cycles "
        "through the pack's fragment draws",
    )
    add_model_options(parser)
    add_view_options(parser)
    _add_optimisation(parser)
    _add_objective(parser)
    _add_run(parser)
    _add_multi_gpu_and_precision(add_compute_options(parser))
    list_first(parser, "common options", COMMON)
    return parser


def _add_optimisation(parser) -> None:
    group = parser.add_argument_group("optimisation")
    group.add_argument(
        "--num_epochs", type=integer(1), default=100, metavar="N", help="passes over the training images"
    )
    group.add_argument(
        "--batch_size", type=integer(1), default=12, metavar="N", help="pairs per step: 12 pairs are 24 images"
    )
    _add_learning_rate(group)
    group.add_argument(
        "--freeze_stages",
        type=integer(0),
        default=0,
        metavar="N",
        help="do not train the first N stages of every trunk (the stem belongs to the first): no gradients, and fixed "
        "statistics of batch normalisation; steps become faster and need less memory",
    )
    add_flag(
        group,
        "--freeze_bn",
        "fix the statistics of batch normalisation in all stages at those of the first weights, for small batches",
    )
    group.add_argument(
        "--init",
        choices=("imagenet", "scratch"),
        default="imagenet",
        help="initial weights of the trunks, unless --pretrained_path is given",
    )
    group.add_argument(
        "--pretrained_path",
        metavar="FILE",
        help="checkpoint to start from: of AVA or a bare trunk (loaded into every branch), or of a whole model",
    )
    add_flag(group, "--horizontal_flip", "mirror half of the photographs at random")
    group.add_argument(
        "--accumulate",
        type=integer(1),
        default=1,
        metavar="N",
        help="gradient accumulation: split each batch into N parts to save GPU memory; the gradient is the same (batch "
        "normalisation and stochastic depth see one part at a time)",
    )
    group.add_argument(
        "--ema",
        type=number(0, below=1),
        default=0.0,
        metavar="DECAY",
        help="decay of a moving average of the weights, which is then validated and saved, e.g. 0.999 (0: no average)",
    )
    group.add_argument(
        "--clip_grad", type=number(0), default=0.0, metavar="X", help="clip the gradient norm to X (0: no clipping)"
    )


def _add_learning_rate(group) -> None:
    group.add_argument(
        "--optimizer",
        choices=("adam", "adamw"),
        default="adam",
        help="adam: the weight decay is added to the gradient (the paper); adamw: it shrinks the weights directly",
    )
    group.add_argument("--lr", type=number(0, above=True), metavar="X", default=1e-5, help="learning rate")
    group.add_argument("--weight_decay", type=number(0), metavar="X", default=1e-7, help="weight decay")
    group.add_argument(
        "--trunk_lr_ratio",
        type=number(0, above=True),
        metavar="X",
        default=1.0,
        help="learning rate of the trunks relative to that of the head, e.g. 0.1 to change pre-trained trunks slowly",
    )
    group.add_argument(
        "--schedule",
        choices=("step", "cosine"),
        default="step",
        help="learning rate over the epochs: decay in steps (--decay_interval, --decay_ratio), or half a cosine down "
        "to zero after the last epoch",
    )
    group.add_argument("--decay_interval", type=integer(1), default=10, metavar="N", help="epochs between lr decays")
    group.add_argument(
        "--decay_ratio", type=number(0, above=True), metavar="X", default=0.9, help="factor of each learning-rate decay"
    )
    group.add_argument(
        "--warmup_epochs",
        type=integer(0),
        default=0,
        metavar="N",
        help="epochs of a linear warm-up: the learning rate of epoch k is k / (N + 1) of the full one",
    )


def _add_objective(parser) -> None:
    group = parser.add_argument_group("objective")
    group.add_argument("--lr_weight_L2", type=number(0), metavar="X", default=0.1, help="weight of the MSE loss")
    group.add_argument("--lr_weight_pair", type=number(0), metavar="X", default=1.0, help="weight of the fidelity loss")
    group.add_argument(
        "--mos_scale",
        choices=("none", "standardise"),
        default="none",
        help="scale of the opinions in the loss: as they are (the paper), or minus the training mean and over the s.d. "
        "(scores stay on the data set's scale either way). The loss compares pairs in units of 1, but the training "
        "opinions of UHD-IQA have a s.d. of 0.046: unscaled, a reversed pair 0.05 apart costs almost nothing (0.0008)",
    )
    group.add_argument(
        "--source_weights",
        type=weights,
        metavar="NAME=X,...",
        help="with --source_column: proportions in which every epoch and batch mix the sources, e.g. A=3,B=1; an epoch "
        "keeps its number of images, so small sources are repeated (default: every image once)",
    )
    group.add_argument(
        "--score_scale",
        metavar="NAME",
        help="with --source_column: the source whose scale the saved model's scores have (default: that of the first "
        "training image)",
    )
    group.add_argument(
        "--pairing",
        choices=PAIRINGS,
        default="partner",
        help="partner: pair each image with one of another opinion (the paper); batch: rank all pairs of "
        "2 x batch_size images, 276 instead of 12 pairs from the paper's 24 images, at the same cost",
    )
    group.add_argument(
        "--distill_from",
        metavar="CSV",
        help="also learn from another model's scores of the training images, as `test.py --split train` writes them",
    )
    group.add_argument(
        "--distill_weight",
        type=number(0),
        default=1.0,
        metavar="X",
        help="weight of the loss against the teacher's scores",
    )
    group.add_argument(
        "--map_weight",
        type=number(0),
        default=0.0,
        metavar="X",
        help="teach the quality map where a fault is: degrade some mini-patches of a quarter of the photographs, and "
        "add X times the squared error of how their maps change",
    )
    add_validation_patches(group)


def _add_run(parser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument(
        "--run",
        type=file_name,
        metavar="NAME",
        help="name of the run (default: the config's file name, else <model>_<database>)",
    )
    group.add_argument("--snapshot", default="ckpts", metavar="DIR", help="checkpoints go to DIR/<run>/")
    group.add_argument("--logdir", default="logfiles", metavar="DIR", help="history and options go to DIR/<run>/")
    add_flag(group, "--overwrite", "replace the checkpoints of an earlier run of this name")
    group.add_argument(
        "--resume",
        metavar="auto|FILE",
        help="resume a training: auto (from the run's last.pth, if any) or a checkpoint file",
    )
    group.add_argument(
        "--save_every_steps",
        type=integer(0),
        default=0,
        metavar="N",
        help="also save last.pth every N steps (0: only after epochs and when interrupted)",
    )
    group.add_argument(
        "--print_samples", type=integer(1), default=50, metavar="N", help="steps between lines of the log"
    )
    group.add_argument(
        "--on_bad_image",
        choices=("stop", "skip"),
        default="stop",
        help="if an image cannot be decoded: stop with an error, or skip it and list it in skipped.csv; validation "
        "images are checked before the first step",
    )
    add_flag(
        group,
        "--deterministic",
        "use only deterministic algorithms: the same command gives the same history to the last digit on the same "
        "machine with the same number of threads",
    )


def _add_multi_gpu_and_precision(group) -> None:
    add_flag(
        group,
        "--multi_gpu",
        "use all visible GPUs with DataParallel; no effect on one GPU or the CPU. Prefer `torchrun "
        "--nproc_per_node N train.py ...` (DistributedDataParallel): a process per GPU",
    )
    group.add_argument(
        "--amp",
        choices=("off", "bf16", "fp16"),
        default="off",
        help="train with the trunks autocast to half precision (fp16 with a scaled loss); head and loss stay float32",
    )
    add_precision(group, "the trunks in validation")
    add_compile(group)


def run_name(run: str | None, config: str | None, model: str, database: str) -> str:
    """Return the run's name: `--run`, else the config's stem, else <model>_<database>."""
    return run or (Path(config).stem if config else f"{model}_{database}")


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with the parser's error if options contradict each other."""
    if options.multi_gpu and ":" in options.device:
        parser.error(
            f"--device {options.device} is one GPU, --multi_gpu uses all that are visible: choose them with "
            "CUDA_VISIBLE_DEVICES, or add --multi_gpu False"
        )
    data_parallel = options.multi_gpu and launched_processes() == 1  # torchrun replaces it
    if options.compile and data_parallel:
        parser.error(
            "--compile does not work with --multi_gpu: DataParallel's replicas cannot be compiled; add --multi_gpu "
            "False, or start a process per GPU with torchrun"
        )
    if options.amp == "bf16" and data_parallel and torch.cuda.device_count() > 1:
        parser.error(
            "--amp bf16 does not work with --multi_gpu: DataParallel's threads would autocast to fp16; start a process "
            "per GPU with torchrun, or use --amp fp16"
        )
    if options.pairing == "batch" and options.accumulate > 1:
        parser.error(
            f"--accumulate {options.accumulate} does not work with --pairing batch: pairs across the parts of a batch "
            "would be lost; use --pairing partner, or several GPUs with torchrun"
        )
    if options.source_column and options.mos_scale != "standardise":
        parser.error(
            f"--source_column {options.source_column}: opinions of several sources are on several scales; add "
            "--mos_scale standardise"
        )
    if (options.source_weights or options.score_scale) and not options.source_column:
        parser.error("--source_weights and --score_scale need --source_column")
    if options.map_weight:
        if options.multi_gpu or launched_processes() > 1:
            parser.error("--map_weight works on one device: add --multi_gpu False, and leave out torchrun")
        if "distortion" not in view_spec(options).views:
            parser.error("--map_weight needs the distortion view, which this model does not read")
        if options.n_fragment < 2:
            parser.error("--map_weight needs at least two mini-patches along a side: --n_fragment 2")
    if options.resume and options.overwrite:
        parser.error("--resume continues a run, --overwrite restarts it: give one of them")
