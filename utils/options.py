"""The command line: every option's default stands here once, and a YAML file holds only what differs."""

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from data.decode import DEFAULT_MAX_PIXELS, ImageError
from data.saliency import METHODS
from data.tables import DATABASES, LabelTable, TableError, load_table
from data.views import ViewSpec
from models.backbones import SWIN_CONFIGS, WeightsError
from models.uiqa import MODEL_ALIASES, MODELS
from utils.checkpoint import CheckpointError
from utils.distributed import default_workers

EXIT_FAILED_IMAGES = 1  # the work was done, but some images could not be used
EXIT_UNUSABLE_INPUT = 2  # argparse's own code for a wrong command line
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class RunError(RuntimeError):
    """A run cannot go on; the message says why and what to do."""


def entry_point(main: Callable) -> Callable:
    """Turn the errors that are the user's to mend into one line on standard error and an exit code."""

    @functools.wraps(main)
    def wrapped(args: Sequence[str] | None = None) -> int:
        try:
            return main(args)
        except (TableError, ImageError, CheckpointError, WeightsError, RunError) as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_UNUSABLE_INPUT
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        except BrokenPipeError:  # the reader of a pipe has gone, `| head` for one
            sys.stderr.close()
            return 0

    return wrapped


@contextmanager
def usage_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Report a ValueError, raised by a constructor that checks option values, as the parser's own error."""
    try:
        yield
    except (TableError, ImageError, CheckpointError):
        raise
    except ValueError as error:
        parser.error(str(error))


class _HelpFormatter(argparse.HelpFormatter):
    """Shows a default where there is one to speak of."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default in (None, False, argparse.SUPPRESS) or not action.option_strings:
            return action.help
        return f"{action.help} (default: %(default)s)"


def make_parser(description: str, **options) -> argparse.ArgumentParser:
    """Return an empty parser in this project's manner: no abbreviations, defaults in the help."""
    return argparse.ArgumentParser(
        description=description, allow_abbrev=False, formatter_class=_HelpFormatter, **options
    )


def parse_options(
    parser: argparse.ArgumentParser,
    args: Sequence[str] | None = None,
    config_parser: argparse.ArgumentParser | None = None,
) -> argparse.Namespace:
    """Parse a command line, with the entries of its `--config` file placed before it.

    Each entry of the file becomes a `--key=value` token, so a misspelt key or a wrong value is the parser's error, and
    the command line wins.

    Args:
        parser: has a `--config` option, or none is looked for.
        args: the command line; `sys.argv[1:]` if None.
        config_parser: the parser a config is written for, where that is another one: keys that only it knows are
            checked and left out.
    """
    args = list(sys.argv[1:] if args is None else args)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    config = finder.parse_known_args(args)[0].config if "--config" in _known_options(parser) else None
    if config is None:
        return parser.parse_args(args)

    tokens = _config_tokens(Path(config), parser)
    checker = config_parser or parser
    name, checker.prog = checker.prog, f"{parser.prog}: {config}"  # so that the error names the file
    checker.parse_args(tokens)
    checker.prog = name
    known = _known_options(parser)
    return parser.parse_args([token for token in tokens if token.split("=")[0] in known] + args)


def _known_options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def _config_tokens(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """Return a YAML file's entries as command-line tokens."""
    try:
        # BaseLoader leaves every value a string: `amp: off` stays a word, and types are argparse's business alone.
        entries = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        parser.error(f"--config {path}: cannot be read: {error}")
    if not isinstance(entries or {}, dict):
        parser.error(f"--config {path}: must hold `option: value` lines")
    for key, value in (entries or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            parser.error(f"--config {path}: {key}: must be one plain value")
    return [f"--{key}={value}" for key, value in (entries or {}).items()]


def truth(text: str) -> bool:
    """Return the truth value of a word; `type=bool` would take every word, "False" included, for true."""
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return words[text.lower()]


def whole_number(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """Return a type for integers in a range."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if value < lowest or (highest is not None and value > highest):
            limits = f"at least {lowest}" if highest is None else f"between {lowest} and {highest}"
            raise argparse.ArgumentTypeError(f"must be {limits}; got {value}")
        return value

    return parse


def number(lowest: float, above: bool = False) -> Callable[[str], float]:
    """Return a type for finite numbers, at least (or, if `above`, more than) `lowest`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
        if not lowest <= value < float("inf") or (above and value == lowest):
            raise argparse.ArgumentTypeError(f"must be {'more than' if above else 'at least'} {lowest:g}; got {text}")
        return value

    return parse


def add_flag(parser, name: str, help: str) -> None:
    """Add an option that is false unless given, alone or with True or False behind it."""
    parser.add_argument(name, type=truth, nargs="?", const=True, default=False, metavar="True|False", help=help)


SEED = whole_number(0, 2**32 - 1)


def _model_name(text: str) -> str:
    return MODEL_ALIASES.get(text, text)


def add_model_options(parser) -> None:
    """Add what decides the architecture."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        type=_model_name,
        choices=list(MODELS),
        default="UIQA",
        help="UIQA: three branches; SwinT (or Model_SwinT): one trunk on the aesthetic view, for pre-training on AVA",
    )
    group.add_argument(
        "--backbone",
        default="swin_t",
        metavar="NAME",
        help=f"trunk of every branch: {', '.join(SWIN_CONFIGS)} (torchvision's; swin_nano is for CPUs) or timm:<name>",
    )


def add_view_options(parser) -> None:
    """Add what decides how a photograph is cut."""
    spec = ViewSpec()
    side = whole_number(1)
    group = parser.add_argument_group("views (all in pixels)")
    group.add_argument(
        "--resize", type=side, default=spec.resize, help="short side of the aesthetic view before its crop"
    )
    group.add_argument("--crop_size", type=side, default=spec.crop_size, help="side of the aesthetic view")
    group.add_argument(
        "--n_fragment",
        type=side,
        default=spec.n_fragment,
        help=f"mini-patches of {spec.patch_size} pixels along each side of the distortion view",
    )
    group.add_argument(
        "--salient_patch_dimension", type=side, default=spec.salient_patch_dimension, help="side of the salient view"
    )
    group.add_argument(
        "--saliency",
        choices=METHODS,
        default=spec.saliency,
        help="where the salient view is cut: center, as in the released weights, or by the spectral residual",
    )
    add_max_pixels(group)


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
        views=MODELS[options.model].view_names,
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
    group.add_argument("--image_column", default="image", help="csv: column of the file names")
    group.add_argument("--mos_column", default="mos", help="csv: column of the opinions")
    group.add_argument("--split_column", default="split", help="csv: column of train, val, test; need not be there")
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
        help="processes that decode images while the network works; 0 decodes in turn with it",
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

    group = parser.add_argument_group("training")
    group.add_argument(
        "--num_epochs", type=whole_number(1), default=100, metavar="N", help="passes over the training images"
    )
    group.add_argument(
        "--batch_size", type=whole_number(1), default=12, metavar="N", help="pairs a step: 12 pairs are 24 images"
    )
    group.add_argument("--lr", type=number(0, above=True), default=1e-5, help="learning rate of Adam")
    group.add_argument("--weight_decay", type=number(0), default=1e-7, help="weight decay of Adam")
    group.add_argument("--decay_interval", type=whole_number(1), default=10, metavar="N", help="epochs between decays")
    group.add_argument(
        "--decay_ratio", type=number(0, above=True), default=0.9, help="factor of the learning rate's decay"
    )
    group.add_argument("--lr_weight_L2", type=number(0), default=0.1, help="weight of the squared errors in the loss")
    group.add_argument("--lr_weight_pair", type=number(0), default=1.0, help="weight of the fidelity loss of pairs")
    group.add_argument(
        "--mos_scale",
        choices=("none", "standardise"),
        default="none",
        help="opinions the loss sees: as they are (the paper), or less the training mean and over the s.d.; scores are "
        "on the data set's scale either way. UHD-IQA's opinions (s.d. 0.046) leave the fidelity loss almost flat",
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
    add_flag(group, "--multi_gpu", "use all visible GPUs with DataParallel")

    group = parser.add_argument_group("run")
    group.add_argument(
        "--run", metavar="NAME", help="name of the run (default: the config's stem, else <model>_<database>)"
    )
    group.add_argument("--snapshot", default="ckpts", metavar="DIR", help="DIR/<run>/ receives last.pth and best.pth")
    group.add_argument("--logdir", default="logfiles", metavar="DIR", help="DIR/<run>/ receives history and options")
    add_flag(group, "--overwrite", "replace the checkpoints of an earlier run of this name")
    group.add_argument(
        "--print_samples", type=whole_number(1), default=50, metavar="N", help="steps between two lines of log"
    )
    add_compute_options(parser)
    return parser


def run_name(options: argparse.Namespace) -> str:
    """Return the run's name: given, else the config's stem, else <model>_<database>."""
    if options.run:
        return options.run
    return Path(options.config).stem if options.config else f"{options.model}_{options.database}"
