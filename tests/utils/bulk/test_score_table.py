"""A CSV that grows while photographs are scored: nothing is lost, nothing is scored twice, nothing is mixed."""

import errno
import os
import random
from pathlib import Path

import pandas as pd
import pytest

from data.files import exclusive_lock, utf8
from utils.bulk.score_table import ScoreTable
from utils.errors import RunError

SETTINGS = {"checkpoint": "with the SHA-256 ab", "fragment_draws": 1}
BATCHES = [
    ["a.jpg", "b\n\n.jpg", "c\r.jpg"],
    ["\u00e9\u5199.jpg", 'quote",.jpg', " lead.jpg"],
    ["caf\udce9.jpg", "=1.jpg"],
]
IMAGES = [image for batch in BATCHES for image in batch]


def rows(*images: str) -> pd.DataFrame:
    values = [0.1 + IMAGES.index(image) / 3 for image in images]
    errors = [f"{image}: broken" if "quote" in image else None for image in images]
    return pd.DataFrame({"image": list(map(utf8, images)), "score": values, "quality": float("nan"), "error": errors})


def score_all(path: Path, resume: bool = False, batches=BATCHES) -> pd.DataFrame:
    """Fill a table as predict.py does; batches of which a row is missing are added whole."""
    with ScoreTable(path, SETTINGS, resume) as table:
        remaining = table.remaining(IMAGES)
        for batch in batches:
            if set(batch) & set(remaining):
                assert set(batch) <= set(remaining), "part of a batch was kept"
                table.add(rows(*batch))
        return table.finish(IMAGES)


@pytest.fixture(autouse=True)
def no_commit(monkeypatch):
    """Asking git for the commit would take most of the time."""
    monkeypatch.setattr("utils.bulk.manifest.environment", dict)


@pytest.fixture
def expected(tmp_path) -> bytes:
    score_all(tmp_path / "expected.csv")
    return (tmp_path / "expected.csv").read_bytes()


def interrupt_after(path: Path, batches: int, error: type = KeyboardInterrupt, resume: bool = False) -> BaseException:
    """Add batches, then leave the table by an exception; return what came out."""

    def job() -> None:
        with ScoreTable(path, SETTINGS, resume) as table:
            for batch in BATCHES[:batches]:
                table.add(rows(*batch))
            raise error

    with pytest.raises(error) as raised:
        job()
    return raised.value


def test_the_csv_has_the_rows_in_order_and_nothing_else_remains_visible(tmp_path):
    table = score_all(tmp_path / "scores.csv", batches=BATCHES[::-1])
    read = pd.read_csv(tmp_path / "scores.csv", converters={"score": float})  # pandas 2 itself is less exact
    names = list(map(utf8, IMAGES))
    assert read["image"].tolist() == table["image"].tolist() == names
    assert read["score"].tolist() == table["score"].tolist() == rows(*IMAGES)["score"].tolist()
    assert read["error"].notna().tolist() == [name.startswith("quote") for name in names]
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["scores.csv"]


def test_rows_can_be_read_from_the_disk_as_soon_as_they_are_added(tmp_path):
    with ScoreTable(tmp_path / "scores.csv", SETTINGS) as table:
        for count, batch in enumerate(BATCHES, start=1):
            table.add(rows(*batch))
            read = pd.read_csv(tmp_path / "scores.csv.partial")
            assert len(read) == sum(map(len, BATCHES[:count]))
            assert not (tmp_path / "scores.csv").exists()


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_an_interruption_says_what_was_saved_and_resuming_equals_never_stopping(tmp_path, expected, batches):
    path = tmp_path / "scores.csv"
    message = str(interrupt_after(path, batches))
    assert f"{sum(map(len, BATCHES[:batches]))} rows are in {path}.partial" in message
    assert "--resume" in message
    score_all(path, resume=True)
    assert path.read_bytes() == expected


def test_a_file_cut_off_anywhere_resumes_to_the_same_csv(tmp_path, expected):
    path = tmp_path / "scores.csv"
    interrupt_after(path, 3)
    partial = tmp_path / "scores.csv.partial"
    content, manifest = partial.read_bytes(), (tmp_path / ".scores.csv.partial.json").read_text()
    for length in range(0, len(content) + 1, 7):
        garbage = random.Random(length).choice([b"", b"", bytes(100), b"\xff\n\n", b'"'])
        partial.write_bytes(content[:length] + garbage)
        (tmp_path / ".scores.csv.partial.json").write_text(manifest)
        path.unlink(missing_ok=True)
        score_all(path, resume=True)
        assert path.read_bytes() == expected, length


def test_rows_of_an_interrupted_job_are_not_thrown_away_unasked(tmp_path):
    interrupt_after(tmp_path / "scores.csv", 1)
    before = (tmp_path / "scores.csv.partial").read_bytes()
    with pytest.raises(RunError, match=r"scores\.csv\.partial: has 3 rows .*--resume, or delete"):
        ScoreTable(tmp_path / "scores.csv", SETTINGS)
    assert (tmp_path / "scores.csv.partial").read_bytes() == before


def test_the_rows_must_have_the_same_settings(tmp_path):
    path = tmp_path / "scores.csv"
    interrupt_after(path, 1)
    for _ in range(2):  # while it is interrupted, and when it is finished
        with pytest.raises(RunError, match="fragment_draws 1, now it is 2"):
            ScoreTable(path, SETTINGS | {"fragment_draws": 2}, resume=True)
        score_all(path, resume=True)
    with ScoreTable(path, SETTINGS | {"fragment_draws": 2}) as table:  # a new job replaces the file
        assert table.remaining(IMAGES) == IMAGES


def test_a_finished_csv_can_be_added_to_and_what_else_it_has_is_kept(tmp_path, expected):
    path = tmp_path / "scores.csv"
    with ScoreTable(path, SETTINGS) as table:
        table.add(rows(*BATCHES[1]))
        table.finish(BATCHES[1])
    with ScoreTable(path, SETTINGS, resume=True) as table:
        assert table.remaining(IMAGES) == BATCHES[0] + BATCHES[2]
        table.add(rows(*BATCHES[0]))
        assert table.finish(BATCHES[0])["image"].tolist() == BATCHES[0] + BATCHES[1]
    score_all(path, resume=True)
    assert path.read_bytes() == expected


def test_a_deleted_row_is_scored_again(tmp_path):
    score_all(tmp_path / "scores.csv")
    lines = (tmp_path / "scores.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / "scores.csv").write_bytes(b"".join(line for line in lines if not line.startswith(b"a.jpg")))
    with ScoreTable(tmp_path / "scores.csv", SETTINGS, resume=True) as table:
        assert table.remaining(IMAGES) == ["a.jpg"]


@pytest.mark.parametrize("value", ["0,5", "half", '"'])
def test_a_finished_csv_with_a_line_that_is_no_row_is_left_as_it_is(tmp_path, value):
    path = tmp_path / "scores.csv"
    names = ["a.jpg", "=1.jpg", "\u00e9\u5199.jpg"]
    with ScoreTable(path, SETTINGS) as table:
        table.add(rows(*names))
        table.finish(names)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:2], f"=1.jpg,{value},,", lines[3], ""]), encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"scores\.csv: line 3 is not a row of predict\.py; correct it, or leave out"):
        ScoreTable(path, SETTINGS, resume=True)
    assert path.read_bytes() == before
    assert not (tmp_path / "scores.csv.partial").exists()


@pytest.mark.parametrize("content", ["", "picture,mos\n", "image;error\n"])
def test_a_csv_of_another_origin_is_not_added_to(tmp_path, content):
    path = tmp_path / "scores.csv"
    path.write_text(content)
    with pytest.raises(RunError, match=r"origin.*leave out --resume"):
        ScoreTable(path, SETTINGS, resume=True)
    score_all(path)
    path.write_text(content)
    with pytest.raises(RunError, match="leave out --resume"):
        ScoreTable(path, SETTINGS, resume=True)
    assert path.read_text() == content
    assert not (tmp_path / "scores.csv.partial").exists()


def test_a_file_of_another_origin_is_not_overwritten(tmp_path):
    partial = tmp_path / "scores.csv.partial"
    partial.write_text("mine")
    for resume in (False, True):
        with pytest.raises(RunError, match="move it away"):
            ScoreTable(tmp_path / "scores.csv", SETTINGS, resume)
    assert partial.read_text() == "mine"
    partial.unlink()
    partial.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="not a file"):
        ScoreTable(tmp_path / "scores.csv", SETTINGS)
    assert not (tmp_path / "elsewhere").exists()


def test_two_jobs_cannot_write_the_same_csv(tmp_path):
    with ScoreTable(tmp_path / "scores.csv", SETTINGS), pytest.raises(RunError, match="another job"):
        ScoreTable(tmp_path / "scores.csv", SETTINGS, resume=True)


@pytest.mark.parametrize("finished", [True, False])
def test_the_partial_file_is_deleted_while_it_is_locked_and_only_once(tmp_path, monkeypatch, finished):
    unlink, locked = Path.unlink, []

    def watched(path: Path, missing_ok: bool = False) -> None:
        if path.name == "scores.csv.partial":
            with pytest.raises(BlockingIOError):
                exclusive_lock(tmp_path / ".scores.csv.partial.lock")
            locked.append(path.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", watched)
    with ScoreTable(tmp_path / "scores.csv", SETTINGS) as table:
        if finished:
            table.add(rows("a.jpg"))
            table.finish(["a.jpg"])
            other = ScoreTable(tmp_path / "scores.csv", SETTINGS)  # of a job that starts before this one has left
            other.add(rows("=1.jpg"))
    assert locked == ["scores.csv.partial"]
    if finished:
        other.finish(["=1.jpg"])


def test_an_interruption_after_the_end_names_the_csv(tmp_path):
    def job() -> None:
        with ScoreTable(tmp_path / "scores.csv", SETTINGS) as table:
            table.add(rows("a.jpg"))
            table.finish(["a.jpg"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"1 rows are in .*/scores\.csv$"):
        job()


def test_a_failure_to_clean_up_does_not_hide_the_error(tmp_path, monkeypatch):
    def fail(*_) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(ScoreTable, "_open", fail)
    with pytest.raises(OSError, match="Input/output error"):
        ScoreTable(tmp_path / "scores.csv", SETTINGS)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_job_that_fails_before_its_first_row_leaves_the_old_csv_and_nothing_else(tmp_path, error):
    path = tmp_path / "scores.csv"
    score_all(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for resume in (False, True):
        interrupt_after(path, 0, error, resume)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_full_disk_keeps_the_rows_before_and_says_how_to_go_on(tmp_path, expected, monkeypatch):
    path = tmp_path / "scores.csv"

    def fill_the_disk(table: ScoreTable) -> None:
        file = table._file

        class Full:
            def write(self, content: memoryview) -> int:
                if len(content) < 30:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return file.write(content[:20])

            def __getattr__(self, name: str):
                return getattr(file, name)

        table._file = Full()

    def fail() -> None:
        with ScoreTable(path, SETTINGS) as table:
            table.add(rows(*BATCHES[0]))
            fill_the_disk(table)
            table.add(rows(*BATCHES[1]))

    with pytest.raises(RunError, match=r"No space left on device; make room .* 3 rows are in .*--resume"):
        fail()
    assert len(pd.read_csv(tmp_path / "scores.csv.partial")) == 3
    score_all(path, resume=True)
    assert path.read_bytes() == expected


def test_an_unexpected_error_also_says_what_was_saved(tmp_path, capsys):
    interrupt_after(tmp_path / "scores.csv", 1, ValueError)
    assert "3 rows are in" in capsys.readouterr().err


def test_rows_reach_the_disk_in_time_for_a_power_cut(tmp_path, monkeypatch):
    synced, clock = [], [100.0]
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(clock[0]))
    monkeypatch.setattr("utils.bulk.score_table.time.monotonic", lambda: clock[0])
    with ScoreTable(tmp_path / "scores.csv", SETTINGS) as table:
        synced.clear()
        for batch, clock[0] in zip(BATCHES, (100.0, 100.1, 101.5), strict=True):
            table.add(rows(*batch))
        assert synced == [100.0, 101.5], "at most once a second, which costs nothing"


def test_without_a_path_rows_are_only_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(score_all(None)) == len(IMAGES)
    assert "--csv FILE" in str(interrupt_after(None, 1))
    assert not list(tmp_path.iterdir())
