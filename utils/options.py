"""The options: every one, with its one default, stands here; a YAML file under configs/ holds only what differs."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.datasets import PAIRINGS
from data.decode import DEFAULT_MAX_PIXELS
from data.patches import POLICIES
from data.saliency import METHODS
from data.tables import DATABASES, LabelTable, TableError, load_table
from data.views import ViewSpec
from models.backbones import SWIN_CONFIGS
from models.uiqa import BRANCHES, MODEL_ALIASES, MODELS, parse_branches
from utils.command_line import add_flag, make_parser, number, plain_name, whole_number
from utils.distributed import default_workers

SEED = whole_number(0, 2**32 - 1)


def _model_name(text: str) -> str:
    return MODEL_ALIASES.get(text, text)


def _branches(text: str) -> str:
    try:
        return ",".join(parse_branches(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def model_options(options: Mapping[str, object]) -> dict[str, object]:
    """Return what `models.build_model` takes, views apart, of a run's options; the defaults where they are silent.

    Args:
        options: of a command line, or as a checkpoint has them.
    """
    name = options.get("model", "UIQA")
    built: dict[str, object] = {"name": name, "backbone": options.get("backbone", "swin_t")}
    if name == "UIQA":
        built["branches"] = options.get("branches", ",".join(BRANCHES))
        built["shared_trunk"] = bool(options.get("shared_trunk", False))
    return built


def add_model(parser) -> None:
    """Add which model is meant, and with it which views are read."""
    parser.add_argument(
        "--model",
        type=_model_name,
        choices=list(MODELS),
        default="UIQA",
        help="UIQA: three branches; SwinT (or Model_SwinT): one trunk on the aesthetic view, for pre-training on AVA; "
        "Patches: one trunk on full-resolution patches, see --patch_policy",
    )
    parser.add_argument(
        "--branches",
        type=_branches,
        default=",".join(BRANCHES),
        metavar="NAMES",
        help=f"of UIQA: some of {','.join(BRANCHES)}, for ablations",
    )


def add_model_options(parser) -> None:
    """Add what decides the architecture."""
    group = parser.add_argument_group("model")
    add_model(group)
    group.add_argument(
        "--backbone",
        default="swin_t",
        metavar="NAME",
        help=f"trunk of every branch: {', '.join(SWIN_CONFIGS)} (torchvision's; swin_nano is for CPUs) or timm:<name>",
    )
    add_flag(group, "--shared_trunk", "of UIQA: one trunk reads all views: a third of the weights, as much arithmetic")


def add_view_options(parser) -> None:
    """Add what decides how a photograph is cut."""
    spec = ViewSpec()
    side = whole_number(1)
    group = parser.add_argument_group("views (all in pixels)")
    group.add_argument(
        "--resize", type=side, metavar="N", default=spec.resize, help="short side of the aesthetic view before its crop"
    )
    group.add_argument("--crop_size", type=side, metavar="N", default=spec.crop_size, help="side of the aesthetic view")
    group.add_argument(
        "--n_fragment",
        type=side,
        metavar="N",
        default=spec.n_fragment,
        help=f"mini-patches of {spec.patch_size} pixels along each side of the distortion view",
    )
    group.add_argument(
        "--salient_patch_dimension",
        type=side,
        metavar="N",
        default=spec.salient_patch_dimension,
        help="side of the salient view",
    )
    group.add_argument(
        "--saliency",
        choices=METHODS,
        default=spec.saliency,
        help="where the salient view is cut: center, as in the released weights, or by the spectral residual",
    )
    group.add_argument(
        "--patch_policy",
        choices=POLICIES,
        default=spec.patch_policy,
        help="of the model Patches: all patches of a grid, three of them at random in a step of training; or the three "
        "of the most complex texture",
    )
    group.add_argument(
        "--patch_dimension", type=side, metavar="N", default=spec.patch_dimension, help="side of such a patch"
    )
    add_max_pixels(group)


def add_validation_patches(parser) -> None:
    """Add on how many patches a model that reads all of them is validated."""
    parser.add_argument(
        "--validation_patches",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="of the model Patches with all patches: validate on N of them, spread evenly over each photograph (0: on "
        "all, as test.py does, which costs as much as a pass at full resolution)",
    )


def add_max_pixels(parser) -> None:
    """Add the limit that keeps an absurd file from filling the memory."""
    parser.add_argument(
        "--max_pixels",
        type=whole_number(1),
        default=DEFAULT_MAX_PIXELS,
        metavar="N",
        help="refuse images with more pixels than this, before or after enlarging",
    )


def view_spec(options: argparse.Namespace) -> ViewSpec:
    """Return the view specification of parsed options.

    Raises:
        ValueError: the values contradict each other.
    """
    return ViewSpec(
        resize=options.resize,
        crop_size=options.crop_size,
        n_fragment=options.n_fragment,
        salient_patch_dimension=options.salient_patch_dimension,
        saliency=options.saliency,
        max_pixels=options.max_pixels,
        patch_policy=options.patch_policy,
        patch_dimension=options.patch_dimension,
        views=parse_branches(options.branches) if options.model == "UIQA" else MODELS[options.model].view_names,
    )


def add_data_options(parser) -> None:
    """Add what decides the photographs, their opinions and their split."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--database", choices=DATABASES, default="UHD_IQA", help="format of the label file; csv: any table of yours"
    )
    group.add_argument(
        "--database_dir", metavar="DIR", help="where the images are; also looked for in DIR/<set> and DIR/../<set>"
    )
    group.add_argument(
        "--metadata", metavar="FILE", help="the label file; looked for beside and above --database_dir if not given"
    )
    group.add_argument("--image_column", default="image", metavar="COLUMN", help="csv: column of the file names")
    group.add_argument("--mos_column", default="mos", metavar="COLUMN", help="csv: column of the opinions")
    group.add_argument(
        "--split_column",
        default="split",
        metavar="COLUMN",
        help="csv: column of train, val, test; without one, 80 / 20",
    )
    group.add_argument(
        "--split_by",
        metavar="COLUMN",
        help="split the training rows at random, keeping rows with the same entry here on one side (user_name, say)",
    )
    add_flag(group, "--skip_missing", "leave out missing images and opinions that are no numbers, instead of stopping")
    group.add_argument(
        "--random_seed",
        type=SEED,
        default=0,
        metavar="SEED",
        help="of the random split, and of everything drawn in training",
    )


DATA_OPTIONS = (
    "database",
    "database_dir",
    "metadata",
    "image_column",
    "mos_column",
    "split_column",
    "split_by",
    "skip_missing",
    "random_seed",
)


def take_data_options(options: argparse.Namespace, trained: dict) -> None:
    """Fill data options that are None from those of the run that trained a model, else from the defaults."""
    defaults = make_parser("")
    add_data_options(defaults)
    defaults = defaults.parse_args([])
    # A new folder or kind of data set brings its own label file.
    moved = options.database_dir is not None or options.database is not None
    for name in DATA_OPTIONS:
        if getattr(options, name) is None:
            trained_with = None if moved and name == "metadata" else trained.get(name)
            setattr(options, name, getattr(defaults, name) if trained_with is None else trained_with)


def table_of(options: argparse.Namespace, splits: Sequence[str]) -> LabelTable:
    """Load the label table that parsed data options mean.

    Raises:
        TableError: as `data.tables.load_table`; or no folder was given.
    """
    if not options.database_dir:
        raise TableError("where are the images? Give their folder with --database_dir DIR")
    return load_table(splits=splits, **{name: getattr(options, name) for name in DATA_OPTIONS})


def add_compute_options(parser) -> None:
    """Add what decides where the work is done; it does not change a result."""
    group = parser.add_argument_group("computing")
    group.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:i]", help="where the network runs")
    group.add_argument(
        "--num_workers",
        type=whole_number(0),
        default=default_workers(),
        metavar="N",
        help="processes (scoring on a CPU: threads) that decode while the network works; 0 decodes in turn with it",
    )


def add_fragment_draws(parser) -> None:
    """Add over how many draws of the fragments a score is averaged."""
    parser.add_argument(
        "--fragment_draws",
        type=whole_number(1),
        default=1,
        metavar="K",
        help="average each score over K draws of the mini-patches (only the distortion branch runs again); the spread "
        "between draws tells the score's sampling error",
    )


def check_fragment_draws(draws: int, spec: ViewSpec) -> None:
    """Check that there is a view to draw several times.

    Raises:
        ValueError: there is none.
    """
    if draws > 1 and "distortion" not in spec.views:
        raise ValueError(f"--fragment_draws {draws}: this model has no distortion view, whose fragments are drawn")


def add_compile(parser) -> None:
    """Add whether the network is compiled first."""
    add_flag(
        parser,
        "--compile",
        "have torch.compile translate the trunks: it takes half a minute for scoring, more for training, and needs a "
        "C++ compiler; scores are the same to 1e-5",
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
    add_validation_patches(group)
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
        help="pass a batch through the network in N parts, for GPUs that it does not fit; the gradient is the same",
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
        "use all visible GPUs with DataParallel; faster: torchrun --nproc_per_node N train.py ..., without this",
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
