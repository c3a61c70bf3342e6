"""Command lines and configs: one parser for both, types that check values, errors in one line."""

import argparse
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch
import yaml

from data.decode import EXTENSIONS, ImageError
from data.files import one_line, printable, printable_lines
from data.packed import PackError
from data.tables import TableError
from models.imagenet import WeightsError
from utils.errors import (
    EXIT_INTERRUPTED,
    EXIT_UNEXPECTED,
    EXIT_UNUSABLE_INPUT,
    CheckpointError,
    RunError,
    cause_and_remedy,
)
from utils.progress import escape_what_stdout_cannot_show
from utils.workers import worker_failures

WEIGHTS_EXTENSIONS = (".pth", ".pt", ".safetensors", ".onnx", ".npy", ".npz")
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@contextmanager
def closed_pipes_ignored() -> Iterator[None]:
    """Go on without standard output if what reads it, such as `head`, has closed it."""
    try:
        yield
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = None  # otherwise Python reports it again when it flushes


def entry_point(main: Callable) -> Callable:
    """Turn errors that the user can correct into one line on standard error and an exit code."""

    @functools.wraps(main)
    def wrapped(args: Sequence[str] | None = None) -> int:
        escape_what_stdout_cannot_show()
        try:
            with worker_failures():
                return main(args)
        except (TableError, ImageError, PackError, CheckpointError, WeightsError, RunError) as error:
            print(f"error: {printable_lines(error)}", file=sys.stderr)
            return EXIT_UNUSABLE_INPUT
        except BrokenPipeError:  # the reader of a pipe has closed it, `| head` for example
            sys.stdout = None  # otherwise Python reports it again when it flushes
            return 0
        except torch.OutOfMemoryError:
            remedy = "use a smaller --batch_size; in training also --accumulate N or --amp bf16"
            print(f"error: the GPU is out of memory: {remedy}", file=sys.stderr)
            return EXIT_UNUSABLE_INPUT
        except OSError as error:
            name = printable(error.filename or "input or output")
            print(f"error: {name}: {cause_and_remedy(error)}", file=sys.stderr)
            return EXIT_UNUSABLE_INPUT
        except KeyboardInterrupt as interrupt:  # its message, if there is one, says what was saved
            print(f"interrupted: {printable(interrupt)}" if interrupt.args else "interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                if args is not None:  # called from Python
                    raise
                traceback.print_exc()
                return EXIT_UNEXPECTED
            first_line = str(error).strip().partition("\n")[0] or type(error).__name__
            print(f"error: torch.compile failed ({first_line}); leave out --compile", file=sys.stderr)
            return EXIT_UNUSABLE_INPUT

    return wrapped


@contextmanager
def usage_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Report a ValueError, raised by a constructor that checks option values, as the parser's own error."""
    try:
        yield
    except (TableError, ImageError, PackError, CheckpointError):
        raise
    except ValueError as error:
        parser.error(str(error))


class _HelpFormatter(argparse.HelpFormatter):
    """Adds the default to the help of options that have one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is None or action.default is False or not action.option_strings or action.nargs == 0:
            return action.help
        return f"{action.help} (default: %(default)s)"


class _Parser(argparse.ArgumentParser):
    """Prints an error as one line instead of below a page of usage."""

    def error(self, message: str) -> NoReturn:
        message = printable(" ".join(message.split()))
        message = message if len(message) <= 2000 else message[:2000] + " ..."
        self.exit(EXIT_UNUSABLE_INPUT, f"{self.prog}: error: {message} (see --help)\n")


def make_parser(description: str, **options) -> argparse.ArgumentParser:
    """Return an empty parser without abbreviations, with defaults in the help and errors in one line."""
    return _Parser(description=description, allow_abbrev=False, formatter_class=_HelpFormatter, **options)


def parse_options(
    parser: argparse.ArgumentParser,
    args: Sequence[str] | None = None,
    config_parser: argparse.ArgumentParser | None = None,
) -> argparse.Namespace:
    """Parse a command line, with the entries of its `--config` file placed before it.

    Each entry of the file becomes a `--key=value` token, so a misspelt key or a wrong value is the parser's error, and
    the command line wins.

    Args:
        parser: of the entry point; without a `--config` option there is no file.
        args: the command line; `sys.argv[1:]` if None.
        config_parser: the parser that configs are written for, if it is another one: keys that only it knows are
            checked and ignored.
    """
    args = _with_explicit_flags(parser, list(sys.argv[1:] if args is None else args))
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    config = finder.parse_known_args(args)[0].config if "--config" in _known_options(parser) else None
    if config is None:
        return _parse(parser, args)

    tokens = _config_tokens(Path(config), parser)
    checker = config_parser or parser
    name, checker.prog = checker.prog, f"{parser.prog}: {config}"  # so that the error names the file
    checker.parse_args(tokens)
    checker.prog = name
    known = _known_options(parser)
    return parser.parse_args([token for token in tokens if token.split("=")[0] in known] + args)


def _with_explicit_flags(parser: argparse.ArgumentParser, args: list[str]) -> list[str]:
    """Write `--flag` as `--flag=True` unless a boolean follows, so that a flag takes no photograph for its value."""
    flags = {option for action in parser._actions if action.nargs == "?" for option in action.option_strings}
    following = [*args[1:], ""]
    return [
        f"{token}=True" if token in flags and next_token.lower() not in BOOLEANS else token
        for token, next_token in zip(args, following, strict=False)
    ]


def _parse(parser: argparse.ArgumentParser, args: list[str]) -> argparse.Namespace:
    """Parse arguments; a list of positional arguments may have options between its entries."""
    if any(action.nargs == "+" and not action.option_strings for action in parser._actions):
        # parse_intermixed_args takes what follows "--" for options, so paths that look like one get a folder.
        if "--" in args:
            end = args.index("--")
            args = args[:end] + [os.path.join(".", path) if path[:1] == "-" else path for path in args[end + 1 :]]
        return parser.parse_intermixed_args(args)
    return parser.parse_args(args)


def _known_options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def _config_tokens(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """Return a YAML file's entries as command-line tokens."""
    try:
        # BaseLoader leaves every value a string: `amp: off` stays a word, and types are argparse's business alone.
        entries = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:  # RecursionError: deep nesting
        parser.error(f"--config {path}: cannot be read: {one_line(error)}")
    if not isinstance(entries or {}, dict):
        parser.error(f"--config {path}: must hold `option: value` lines")
    if "config" in (entries or {}):
        parser.error(f"--config {path}: config: a config cannot name another config")
    for key, value in (entries or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            parser.error(f"--config {path}: {key}: must be one plain value")
    return [f"--{key}={value}" for key, value in (entries or {}).items()]


def boolean(text: str) -> bool:
    """Return the boolean that a text means; `type=bool` would take every text, "False" included, for true."""
    if text.lower() not in BOOLEANS:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return BOOLEANS[text.lower()]


def integer(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """Return a type for integers in a range."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None
        if value < lowest or (highest is not None and value > highest):
            limits = f"at least {lowest}" if highest is None else f"between {lowest} and {highest}"
            raise argparse.ArgumentTypeError(f"must be {limits}; got {value}")
        return value

    return parse


def number(lowest: float, above: bool = False, below: float = float("inf")) -> Callable[[str], float]:
    """Return a type for finite numbers: at least (or, if `above`, more than) `lowest`, less than `below`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not lowest <= value < below or (above and value == lowest):
            limits = f"{'more than' if above else 'at least'} {lowest:g}"
            limits += f" and less than {below:g}" if below < float("inf") else ""
            raise argparse.ArgumentTypeError(f"must be {limits}; got {text}")
        return value

    return parse


def weights(text: str) -> dict[str, float]:
    """Parse NAME=X,NAME=X to positive numbers by name: a type for argparse."""
    parsed = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.rpartition("="))
        if not name or not equals or name in parsed:
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=X,NAME=X with different names")
        parsed[name] = number(0, above=True)(value)
    return parsed


def output_file(text: str) -> str:
    """Check before the work begins that a file can be written, and make its folder. "-" is standard output."""
    path = Path(text)
    if text == "-":
        return text
    try:
        if not text or path.is_dir():
            raise argparse.ArgumentTypeError(f"{text!r} is a folder; give a file")
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise argparse.ArgumentTypeError(f"{text} is a link, a pipe or a device, not to be replaced; give a file")
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {cause_and_remedy(error)}") from None
    # A file is written under a temporary name first, so its folder must be writable, too.
    for place in (path.parent, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise argparse.ArgumentTypeError(f"{text} cannot be written: {place} is read-only; give another path")
    return text


def result_file(text: str) -> str:
    """Check that results can be written to a file, and that it is neither a photograph nor a file of weights."""
    if Path(text).suffix.lower() in (*EXTENSIONS, *WEIGHTS_EXTENSIONS):
        raise argparse.ArgumentTypeError(f"{text} has the extension of a photograph or of weights; give another name")
    output_file(text)
    if text != "-" and Path(text).exists():
        with Path(text).open("rb") as file:
            if b"\0" in file.read(4096):  # a camera's raw file, for example: not every extension is listed above
                raise argparse.ArgumentTypeError(f"{text} is not a text file; give another name")
    return text


def table_file(text: str) -> str:
    """Check that a table can be written to a file."""
    if text == "-":
        raise argparse.ArgumentTypeError("give a file; predict.py writes to standard output with --json -")
    return result_file(text)


def page_file(text: str) -> str:
    """Check that an HTML page can be written to a file."""
    if Path(text).suffix.lower() not in (".html", ".htm"):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a page; give FILE.html")
    return result_file(text)


def make_folder(path: str | os.PathLike) -> Path:
    """Make a folder for results if it does not exist.

    Raises:
        RunError: it cannot be made or written to.
    """
    if not os.fspath(path):
        raise RunError("the name of a folder for results is empty")
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: the folder cannot be made: {cause_and_remedy(error)}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise RunError(f"{path}: the folder is read-only; change its permissions, or give another folder")
    return path


def file_name(text: str) -> str:
    """Check that a run's name can be the name of a folder."""
    if not text or text.startswith(".") or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be a run's name: it becomes the name of a folder")
    return text


def add_flag(parser, name: str, help: str) -> None:
    """Add an option that is False unless given, alone or followed by True or False."""
    parser.add_argument(name, type=boolean, nargs="?", const=True, default=False, metavar="True|False", help=help)


def list_first(parser: argparse.ArgumentParser, title: str, options: Sequence[str]) -> None:
    """Move options into a group of their own at the top of the help."""
    group = parser.add_argument_group(title)
    actions = {option: action for action in parser._actions for option in action.option_strings}
    for other in parser._action_groups:
        other._group_actions = [action for action in other._group_actions if action not in map(actions.get, options)]
    group._group_actions = [actions[option] for option in options]
    parser._action_groups.remove(group)
    parser._action_groups.insert(1, group)  # after the positional arguments
