"""Scores of a split: aligned with labels by name, failures kept apart, controls in the order of the table."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from data.files import write_csv
from data.tables import LabelTable
from utils.checkpoint import load_model
from utils.errors import RunError
from utils.inference import score_photographs
from utils.metrics import iqa_metrics
from utils.reporting.scoring import measure_controls, read_split, score_split

SCORE = partial(score_photographs, device=torch.device("cpu"), batch_size=2)


@pytest.fixture
def rows(trained, tmp_path) -> pd.DataFrame:
    """Rows of a label table, with an index of their own; the second photograph is not one."""
    paths = sorted(map(str, (trained.dataset / "test").iterdir()))[:4]
    (tmp_path / "text.jpg").write_text("not a photograph")
    paths[1] = str(tmp_path / "text.jpg")
    frame = {
        "image": [Path(path).name for path in paths],
        "mos": [0.2, 0.9, 0.4, 0.6],
        "path": paths,
        "kind": list("abab"),
    }
    return pd.DataFrame(frame, index=[7, 3, 9, 5]).assign(split="test")


def test_a_failed_photograph_is_left_out_and_the_others_keep_their_scores(trained, rows):
    loaded = load_model(trained.best)
    scored = score_split(loaded, rows, 1, ["kind"], SCORE)
    assert scored.table["image"].tolist() == rows["image"].drop(3).tolist()
    assert scored.table["kind"].tolist() == ["a", "a", "b"]
    alone = [loaded.score(path).score for path in rows["path"].drop(3)]
    np.testing.assert_allclose(scored.table["score"], alone, atol=1e-5)
    assert [failure["image"] for failure in scored.failures] == ["text.jpg"]
    assert scored.tally.images == 4


def test_a_split_without_a_usable_photograph_is_an_error(trained, rows):
    with pytest.raises(RunError, match=r"none of the 1 images could be scored.*text\.jpg"):
        score_split(load_model(trained.best), rows[1:2], 1, [], SCORE)


def test_predictions_find_their_photographs_and_groups_by_name(rows, tmp_path):
    labels = LabelTable(rows, tmp_path / "labels.csv", "as given")
    write_csv(tmp_path / "p.csv", rows[["image", "mos"]][::-1].assign(score=[1.0, 2.0, 3.0, 4.0]))
    scored = read_split(str(tmp_path / "p.csv"), labels, "test", ["kind"])
    by_name = scored.table.set_index("image")
    for image, path, kind in zip(rows["image"], rows["path"], rows["kind"], strict=True):
        assert scored.paths[image] == path
        assert by_name["kind"][image] == kind
    without = read_split(str(tmp_path / "p.csv"), None, "test", ["kind"])
    assert "kind" not in without.table
    assert not any(without.paths.values())


def test_predictions_of_other_photographs_are_refused(rows, tmp_path):
    write_csv(tmp_path / "p.csv", pd.DataFrame({"image": ["other.jpg"], "mos": [0.5], "score": [0.5]}))
    with pytest.raises(RunError, match="none of its images is in the test split"):
        read_split(str(tmp_path / "p.csv"), LabelTable(rows, tmp_path / "labels.csv", "as given"), "test", [])


def test_controls_are_measured_on_the_photographs_that_have_a_score(trained, rows):
    loaded = load_model(trained.best)
    scored = score_split(loaded, rows, 1, [], SCORE)
    controls = measure_controls(scored, loaded, 1, SCORE)
    sizes = np.array([Path(path).stat().st_size for path in rows["path"].drop(3)], float)
    assert controls["file_size"]["SRCC"] == iqa_metrics(sizes, scored.table["mos"])["SRCC"]
    assert controls["untrained"] == measure_controls(scored, loaded, 1, SCORE)["untrained"]


@pytest.mark.parametrize(("mos", "is_refused"), [(0.2001, False), (-0.2, True), (0.3, True)])
def test_predictions_with_other_opinions_than_the_labels_are_refused(mos, is_refused, rows, tmp_path):
    """The labels may have been replaced, or be read the other way round; rounding is no difference."""
    labels = LabelTable(rows, tmp_path / "labels.csv", "as given")
    opinions = [mos, *rows["mos"][1:]]
    write_csv(tmp_path / "p.csv", pd.DataFrame({"image": rows["image"], "mos": opinions, "score": range(4)}))
    if not is_refused:
        assert len(read_split(str(tmp_path / "p.csv"), labels, "test", []).table) == 4
        return
    with pytest.raises(RunError, match=f"has MOS {mos}, and in .*labels.csv 0.2; .*--lower_is_better"):
        read_split(str(tmp_path / "p.csv"), labels, "test", [])


def test_predictions_of_several_splits_are_refused_unless_all_are_measured(rows, tmp_path):
    labels = LabelTable(rows.assign(split=["test", "test", "val", "train"]), tmp_path / "labels.csv", "as given")
    write_csv(tmp_path / "p.csv", rows[["image", "mos"]].assign(score=range(4)))
    with pytest.raises(RunError, match=r"2 of its 4 images are not in the test split .*--split"):
        read_split(str(tmp_path / "p.csv"), labels, "test", [])
    assert len(read_split(str(tmp_path / "p.csv"), labels, "all", []).table) == 4
