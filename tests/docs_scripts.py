"""Load the scripts under docs/, and parse the commands that they print, for several test files."""

import importlib.util
import shlex
import sys
from pathlib import Path
from types import ModuleType

import prepare
import test as test_entry
from utils.training.options import train_parser

DOCS = Path(__file__).parent.parent / "docs"
PARSERS = {
    "train.py": train_parser,
    "test.py": test_entry.test_parser,
    "prepare.py": lambda: prepare.prepare_parser()[0],
}


def load_script(name: str) -> ModuleType:
    """Import docs/<name>.py, which like every script finds the modules beside it."""
    if str(DOCS) not in sys.path:
        sys.path.append(str(DOCS))
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def parse_command(command: str) -> None:
    """Parse a command line of train.py, test.py or prepare.py; the parser's error if it cannot be."""
    name, *arguments = shlex.split(command)
    PARSERS[name]().parse_args(arguments)
