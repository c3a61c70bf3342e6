"""The table of predictions: what is written is what is read, by name, and an unusable file is one clear error."""

import numpy as np
import pandas as pd
import pytest

from data.files import write_csv
from utils.calibration import Calibration
from utils.errors import RunError
from utils.inference import ScoredBatch, Scores
from utils.predictions import batch_predictions, predictions_table, read_predictions
from utils.progress import Tally

POINTS = {"aesthetic": np.array([0.1, 0.2, np.nan]), "salient": np.array([0.3, 0.5, np.nan])}


def scores_of(draws: int = 1) -> Scores:
    """Return the scores of three photographs, the last of which could not be read."""
    draw_sd = np.array([0.02, 0.04, np.nan]) if draws > 1 else np.full(3, np.nan)
    return Scores(np.array([0.4, 0.7, np.nan]), POINTS, draws, draw_sd, None, [(2, "c.jpg: truncated")], Tally())


def test_a_table_has_a_row_per_photograph_and_nan_for_a_failure():
    calibration = Calibration((0.9, 0.2, 0.5, 0.1), "validation")
    table = predictions_table(scores_of(), calibration)
    assert list(table) == ["score", "quality", "points_aesthetic", "points_salient"]
    np.testing.assert_array_equal(table["score"], scores_of().scores)
    np.testing.assert_array_equal(table["quality"], calibration(scores_of().scores))
    np.testing.assert_array_equal(table["points_salient"], POINTS["salient"])
    assert table.iloc[2].isna().all()


def test_a_batch_is_rows_in_the_order_of_the_photographs_with_names_and_errors():
    outputs = {"score": np.array([0.4, 0.7]), "draw_sd": np.full(2, np.nan), "points_salient": np.array([0.1, 0.2])}
    images = ["0.jpg", "1.jpg", "2.jpg", "caf\udce9.jpg", "4.jpg"]
    batch = ScoredBatch(np.array([4, 2]), outputs, [(3, "caf\udce9.jpg: truncated")], {}, [], 0.0)
    rows = batch_predictions(batch, images, 1, ["salient"], None)
    assert list(rows) == ["image", "score", "quality", "points_salient", "error"]
    assert rows["image"].tolist() == ["2.jpg", r"caf\udce9.jpg", "4.jpg"]
    np.testing.assert_array_equal(rows["score"], [0.7, np.nan, 0.4])
    assert rows["error"].tolist() == [None, r"caf\udce9.jpg: truncated", None]
    only_failures = ScoredBatch(np.zeros(0, int), {}, [(0, "0.jpg: truncated")], {}, [], 0.0)
    assert list(batch_predictions(only_failures, images, 1, ["salient"], None)) == list(rows)


def test_without_a_mapping_quality_is_nan():
    assert predictions_table(scores_of(), None)["quality"].isna().all()


def test_the_sampling_error_is_that_of_the_mean_over_the_draws():
    table = predictions_table(scores_of(draws=4), None)
    assert list(table)[:4] == ["score", "quality", "draw_sd", "sampling_error"]
    np.testing.assert_array_equal(table["sampling_error"], table["draw_sd"] / 2)


@pytest.mark.parametrize("calibration", [Calibration((0.9, 0.2, 0.5, 0.1), "validation"), None])
def test_what_is_written_is_what_is_read(calibration, tmp_path):
    """Names such as 007 stay strings: read as numbers they would no longer match the label file."""
    rows = pd.DataFrame({"image": ["007", 'ü, "b".jpg'], "mos": [0.25, 0.75]})
    written = rows.join(predictions_table(scores_of(draws=4), calibration))
    write_csv(tmp_path / "p.csv", written)
    read = read_predictions(tmp_path / "p.csv")
    assert read["image"].tolist() == rows["image"].tolist()
    pd.testing.assert_frame_equal(read, written, rtol=1e-12)


def test_scores_follow_the_names_when_rows_are_reordered(tmp_path):
    table = pd.DataFrame({"image": list("abc"), "mos": [0.1, 0.2, 0.3], "score": [1.0, 2.0, 3.0]})
    write_csv(tmp_path / "p.csv", table[::-1])
    scores = read_predictions(tmp_path / "p.csv").set_index("image")["score"]
    assert scores[["a", "b", "c"]].tolist() == [1.0, 2.0, 3.0]


def test_a_file_without_quality_is_read_as_one_without_a_mapping(tmp_path):
    (tmp_path / "p.csv").write_text("image,mos,score\nx.jpg,0.5,1\n")
    assert read_predictions(tmp_path / "p.csv")["quality"].isna().all()


UNUSABLE = {
    "missing": (None, "No such file"),
    "empty": ("", "cannot be read"),
    "binary": (b"\xff\xfe\x00\x00\x9f", "cannot be read"),
    "other columns": ("a,b\n1,2\n", "no column image, mos, score"),
    "one column missing": ("image,mos\nx.jpg,0.5\n", "no column score"),
    "not a number": ("image,mos,score\nx.jpg,0.5,good\n", "line 2"),
    "infinite": ("image,mos,score\nx.jpg,0.5,1\ny.jpg,0.5,inf\n", "line 3"),
    "no opinion": ("image,mos,score\nx.jpg,0.5,1\ny.jpg,,1\n", "line 3"),
    "no name": ("image,mos,score\n,0.5,1\n", "line 2"),
    "duplicate": ("image,mos,score\nx.jpg,0.5,1\nx.jpg,0.5,1\n", "x.jpg is listed more than once"),
    "no rows": ("image,mos,score\n", "contains no predictions"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_file_that_does_not_hold_predictions_is_one_clear_error(name, tmp_path):
    content, message = UNUSABLE[name]
    path = tmp_path / "p.csv"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RunError, match=message) as raised:
        read_predictions(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
