"""Options that several entry points share; each default is declared once, here or in `utils/training/options.py`."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from data.decode import DEFAULT_MAX_PIXELS
from data.patches import POLICIES
from data.saliency import METHODS
from data.tables import DATABASES, LabelTable, TableError, load_table
from data.views import ViewSpec
from models.backbones import SWIN_CONFIGS
from models.uiqa import BRANCHES, MODEL_ALIASES, MODELS, parse_branches
from utils.command_line import add_flag, integer, make_parser
from utils.distributed import default_workers

SEED = integer(0, 2**32 - 1)
ALL_BRANCHES = ",".join(BRANCHES)


def _model_name(text: str) -> str:
    return MODEL_ALIASES.get(text, text)


def _branches(text: str) -> str:
    try:
        return ",".join(parse_branches(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def model_options(options: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments of `models.build_model`, without the view sizes, from a command line's options.

    Raises:
        ValueError: the model has no such option.
    """
    name = options["model"]
    arguments: dict[str, object] = {"name": name, "backbone": options["backbone"]}
    if name == "UIQA":
        return arguments | {"branches": options["branches"], "shared_trunk": options["shared_trunk"]}
    if options["shared_trunk"]:
        raise ValueError(f"--shared_trunk needs --model UIQA; {name} has one trunk")
    return arguments


def add_model(parser) -> None:
    """Add the choice of the model, which decides the views that are cut."""
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
        default=ALL_BRANCHES,
        metavar="NAMES",
        help=f"branches of UIQA, some of {ALL_BRANCHES}, for ablations",
    )


def add_model_options(parser) -> None:
    """Add the options of the architecture."""
    group = parser.add_argument_group("model")
    add_model(group)
    group.add_argument(
        "--backbone",
        default="swin_t",
        metavar="NAME",
        help=f"trunk of every branch: {', '.join(SWIN_CONFIGS)} (torchvision's; swin_nano is for CPUs) or timm:<name>",
    )
    add_flag(group, "--shared_trunk", "UIQA: read all views with one trunk (a third of the weights, the same MACs)")


def add_view_options(parser) -> None:
    """Add the options of how a photograph is cut."""
    spec = ViewSpec()
    side = integer(1)
    group = parser.add_argument_group("views (sizes in pixels)")
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
        help="position of the salient view: the centre (released weights), or where a spectral-residual map is largest",
    )
    group.add_argument(
        "--patch_policy",
        choices=POLICIES,
        default=spec.patch_policy,
        help="model Patches: all patches of a grid (training takes three at random), or the three with the most "
        "complex texture",
    )
    group.add_argument(
        "--patch_dimension", type=side, metavar="N", default=spec.patch_dimension, help="model Patches: side of a patch"
    )
    add_max_pixels(group, DEFAULT_MAX_PIXELS)


def add_validation_patches(parser) -> None:
    """Add the number of patches that the model Patches is validated on."""
    parser.add_argument(
        "--validation_patches",
        type=integer(0),
        default=0,
        metavar="N",
        help="model Patches with all patches: validate on N of them, spread evenly over each photograph (0: on all, as "
        "test.py does, which costs as much as a full-resolution pass)",
    )


def add_max_pixels(parser, default: int | None = None) -> None:
    """Add the limit on the size of images; without a default the checkpoint's applies."""
    parser.add_argument(
        "--max_pixels",
        type=integer(1),
        default=default,
        metavar="N",
        help="reject images of more than N pixels, before or after enlarging"
        + ("" if default else " (default: the checkpoint's limit)"),
    )


def view_spec(options: argparse.Namespace) -> ViewSpec:
    """Return the view specification of parsed options.

    Raises:
        ValueError: the values contradict each other.
    """
    if options.model == "UIQA":
        views = parse_branches(options.branches)
    elif options.branches != ALL_BRANCHES:
        raise ValueError(f"--branches {options.branches} needs --model UIQA; {options.model} has one trunk")
    else:
        views = MODELS[options.model].view_names
    return ViewSpec(
        resize=options.resize,
        crop_size=options.crop_size,
        n_fragment=options.n_fragment,
        salient_patch_dimension=options.salient_patch_dimension,
        saliency=options.saliency,
        max_pixels=options.max_pixels,
        patch_policy=options.patch_policy,
        patch_dimension=options.patch_dimension,
        views=views,
    )


def add_data_options(parser) -> argparse._ArgumentGroup:
    """Add the options of the photographs, their opinions and their split; return their group."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--database", choices=DATABASES, default="UHD_IQA", help="format of the label file; csv: your own CSV file"
    )
    group.add_argument(
        "--database_dir",
        metavar="DIR",
        help="folder of the images; DIR/<set> and DIR/../<set> are searched as well (default: that of --metadata)",
    )
    group.add_argument(
        "--metadata",
        metavar="FILE",
        help="label file (default: searched for in --database_dir and up to three folders above it)",
    )
    group.add_argument("--image_column", default="image", metavar="COLUMN", help="csv: column of the file names")
    group.add_argument("--mos_column", default="mos", metavar="COLUMN", help="csv: column of the opinions")
    group.add_argument(
        "--split_column",
        default="split",
        metavar="COLUMN",
        help="csv: column of train, val and test; without it the split is 80 / 20",
    )
    group.add_argument(
        "--split_by",
        metavar="COLUMN",
        help="divide the training and validation rows 80 / 20 at random, in place of the label file's own validation "
        "split, but keep rows that share a value in this column on one side (e.g. user_name)",
    )
    add_flag(
        group,
        "--lower_is_better",
        "csv: lower opinions are better, as DMOS are; they are negated, so that MOS, scores and quality are all higher "
        "for better images, and RMSE and MAE stay on the label file's scale",
    )
    group.add_argument(
        "--source_column",
        metavar="COLUMN",
        help="csv: column that says which data set an image is from, for opinions on several scales: pairs are formed "
        "within a source, opinions are standardised per source, and each source is measured on its own",
    )
    add_flag(group, "--skip_missing", "skip missing images and opinions that are not numbers, instead of stopping")
    group.add_argument(
        "--random_seed",
        type=SEED,
        default=0,
        metavar="SEED",
        help="random seed of the split and of training",
    )
    return group


DATA_OPTIONS = (
    *("database", "database_dir", "metadata", "image_column", "mos_column", "split_column", "split_by"),
    *("lower_is_better", "source_column", "skip_missing", "random_seed"),
)


def take_data_options(options: argparse.Namespace, trained: dict) -> None:
    """Fill in data options that are None: from the run that trained a model, else the defaults."""
    parser = make_parser("")
    add_data_options(parser)
    defaults = vars(parser.parse_args([]))
    is_other_format = options.database not in (None, trained.get("database"))
    # Another folder or format has another label file; an own one may lack the columns of the first.
    not_inherited = {"metadata"} if options.database_dir is not None or options.database is not None else set()
    if not_inherited or options.metadata is not None:
        not_inherited.add("source_column")
        is_own = is_other_format or "csv" in (options.database, trained.get("database"))
        present, before = (os.path.realpath(path or "") for path in (options.metadata, trained.get("metadata")))
        if is_other_format or (is_own and present != before):
            not_inherited.add("split_by")
        # The images of an own label file lie beside it; those of UHD-IQA and AVA stay where they are.
        if is_own or options.metadata is None:
            not_inherited.add("database_dir")
    if is_other_format:
        not_inherited.add("lower_is_better")
    for name in DATA_OPTIONS:
        if getattr(options, name) is None:
            value = None if name in not_inherited else trained.get(name)
            setattr(options, name, defaults[name] if value is None else value)


def load_labels(options: argparse.Namespace, splits: Sequence[str]) -> LabelTable:
    """Load the label table of parsed data options.

    Raises:
        TableError: as `data.tables.load_table`; or no folder was given.
    """
    values = {name: getattr(options, name) for name in DATA_OPTIONS}
    if not options.database_dir:
        if not options.metadata:
            raise TableError(
                "no image folder: give one with --database_dir DIR, or a label file beside it with --metadata FILE"
            )
        values["database_dir"] = Path(options.metadata).parent
    return load_table(splits=splits, **values)


def several_sources_note(table: pd.DataFrame) -> list[str]:
    """Return a warning if opinions that are used together are of several data sets."""
    if "source" not in table or table["source"].nunique() < 2:
        return []
    return [
        "the column source names several data sets, whose opinions may have different scales: give --source_column "
        "source to keep them apart"
    ]


def add_compute_options(parser) -> argparse._ArgumentGroup:
    """Add the options of the hardware, which do not change a result; return their group."""
    group = parser.add_argument_group("computing")
    group.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:i]", help="device to run on")
    group.add_argument(
        "--num_workers",
        type=integer(0),
        default=default_workers(),
        metavar="N",
        help="data-loading workers (threads when scoring on a CPU); 0 decodes in the main process",
    )
    return group


def add_fragment_draws(parser) -> None:
    """Add the number of fragment draws that a score is averaged over."""
    parser.add_argument(
        "--fragment_draws",
        type=integer(1),
        default=1,
        metavar="K",
        help="average each score over K draws of the mini-patches (only the distortion branch is run K times); the "
        "spread between draws gives the score's sampling error",
    )


def check_fragment_draws(draws: int, spec: ViewSpec) -> None:
    """Check that a model with several fragment draws has a distortion view.

    Raises:
        ValueError: it has none.
    """
    if draws > 1 and "distortion" not in spec.views:
        raise ValueError(f"--fragment_draws {draws}: this model has no distortion view, whose fragments are drawn")


def add_compile(parser) -> None:
    """Add whether the trunks are compiled."""
    add_flag(
        parser,
        "--compile",
        "compile the trunks with torch.compile: takes half a minute for scoring, more for training, and needs a C++ "
        "compiler; scores stay the same to 1e-5",
    )
