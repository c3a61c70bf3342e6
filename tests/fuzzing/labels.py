"""Hostile label files: of every kind that is read, with unsound fields, rows, columns and encodings."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fuzzing.mutations import BLIND, UnexpectedError, check_message, pick, rearrange

LABEL_VALUES = (
    *("", "nan", "inf", "-inf", "1e400", "-1", "0", "True", "NULL", "0x10", "1,5"),
    *('"', '"""', "'", ";", "\t", "\0", "\r", "9" * 5000, "x" * 200_000),
    *("../../../etc/passwd", "/etc/passwd", "a/" + "x" * 5000, "a\0b.jpg", "a/b\0.jpg"),
    *("é", "\u202e", "\ufeff", "\u2028", "=1+1", "training", "VALIDATION ", "test", "elsewhere"),
    *("0.jpg", "1.5", "1.0", "[]", "\x1b[31m"),
)


def _tables() -> dict[str, list[str]]:
    """Return the lines of a sound label file of every kind; the images are called as `Labels` has made them."""
    sets = ["training"] * 6 + ["validation"] * 3 + ["test"] * 3
    uhd = [f"{index}.jpg,u{index % 3},{0.4 + index / 50},{sets[index]}" for index in range(12)]
    votes = " ".join(["7"] * 10)
    return {
        "UHD_IQA": ["image_name,user_name,quality_mos,set", *uhd],
        "AVA csv": [
            "image_num," + ",".join(f"vote_{rating}" for rating in range(1, 11)),
            *[f"{index}," + votes.replace(" ", ",") for index in range(12)],
        ],
        "AVA": [f"{index + 1} {index} {votes} 1 2 3" for index in range(12)],
        "csv": ["image,mos,split,owner", *[f"{index}.jpg,{index},{sets[index]},o{index % 4}" for index in range(12)]],
    }


def hostile_labels(kind: str, lines: list[str]) -> list[tuple[str, bytes]]:
    """Return attacks on label files of a kind, given the lines of a sound one."""
    header, *rows = lines
    text = "\n".join(lines)
    separator = " " if kind == "AVA" else ","
    doubled = [separator.join([line, *line.split(separator)[-2:]]) for line in lines]
    ended = [line + separator for line in rows]
    long = "x" * 2_000_000
    folder = "a/" + "x" * 5000
    return [
        ("nothing", b""),
        ("the header alone", header.encode()),
        ("no opinion", (header + "\n").encode() * 5),
        ("nothing but NULs", bytes(5000)),
        ("NULs between rows", text.replace("\n", "\n\0").encode()),
        ("columns there twice", "\n".join(doubled).encode()),
        ("more fields than the header has", "\n".join([header, *doubled[1:]]).encode()),
        ("rows that end in a separator", "\n".join([header, *ended]).encode()),
        ("UTF-16", text.encode("utf-16")),
        ("Latin-1", text.replace("0", "é").encode("latin-1")),
        ("a field without end", f'{text}\n"{long}'.encode()),
        ("a field of two million letters", f"{text}\n{separator.join([long] * 4)}".encode()),
        ("a thousand thousand separators", (separator * 1_000_000).encode()),
        ("a row of a million fields", f"{header}\n{separator.join('1' * 1_000_000)}".encode()),
        ("a column of ten thousand names", f"{separator.join(map(str, range(10_000)))}\n1".encode()),
        ("a name that no folder can hold", f"{text}\n{rows[-1].replace('11', folder)}".encode()),
        ("a zip", b"PK\3\4" + text.encode()),
        *(
            (f"opinions of {opinion[:9]}", re.sub(r"\b(0\.\d+|7)\b", opinion, text).encode())
            for opinion in ("inf", "nan", "1e999", "1" * 400)
        ),
    ]


class Labels:
    """`load_table` of every file."""

    def __init__(self, folder: Path):
        from data.tables import LabelTable, TableError, load_table

        self.refusal, self.table, self.load = TableError, LabelTable, load_table
        self.folder = folder / "images"
        self.folder.mkdir()
        for index in range(12):
            (self.folder / f"{index}.jpg").touch()
        self.sound = _tables()
        self.hostile = [
            (name, kind, content) for kind, lines in self.sound.items() for name, content in hostile_labels(kind, lines)
        ]

    def file(self, number: int) -> tuple[str, bytes]:
        """Return the kind and the content of a number's file."""
        if number < len(self.hostile):
            return self.hostile[number][1:]
        generator = np.random.default_rng([3, number])
        kind = pick(generator, tuple(self.sound))
        separator = " " if kind == "AVA" else ","
        rows = [line.split(separator) for line in self.sound[kind]]
        for _ in range(int(generator.integers(1, 4))):
            rows = _mutate_rows(generator, rows)
        content = pick(generator, ("\n", "\n", "\n", "\r\n", "\r")).join(separator.join(row) for row in rows)
        content = content.encode(pick(generator, ("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-7")), "surrogatepass")
        return kind, pick(generator, BLIND)(generator, content) if generator.random() < 0.3 else content

    def prepare(self, number: int) -> Callable[[], str]:
        kind, content = self.file(number)
        path = self.folder / "labels.csv"
        path.write_bytes(content)
        options = {
            "splits": ("train", "val", "test") if number % 4 == 0 and "AVA" not in kind else ("train", "val"),
            "skip_missing": number % 3 == 0,
            "split_by": {1: "owner", 3: "user_name"}.get(number % 5),
            "random_seed": number,
        }

        def attempt() -> str:
            try:
                table = self.load(kind.split()[0], self.folder, metadata=path, **options)
            except self.refusal as error:
                check_message(error, f"{path}: ", anywhere=True)
                return "error"
            frame = table.frame
            if not isinstance(table, self.table) or not {"image", "mos", "split", "path"} <= set(frame):
                raise UnexpectedError(f"{type(table)} without its columns")
            asked = frame[frame["split"].isin(options["splits"])]
            if not np.isfinite(frame["mos"]).all() or frame["image"].duplicated().any() or asked["path"].isna().any():
                raise UnexpectedError("a table with opinions that are no numbers, double images or none")
            numbered = frame.index.is_unique and frame.index.dtype.kind == "i"
            if not numbered or not set(frame["split"]) <= {"train", "val", "test"}:
                raise UnexpectedError("a table with rows of the same number, or of no split")
            if any(table.split(split).empty for split in options["splits"]):
                raise UnexpectedError("a table with an empty split")
            return "result"

        return attempt


def _mutate_rows(generator: np.random.Generator, rows: list[list[str]]) -> list[list[str]]:
    """Change a field, or delete, double and move rows or columns."""
    rows = [list(row) for row in rows if row] or [["x"]]
    action = int(generator.integers(6))
    row = pick(generator, rows)
    column = int(generator.integers(len(row)))
    if action <= 1:
        row[column] = pick(generator, LABEL_VALUES)
    elif action == 2:
        row[column:column] = [pick(generator, LABEL_VALUES) for _ in range(int(generator.integers(1, 4)))]
    elif action == 3:
        rows = rearrange(generator, rows)
    elif action == 4:
        for one in rows:
            one.append(one[column % len(one)])
    else:
        for one in rows:
            if len(one) > column:
                del one[column]
    return rows
