"""Folders of scores: parts are complete, no image is scored twice, and no job continues scores of other settings."""

import json

import pandas as pd
import pytest
import torch

from utils.bulk.score_folder import MANIFEST, ScoreFolder
from utils.errors import RunError

SETTINGS = {"checkpoint": "with the SHA-256 ab", "calibration": None, "fragment_draws": 1}


def rows(*images: str) -> pd.DataFrame:
    return pd.DataFrame({"image": images, "score": range(len(images))})


def test_rows_can_be_read_back_and_a_later_job_adds_to_them(tmp_path):
    with ScoreFolder(tmp_path / "out", SETTINGS) as folder:
        folder.add("scores", rows("a", "b"))
        folder.add("scores", rows("c"))
        folder.add("failures", pd.DataFrame({"image": ["x"], "error": ["x: no photograph"]}))
        assert folder.images("scores") == set()
    with ScoreFolder(tmp_path / "out", SETTINGS) as folder:
        assert folder.remaining(["d", "a", "x", "e", "c"]) == ["d", "e"]
        folder.add("scores", rows("d"))
    assert pd.read_parquet(tmp_path / "out" / "scores")["image"].tolist() == ["a", "b", "c", "d"]
    assert len(list((tmp_path / "out" / "scores").glob("part-*.parquet"))) == 2
    assert pd.read_parquet(tmp_path / "out" / "failures")["error"].tolist() == ["x: no photograph"]


def test_rows_added_before_an_error_are_written(tmp_path):
    def interrupted() -> None:
        with ScoreFolder(tmp_path, SETTINGS) as folder:
            folder.add("scores", rows("a"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with ScoreFolder(tmp_path, SETTINGS) as folder:
        assert folder.images("scores") == {"a"}


def test_an_interruption_behind_the_renaming_of_a_part_writes_no_row_twice(tmp_path, monkeypatch):
    def interrupt_once(_) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    def job() -> None:
        with ScoreFolder(tmp_path, SETTINGS) as folder:
            folder.add("scores", rows("a", "b"))
            monkeypatch.setattr("data.files.flush_folder", interrupt_once)
            folder.flush()

    with pytest.raises(KeyboardInterrupt):
        job()
    with ScoreFolder(tmp_path, SETTINGS) as folder:
        folder.add("scores", rows("c"))
    assert pd.read_parquet(tmp_path / "scores")["image"].tolist() == ["a", "b", "c"]


def test_a_part_is_written_when_it_is_full_or_old(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.bulk.score_folder.PART_ROWS", 2)
    with ScoreFolder(tmp_path, SETTINGS) as folder:
        folder.add("scores", rows("a"))
        assert folder.images("scores") == set()
        folder.add("scores", rows("b"))
        assert folder.images("scores") == {"a", "b"}
        monkeypatch.setattr("utils.bulk.score_folder.PART_SECONDS", -1)
        folder.add("scores", rows("c"))
        assert folder.images("scores") == {"a", "b", "c"}


def test_an_unfinished_part_of_a_killed_job_is_ignored(tmp_path):
    with ScoreFolder(tmp_path, SETTINGS) as folder:
        folder.add("scores", rows("a"))
    (tmp_path / "scores" / ".part-000001.parquet.tmp").write_bytes(b"PAR1 and no more")
    assert pd.read_parquet(tmp_path / "scores")["image"].tolist() == ["a"]
    with ScoreFolder(tmp_path, SETTINGS) as folder:
        assert folder.remaining(["a", "b"]) == ["b"]
        folder.add("scores", rows("b"))
    assert pd.read_parquet(tmp_path / "scores")["image"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint", "with the SHA-256 cd"),
        ("calibration", {"parameters": [1.0, 0.0, 0.5, 0.1]}),
        ("fragment_draws", 2),
    ],
)
def test_other_settings_are_an_error_that_names_the_difference_and_the_remedy(tmp_path, name, value):
    with ScoreFolder(tmp_path, SETTINGS):
        pass
    with pytest.raises(RunError, match="another folder") as raised:
        ScoreFolder(tmp_path, SETTINGS | {name: value})
    assert f"{name} {SETTINGS[name]}" in str(raised.value)
    assert str(value) in str(raised.value)
    with ScoreFolder(tmp_path, SETTINGS):  # the error released the lock
        pass


def test_two_jobs_cannot_write_into_the_same_folder(tmp_path):
    with ScoreFolder(tmp_path, SETTINGS), pytest.raises(RunError, match="another job"):
        ScoreFolder(tmp_path, SETTINGS)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": 3}', '{"format": "uiqa-pack"}'])
def test_a_damaged_manifest_is_named_in_the_error(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(RunError, match=MANIFEST):
        ScoreFolder(tmp_path, SETTINGS)


def test_scores_without_a_manifest_are_an_error(tmp_path):
    with ScoreFolder(tmp_path, SETTINGS) as folder:
        folder.add("scores", rows("a"))
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(RunError, match="another folder"):
        ScoreFolder(tmp_path, SETTINGS)


def test_the_manifest_records_settings_and_environment(tmp_path):
    with ScoreFolder(tmp_path, SETTINGS):
        pass
    content = json.loads((tmp_path / MANIFEST).read_text())
    assert content["settings"] == SETTINGS
    assert content["environment"]["torch"] == torch.__version__


def test_a_damaged_part_is_named_in_the_error(tmp_path):
    with ScoreFolder(tmp_path, SETTINGS) as folder:
        (tmp_path / "scores" / "part-000000.parquet").write_bytes(b"no Parquet")
        with pytest.raises(RunError, match="part-000000"):
            folder.images("scores")
