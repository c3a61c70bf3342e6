"""The options that several entry points share; each has its one default here, or in `utils/training_options.py`."""

import argparse
from collections.abc import Mapping, Sequence

from data.decode import DEFAULT_MAX_PIXELS
from data.patches import POLICIES
from data.saliency import METHODS
from data.tables import DATABASES, LabelTable, TableError, load_table
from data.views import ViewSpec
from models.backbones import SWIN_CONFIGS
from models.uiqa import BRANCHES, MODEL_ALIASES, MODELS, parse_branches
from utils.command_line import add_flag, make_parser, whole_number
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
    """Return what `models.build_model` takes of a command line's options, the sizes of the views apart.

    Raises:
        ValueError: the model has no such option.
    """
    name = options["model"]
    built: dict[str, object] = {"name": name, "backbone": options["backbone"]}
    if name == "UIQA":
        built |= {"branches": options["branches"], "shared_trunk": options["shared_trunk"]}
    elif options["shared_trunk"]:
        raise ValueError(f"--shared_trunk is of --model UIQA; {name} has one trunk")
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
    add_max_pixels(group, DEFAULT_MAX_PIXELS)


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


def add_max_pixels(parser, default: int | None = None) -> None:
    """Add the limit that keeps an absurd file from filling the memory; without a default it is the checkpoint's."""
    parser.add_argument(
        "--max_pixels",
        type=whole_number(1),
        default=default,
        metavar="N",
        help="refuse images with more pixels than this, before or after enlarging"
        + ("" if default else " (default: the checkpoint's limit)"),
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
        views=_view_names(options),
    )


def _view_names(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the views that the model of parsed options reads."""
    if options.model == "UIQA":
        return parse_branches(options.branches)
    if options.branches != ",".join(BRANCHES):
        raise ValueError(f"--branches {options.branches} is of --model UIQA; {options.model} has one trunk")
    return MODELS[options.model].view_names


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
