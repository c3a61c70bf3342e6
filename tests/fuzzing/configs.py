"""Hostile YAML files of options: bombs of anchors, deep nests, odd encodings, and unsound keys and values."""

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fuzzing.mutations import BLIND, ROOT, UnexpectedError, pick, rearrange

CONFIG_VALUES = (
    *("", "nan", "inf", "-1", "0", "1e999", "9" * 5000, "yes", "off", "null", "~", "~:"),
    *("[1, 2]", "{a: 1}", "|", ">", "- a", "&a [*a]", "&a 3", "*a", "*nothing"),
    *("!!python/object/apply:os.system ['x']", "!!binary x", "!!int x", "!x y", "? a"),
    *("'", '"', '"\\x00"', '"a\\nb"', '"\\u2028"', '"\\ud800"', "\t", "%", "@", "`"),
    *("\x00", "\x1b[31m", "é" * 9, "x" * 50_000),
)


def laughs(first: str, later: str) -> str:
    """Return forty anchors: each but the first holds the one before, for which * stands, several times."""
    lines = [f"a{n}: &a{n} {later.replace('*', f'*a{n - 1}')}" for n in range(1, 40)]
    return "\n".join([f"a0: &a0 {first}", *lines])


def hostile_configs() -> list[tuple[str, bytes]]:
    """Return attacks that chance would hardly find."""
    lists = laughs("[x, x]", f"[{', '.join('*' * 9)}]")
    nests = []
    for depth in (500, 20_000):
        nests += [
            (f"{depth} brackets", b"lr: " + b"[" * depth),
            (f"{depth} closed brackets", b"lr: " + b"[" * depth + b"]" * depth),
            (f"{depth} braces", b"lr: " + b"{a: " * depth),
            (f"{depth} sequences", b"- " * depth + b"x"),
        ]
    return [
        ("a billion laughs", lists.encode()),
        ("a billion laughs as a key", f"{lists}\n? *a39\n: x".encode()),
        ("a billion laughs of mappings", laughs("{x: x}", "{p: *, q: *}").encode()),
        ("a billion laughs merged", laughs("{x: x}", "{<<: [*, *]}").encode()),
        ("an anchor within itself", b"&a [*a]"),
        ("an anchor that is its own key", b"&a {*a : x}"),
        *nests,
        ("steps of a thousand lines", "\n".join(" " * n + "a:" for n in range(1000)).encode()),
        ("NUL", b"lr: 1\0"),
        ("nothing but NULs", bytes(1000)),
        ("UTF-16", "lr: 0.5\n".encode("utf-16")),
        ("UTF-32", "lr: 0.5\n".encode("utf-32")),
        ("Latin-1", "run: é\n".encode("latin-1")),
        ("a mark of byte order", b"\xef\xbb\xbflr: 0.5\n"),
        ("a lone surrogate", b"run: \xed\xa0\x80\n"),
        ("two documents", b"lr: 0.5\n---\nlr: 0.5\n"),
        ("a call", b"!!python/object/apply:os.system ['touch x']\n"),
        ("a call as a value", b"run: !!python/object/apply:os.system ['touch x']\n"),
        ("lines in a key", b'"lr\\nof": 1\n'),
        ("lines in a value", b'model: "UIQA\\nSwinT"\nlearning: "a\\nb"\n'),
        ("lines of other kinds in a value", b'learning: "a\\rb\\Lc\\Pd\\Ne\\x0bf"\n'),
        ("an empty key", b'"": x\n'),
        ("the help", b"help: \n"),
        ("the help as a flag", b'"help": "True"\n'),
        ("another config", b"config: other.yaml\n"),
        ("another config, hidden", b'"config=other.yaml": x\n'),
        ("ten thousand keys", b"".join(b"k%d: v\n" % n for n in range(2_000))),
        ("a key there twice", b"lr: 1\nlr: 2\n"),
        ("a long value", b"model: " + b"x" * 1_000_000),
        ("a number of many digits", b"batch_size: " + b"9" * 10_000),
    ]


class Configs:
    """`parse_options` of every YAML file, with the parser of train.py."""

    def __init__(self, folder: Path):
        from utils.command_line import parse_options
        from utils.training.options import train_parser

        self.parse, self.parser = parse_options, train_parser
        self.folder = folder
        self.sound = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "configs").glob("*.yaml"))]
        self.names = sorted(action.dest for action in train_parser()._actions)
        self.hostile = hostile_configs()

    def content(self, number: int) -> bytes:
        """Return the file of a number."""
        if number < len(self.hostile):
            return self.hostile[number][1]
        generator = np.random.default_rng([4, number])
        lines = pick(generator, self.sound).split("\n")
        for _ in range(int(generator.integers(1, 5))):
            lines = self._mutated(generator, lines) or [""]
        content = "\n".join(lines).encode(pick(generator, ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16")))
        return pick(generator, BLIND)(generator, content) if content and generator.random() < 0.4 else content

    def _mutated(self, generator: np.random.Generator, lines: list[str]) -> list[str]:
        lines = list(lines)
        at = int(generator.integers(len(lines)))
        value = pick(generator, CONFIG_VALUES)
        action = int(generator.integers(5))
        if action == 0:
            lines[at] = re.sub(r": .*", lambda _: f": {value}", lines[at])
        elif action == 1:
            lines.insert(at, f"{pick(generator, self.names)}: {value}")
        elif action == 2:
            lines.insert(at, f"{value}: {pick(generator, CONFIG_VALUES)}")
        elif action == 3:
            lines[at] = " " * int(generator.integers(1, 9)) + lines[at]
        else:
            lines = rearrange(generator, lines)
        return lines

    def prepare(self, number: int) -> Callable[[], str]:
        path = self.folder / "run.yaml"
        path.write_bytes(self.content(number))

        def attempt() -> str:
            parser, printed = self.parser(), io.StringIO()
            try:
                with contextlib.redirect_stderr(printed):
                    options = self.parse(parser, ["--config", str(path)])
            except SystemExit as stop:
                said = printed.getvalue()
                if stop.code != 2 or len(said.splitlines()) != 1 or not said.endswith("\n") or len(said) > 3000:
                    raise UnexpectedError(f"exit code {stop.code}, {len(said)} letters said: {said[:500]!r}") from None
                if str(path) not in said:
                    raise UnexpectedError(f"the file is not named: {said[:500]!r}") from None
                return "error"
            if not set(self.names) - {"help"} <= set(vars(options)):
                raise UnexpectedError("options are missing")
            return "result"

        return attempt
