"""Files are replaced whole or not at all, and messages stay on one line."""

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
    exclusive_lock,
    file_sha256,
    listing,
    natural_order,
    one_line,
    replace_file,
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
        assert listing(["a\nb"]) == r"'a\nb'"

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
            "child = os.fork()\n"
            "if child: print(child, flush=True)\n"
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

    def test_where_nothing_can_be_locked_it_is_an_open_file(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "fcntl", None)
        with exclusive_lock(tmp_path / ".lock"):
            exclusive_lock(tmp_path / ".lock").close()
        monkeypatch.undo()
        monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(38, "Function not implemented")))
        exclusive_lock(tmp_path / ".lock").close()
