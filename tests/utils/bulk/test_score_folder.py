"""Scores in bulk on disk: parts are whole, nothing is done twice, no job goes on with another's scores."""

import json

import pandas as pd
import pytest

from utils.bulk.score_folder import MANIFEST, ScoreFolder, file_sha256, is_list, missing, read_list
from utils.errors import RunError

SETTINGS = {"checkpoint": "with the SHA-256 ab", "calibration": None, "fragment_draws": 1}


def rows(*images: str) -> pd.DataFrame:
    return pd.DataFrame({"image": images, "score": range(len(images))})


def test_rows_come_back_and_a_later_job_adds_to_them(tmp_path):
    with ScoreFolder(tmp_path / "out", SETTINGS) as folder:
        folder.add("scores", rows("a", "b"))
        folder.add("scores", rows("c"))
        folder.add("failures", pd.DataFrame({"image": ["x"], "error": ["x: no photograph"]}))
        assert folder.images("scores") == set()
    with ScoreFolder(tmp_path / "out", SETTINGS) as folder:
        assert missing(["d", "a", "x", "e", "c"], folder) == ["d", "e"]
        folder.add("scores", rows("d"))
    assert pd.read_parquet(tmp_path / "out" / "scores")["image"].tolist() == ["a", "b", "c", "d"]
    assert len(list((tmp_path / "out" / "scores").glob("part-*.parquet"))) == 2
    assert pd.read_parquet(tmp_path / "out" / "failures")["error"].tolist() == ["x: no photograph"]


def test_what_was_added_before_an_error_is_written(tmp_path):
    def interrupted() -> None:
        with ScoreFolder(tmp_path, SETTINGS) as folder:
            folder.add("scores", rows("a"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with ScoreFolder(tmp_path, SETTINGS) as folder:
        assert folder.images("scores") == {"a"}


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


def test_a_part_that_was_being_written_when_the_job_was_killed_counts_for_nothing(tmp_path):
    with ScoreFolder(tmp_path, SETTINGS) as folder:
        folder.add("scores", rows("a"))
    (tmp_path / "scores" / ".part-000001.parquet.tmp").write_bytes(b"PAR1 and no more")
    assert pd.read_parquet(tmp_path / "scores")["image"].tolist() == ["a"]
    with ScoreFolder(tmp_path, SETTINGS) as folder:
        assert missing(["a", "b"], folder) == ["b"]
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
def test_other_settings_are_refused_with_the_difference_and_the_remedy(tmp_path, name, value):
    with ScoreFolder(tmp_path, SETTINGS):
        pass
    with pytest.raises(RunError, match="another folder") as raised:
        ScoreFolder(tmp_path, SETTINGS | {name: value})
    assert f"{name} {SETTINGS[name]}" in str(raised.value)
    assert str(value) in str(raised.value)
    with ScoreFolder(tmp_path, SETTINGS):  # the refusal has left nothing behind, the lock least of all
        pass


def test_two_jobs_do_not_write_into_one_folder(tmp_path):
    with ScoreFolder(tmp_path, SETTINGS), pytest.raises(RunError, match="another job"):
        ScoreFolder(tmp_path, SETTINGS)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": 3}', '{"format": "uiqa-pack"}'])
def test_a_damaged_manifest_is_named(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(RunError, match=MANIFEST):
        ScoreFolder(tmp_path, SETTINGS)


def test_scores_without_a_manifest_are_nobodys(tmp_path):
    with ScoreFolder(tmp_path, SETTINGS) as folder:
        folder.add("scores", rows("a"))
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(RunError, match="another folder"):
        ScoreFolder(tmp_path, SETTINGS)


def test_the_manifest_tells_settings_and_environment(tmp_path):
    with ScoreFolder(tmp_path, SETTINGS, {"command": "predict.py --ray"}):
        pass
    content = json.loads((tmp_path / MANIFEST).read_text())
    assert content == {"settings": SETTINGS, "environment": {"command": "predict.py --ray"}}


def test_a_damaged_part_is_named(tmp_path):
    with ScoreFolder(tmp_path, SETTINGS) as folder:
        (tmp_path / "scores" / "part-000000.parquet").write_bytes(b"no Parquet")
        with pytest.raises(RunError, match="part-000000"):
            folder.images("scores")


def test_a_checksum_is_the_contents(tmp_path):
    for name, content in (("a", b"x" * 3_000_000), ("b", b"x" * 3_000_000), ("c", b"x" * 2_999_999 + b"y")):
        (tmp_path / name).write_bytes(content)
    assert file_sha256(tmp_path / "a") == file_sha256(tmp_path / "b") != file_sha256(tmp_path / "c")


def test_lists_name_images_in_a_column(tmp_path):
    table = pd.DataFrame({"path": ["p.jpg", "q.jpg"], "image": ["007", "b,1.jpg"]})
    table.to_csv(tmp_path / "list.csv", index=False)
    table[["path"]].to_parquet(tmp_path / "list.PARQUET")
    assert list(read_list(tmp_path / "list.csv")) == ["007", "b,1.jpg"]
    assert list(read_list(tmp_path / "list.PARQUET")) == ["p.jpg", "q.jpg"]
    (tmp_path / "folder.csv").mkdir()
    found = [is_list(str(tmp_path / name)) for name in ("list.csv", "list.PARQUET", "folder.csv", "photo.jpg")]
    assert found == [True, True, False, False]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("list.csv", b"picture,mos\na.jpg,1\n", "picture, mos"),
        ("list.csv", b"image,mos\na.jpg,1\n,2\n", "row 2"),
        ("list.csv", b"image,mos\n", "empty"),
        ("list.csv", b"", "cannot be read"),
        ("list.csv", b"\xff\xfe\x00image", "cannot be read"),
        ("list.parquet", b"no Parquet", "cannot be read"),
        ("list.parquet", None, "no such list"),
    ],
)
def test_a_list_that_cannot_be_used_is_named(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=words) as raised:
        list(read_list(tmp_path / name))
    assert str(tmp_path / name) in str(raised.value)
