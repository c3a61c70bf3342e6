"""Files are replaced whole or not at all, and messages stay on one line."""

import csv
import errno
import fcntl
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.files import (
    csv_text,
    exclusive_lock,
    file_sha256,
    listing,
    natural_order,
    one_line,
    printable,
    printable_lines,
    replace_file,
    utf8,
    write_csv,
    write_json,
    write_text,
)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestReplaceFile:
    @pytest.mark.parametrize("old", [None, b"old"])
    def test_the_content_is_whole_and_no_temporary_file_remains(self, tmp_path, old):
        path = tmp_path / "scores.csv"
        if old is not None:
            path.write_bytes(old)
        content = bytes(range(256)) * 5000
        with replace_file(path) as unfinished:
            unfinished.write_bytes(content)
        assert path.read_bytes() == content
        assert files_in(tmp_path) == ["scores.csv"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
    @pytest.mark.parametrize("old", [None, b"old"])
    def test_if_the_block_raises_the_old_content_stays_and_no_temporary_file_remains(self, tmp_path, old, error):
        path = tmp_path / "scores.csv"
        if old is not None:
            path.write_bytes(old)

        def write_half() -> None:
            with replace_file(path) as unfinished:
                unfinished.write_bytes(b"half")
                raise error

        with pytest.raises(error):
            write_half()
        assert files_in(tmp_path) == ([] if old is None else ["scores.csv"])
        assert old is None or path.read_bytes() == old

    def test_readers_see_the_old_content_until_the_block_ends(self, tmp_path):
        path = tmp_path / "scores.csv"
        path.write_text("old")
        with replace_file(path) as unfinished:
            unfinished.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new"

    def test_the_temporary_file_is_hidden_and_in_the_same_folder(self, tmp_path):
        with replace_file(str(tmp_path / "scores.csv")) as unfinished:
            assert unfinished.parent == tmp_path
            assert unfinished.name.startswith(".")
            unfinished.touch()

    def test_a_block_that_writes_nothing_is_an_error_and_the_old_content_stays(self, tmp_path):
        path = tmp_path / "scores.csv"
        path.write_text("old")
        with pytest.raises(FileNotFoundError), replace_file(path):
            pass
        assert path.read_text() == "old"
        assert files_in(tmp_path) == ["scores.csv"]

    def test_content_and_name_are_flushed_to_the_disk_in_this_order(self, tmp_path, monkeypatch):
        synced = []

        def fsync(descriptor: int) -> None:
            synced.append(Path(f"/proc/self/fd/{descriptor}").resolve())

        monkeypatch.setattr(os, "fsync", fsync)
        with replace_file(tmp_path / "a") as unfinished:
            unfinished.touch()
        assert synced == [unfinished, tmp_path]

    def test_two_writers_of_one_file_do_not_meet(self, tmp_path):
        path = tmp_path / "scores.csv"
        with replace_file(path) as first, replace_file(path) as second:
            first.write_text("first")
            second.write_text("second")
        assert path.read_text() == "first"
        assert files_in(tmp_path) == ["scores.csv"]

    def test_the_longest_name_can_be_written(self, tmp_path):
        path = tmp_path / ("\u5199" * 85)  # 255 bytes
        write_text(path, "a")
        assert path.read_text() == "a"

    def test_an_error_names_the_file_and_not_the_temporary_one(self, tmp_path):
        def fail(path: Path, error: OSError) -> None:
            with replace_file(path) as unfinished:
                unfinished.touch()
                raise error

        with pytest.raises(OSError, match=r"No space.*a\.csv") as raised:
            fail(tmp_path / "a.csv", OSError(28, "No space left on device"))
        assert raised.value.filename == str(tmp_path / "a.csv")
        with pytest.raises(OSError, match=r"^without a number$"):
            fail(tmp_path / "a.csv", OSError("without a number"))
        with pytest.raises(FileNotFoundError) as raised:
            write_text(tmp_path / "missing" / "a.csv", "")
        assert raised.value.filename == str(tmp_path / "missing" / "a.csv")

    def test_a_folder_that_cannot_be_flushed_is_no_error(self, tmp_path, monkeypatch):
        def fail(*_arguments) -> None:
            raise OSError

        monkeypatch.setattr(os, "open", fail)
        write_text(tmp_path / "a", "é")
        assert (tmp_path / "a").read_bytes() == "é".encode()


class TestJSON:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (float("nan"), None),
            (float("-inf"), None),
            (np.float32("nan"), None),
            ([1, {"a": float("inf")}], [1, {"a": None}]),
            (np.array([1.5, np.nan]), [1.5, None]),
            (np.int64(3), 3),
            ((1, "é"), [1, "é"]),
            (None, None),
        ],
        ids=str,
    )
    def test_nan_and_infinities_become_null_and_numpy_types_plain_values(self, tmp_path, value, expected):
        write_json(tmp_path / "new" / "a.json", {"value": value})
        text = (tmp_path / "new" / "a.json").read_text(encoding="utf-8")
        assert json.loads(text, parse_constant=pytest.fail) == {"value": expected}
        assert files_in(tmp_path / "new") == ["a.json"]

    def test_a_dash_is_standard_output(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        write_json("-", {"a": 1})
        assert json.loads(capsys.readouterr().out) == {"a": 1}
        assert files_in(tmp_path) == []

    def test_a_name_that_is_no_utf8_is_written_as_an_escape_that_json_knows(self, tmp_path):
        write_json(tmp_path / "a.json", {"image": "caf\udce9.jpg"})
        assert json.loads((tmp_path / "a.json").read_bytes()) == {"image": "caf\udce9.jpg"}

    @pytest.mark.parametrize("name", ["\u5199.jpg", "caf\xe9.jpg", "\U0001f600.jpg", "caf\udce9.jpg"])
    @pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
    def test_standard_output_gets_json_in_any_encoding(self, name, encoding, monkeypatch):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
        monkeypatch.setattr(sys, "stdout", stream)
        write_json("-", {"image": name})
        stream.flush()
        assert json.loads(stream.buffer.getvalue().decode(encoding)) == {"image": name}

    def test_a_value_json_cannot_hold_leaves_the_old_file(self, tmp_path):
        (tmp_path / "a.json").write_text("old")
        with pytest.raises(TypeError):
            write_json(tmp_path / "a.json", {"a": object()})
        assert (tmp_path / "a.json").read_text() == "old"
        assert files_in(tmp_path) == ["a.json"]


@pytest.mark.parametrize("as_frame", [False, True])
def test_a_csv_file_has_the_rows_and_no_index(tmp_path, as_frame):
    rows = [{"image": "a, b.jpg", "score": 0.5}, {"image": "c.jpg", "score": 0.25}]
    write_csv(tmp_path / "new" / "a.csv", pd.DataFrame(rows, index=[5, 6]) if as_frame else rows)
    assert pd.read_csv(tmp_path / "new" / "a.csv").to_dict("records") == rows


ODD_NAMES = [
    *(
        "a\nb.jpg",
        "cr\rx.jpg",
        "crlf\r\n.jpg",
        "a,b.jpg",
        'q"uote.jpg',
        "'s.jpg",
        "=1+1.jpg",
        " lead.jpg",
        "trail .jpg",
    ),
    *(
        "tab\there.jpg",
        "\x1b[31mred.jpg",
        "\u202egpj.exe.jpg",
        "\u5199\u771f.jpg",
        "#h.jpg",
        "a\x0b\x0c\x1c\x85\u2028b.jpg",
    ),
]


def test_odd_names_do_not_split_a_row_of_a_csv(tmp_path):
    write_csv(tmp_path / "a.csv", pd.DataFrame({"image": ODD_NAMES, "score": np.arange(len(ODD_NAMES)) / 3}))
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert [row["image"] for row in csv.DictReader(file, strict=True)] == ODD_NAMES
    read = pd.read_csv(tmp_path / "a.csv", converters={"score": float})  # pandas 2 itself is less exact
    assert read["image"].tolist() == ODD_NAMES
    assert read["score"].tolist() == (np.arange(len(ODD_NAMES)) / 3).tolist()


def test_a_csv_is_written_as_pandas_would():
    table = pd.DataFrame(
        {"a": [1, 2], "b": [0.1, float("nan")], "c": ["x", None], "d": [True, False], "e": [1e-7, 1e22]}
    )
    assert csv_text(table) == table.to_csv(index=False)
    assert csv_text(table, header=False) == table.to_csv(index=False, header=False)
    assert csv_text(table[:0]) == table[:0].to_csv(index=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\r", r"a\nb\r"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202egpj", r"\u202egpj"),
        ("\u2028\x85", r"\u2028\x85"),
        ("caf\udce9", r"caf\udce9"),
        ("caf\xe9 \u5199\u3000\U0001f600 C:\\new", "caf\xe9 \u5199\u3000\U0001f600 C:\\new"),
        (Path("a\tb"), r"a\tb"),
    ],
)
def test_a_name_is_shown_on_one_line_and_letters_stay_letters(text, expected):
    assert printable(text) == expected
    assert printable(expected) == expected


def test_a_text_of_several_lines_keeps_them():
    assert printable_lines("a\x1b\nb") == "a\\x1b\nb"


def test_bytes_that_are_no_utf8_become_escapes_and_other_text_stays():
    assert utf8(os.fsdecode(b"caf\xe9.jpg")) == r"caf\udce9.jpg"
    assert utf8("caf\xe9\n\u5199") == "caf\xe9\n\u5199"


class TestOneLine:
    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (ValueError("a\n  b\tc"), "a b c"),
            (FileNotFoundError(2, "No such file or directory", "a.jpg"), "No such file or directory"),
            (OSError("broken\nstream"), "broken stream"),
            (KeyError(), "KeyError"),
            (ValueError(" \n"), "ValueError"),
            (MemoryError(), "MemoryError"),
        ],
        ids=repr,
    )
    def test_it_is_the_message_the_systems_reason_or_the_type_on_one_line(self, error, expected):
        assert one_line(error) == expected

    def test_a_long_message_is_cut(self):
        assert one_line(ValueError("x" * 1000), max_length=10) == "x" * 10 + " ..."


class TestListing:
    def test_a_few_names_are_listed_in_full_and_the_rest_counted(self):
        assert listing(["a", "b"]) == "a, b"
        assert listing([]) == ""
        assert listing([f"{n}.jpg" for n in range(12)], shown=2) == "0.jpg, 1.jpg and 10 more"

    def test_names_are_shortened_and_stay_on_one_line(self):
        assert listing(["x" * 500], max_length=5) == "xxxxx..."
        assert listing(["a\nb"]) == r"a\nb"

    @pytest.mark.parametrize("names", [np.array([1, 2]), pd.Series([1, 2], index=[7, 8]), {1: "a", 2: "b"}, (1, 2)])
    def test_any_collection_of_names_can_be_listed(self, names):
        assert listing(names) == "1, 2"


def test_numbers_in_names_are_ordered_by_value():
    names = ["a1b2.jpg", "a1b10.jpg", "a02.jpg", "a10.jpg", "1.jpg", "2.jpg", "10.jpg", "a.jpg"]
    ordered = sorted(random.Random(0).sample(names, len(names)), key=natural_order)
    assert ordered == sorted(names, key=natural_order)
    for smaller, larger in (("1.jpg", "2.jpg"), ("2.jpg", "10.jpg"), ("a1b2.jpg", "a1b10.jpg"), ("a02.jpg", "a10.jpg")):
        assert ordered.index(smaller) < ordered.index(larger)


def test_a_checksum_depends_only_on_the_content(tmp_path):
    for name, content in (("a", b"x" * 3_000_000), ("b", b"x" * 3_000_000), ("c", b"x" * 2_999_999 + b"y")):
        (tmp_path / name).write_bytes(content)
    assert file_sha256(tmp_path / "a") == file_sha256(tmp_path / "b") != file_sha256(tmp_path / "c")


class TestExclusiveLock:
    def test_a_second_one_is_refused_until_the_first_is_closed(self, tmp_path):
        with exclusive_lock(tmp_path / ".lock"), pytest.raises(BlockingIOError):
            exclusive_lock(tmp_path / ".lock")
        exclusive_lock(tmp_path / ".lock").close()

    def test_a_killed_process_releases_it(self, tmp_path):
        """Although a child that it forked, such as a data worker, lives on."""
        code = (
            "import os, sys, time; from data.files import exclusive_lock\n"
            "lock = exclusive_lock(sys.argv[1])\n"
            "if not os.fork(): print(os.getpid(), flush=True)\n"
            "time.sleep(60)"
        )
        words = [sys.executable, "-c", code, str(tmp_path / ".lock")]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
            child = int(process.stdout.readline())
            try:
                with pytest.raises(BlockingIOError):
                    exclusive_lock(tmp_path / ".lock")
                process.kill()
                process.wait()
                os.kill(child, 0)  # it lives
                exclusive_lock(tmp_path / ".lock").close()
            finally:
                os.kill(child, 9)

    def test_a_file_that_its_owner_deletes_meanwhile_is_made_again(self, tmp_path, monkeypatch):
        path, flock, deletions = tmp_path / ".lock", fcntl.flock, []

        def flock_late(file, flags) -> None:
            if len(deletions) < 2:
                deletions.append(path.unlink())
            if len(deletions) == 2:
                path.touch()
            flock(file, flags)

        monkeypatch.setattr("fcntl.flock", flock_late)
        with exclusive_lock(path) as file:
            assert len(deletions) == 2
            assert os.path.samestat(os.fstat(file.fileno()), path.stat())
            with pytest.raises(BlockingIOError):
                exclusive_lock(path)

    def test_a_share_that_calls_it_a_permission_is_understood(self, tmp_path, monkeypatch):
        def refuse(file, flags) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr("fcntl.flock", refuse)
        with pytest.raises(BlockingIOError):
            exclusive_lock(tmp_path / ".lock")

    def test_where_nothing_can_be_locked_it_is_an_open_file(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "fcntl", None)
        with exclusive_lock(tmp_path / ".lock"):
            exclusive_lock(tmp_path / ".lock").close()
        monkeypatch.undo()
        monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(38, "Function not implemented")))
        exclusive_lock(tmp_path / ".lock").close()
