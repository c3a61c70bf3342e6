"""Measures of an evaluation: the contract of the report, its text, valid JSON, complete files."""

import json

import numpy as np
import pandas as pd
import pytest

from data.files import natural_order, write_csv, write_json
from data.tables import data_fingerprint
from utils.calibration import fit_calibration
from utils.environment import commit, environment
from utils.errors import RunError
from utils.metrics import MEASURES, iqa_metrics
from utils.reporting import measures
from utils.reporting.measures import (
    evaluation_report,
    few_groups_note,
    group_report,
    heading,
    measures_table,
    protocol_notes,
    resampling_groups,
    summary,
)


@pytest.fixture(scope="module")
def sample() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    mos = generator.uniform(0.3, 0.9, 60)
    return 4 * mos + generator.normal(0, 0.3, 60), mos


def predictions(scores: np.ndarray, mos: np.ndarray, quality: np.ndarray | float = np.nan) -> pd.DataFrame:
    return pd.DataFrame({"score": scores, "mos": mos, "quality": quality})


@pytest.fixture(scope="module")
def report(sample) -> dict:
    scores, mos = sample
    calibration = fit_calibration(scores[:30], mos[:30], "validation")
    return evaluation_report(predictions(scores, mos, calibration(scores)), "test", calibration.describe())


def test_the_three_protocols_have_measures_and_intervals(report):
    protocols = ["raw", "val_fitted", "test_fitted"]
    assert list(report) == ["split", "n", "source", "training_images", *protocols, "groups", "resample_by", "bootstrap"]
    assert (report["split"], report["n"]) == ("test", 60)
    for protocol in ("raw", "val_fitted", "test_fitted"):
        assert set(report[protocol]) == {*MEASURES, "ci95", "mapping"}
        assert set(report[protocol]["ci95"]) == set(MEASURES)
        for name, (low, high) in report[protocol]["ci95"].items():
            assert low < report[protocol][name] < high
    assert "validation" in report["val_fitted"]["mapping"]
    assert "test labels" in report["test_fitted"]["mapping"]


def test_a_superscript_in_a_name_is_no_number():
    names = ["9\u00b25.jpg", "10\u00b25.jpg"]
    assert sorted(names, key=natural_order) == names


@pytest.mark.parametrize(
    ("split", "mapping", "note"),
    [
        ("test", "fitted on validation", "comparable with the published tables"),
        ("val", "fitted on validation", "optimistic"),
        ("train", "fitted on validation", "optimistic"),
        ("val", "fitted on validation of BIQ2021", "optimistic"),
        ("train", "as in predictions_train.csv", "optimistic"),
        ("test", "as in predictions_test.csv", ""),
        ("test", "fitted on UIQA.npy (as released)", ""),
    ],
)
def test_only_the_test_split_is_comparable_with_published_tables(split, mapping, note, report):
    mapped = report["val_fitted"] | {"mapping": mapping}
    notes = protocol_notes(report | {"n": 900, "split": split, "val_fitted": mapped})
    assert list(notes) == ["raw", "val_fitted", "test_fitted"]
    assert note in notes["val_fitted"]
    assert ("comparable" in notes["val_fitted"]) == (note == "comparable with the published tables")
    assert ("comparable" in notes["raw"]) == (split == "test")
    assert ("optimistic" in notes["raw"]) == (split != "test")


@pytest.mark.parametrize("split", ["val", "train"])
def test_only_of_released_weights_it_is_not_known_whether_measures_are_optimistic(split, report):
    mapped = report["val_fitted"] | {"mapping": "not possible: too few validation images"}
    notes = protocol_notes(report | {"split": split, "val_fitted": mapped, "is_training_known": True})
    assert "optimistic" in notes["raw"]
    assert "optimistic" not in protocol_notes(report | {"split": split, "is_training_known": False})["raw"]


def test_other_data_sets_are_not_compared_with_the_tables_of_uhd_iqa(report):
    notes = protocol_notes(report | {"n": 900, "split": "test", "database": "csv"})
    assert not any("comparable" in note for note in notes.values())


def test_a_part_of_the_test_split_is_not_compared_with_the_tables(report):
    assert not any("comparable" in note for note in protocol_notes(report | {"split": "test"}).values())


def test_a_fit_on_the_test_labels_is_called_a_bound_and_is_not_comparable(report):
    note = protocol_notes(report)["test_fitted"]
    assert "fitted on the test labels" in note
    assert "an upper bound, not a result" in note
    assert "comparable" not in note


def test_without_a_mapping_val_fitted_is_missing_and_the_rest_is_the_same(sample, report):
    assert evaluation_report(predictions(*sample), "test", "") == report | {"val_fitted": None}


def test_the_text_states_what_each_figure_can_be_compared_with(sample, report):
    added = {"controls": None, "checkpoint": "best.pth", "predictions": None}
    text = summary(report | added)
    for note in protocol_notes(report).values():
        assert note in text
    assert "nan:" not in text
    text = summary(evaluation_report(predictions(*sample), "test", "") | added)
    assert "give one with --calibration FILE" in text
    text = summary(evaluation_report(predictions(np.ones(60), sample[1]), "test", "") | added)
    assert "correlations of constant values" in text


def test_another_seed_moves_the_intervals_alone(sample, report):
    other = evaluation_report(predictions(*sample), "test", "", seed=1)["raw"]
    assert other["ci95"] != report["raw"]["ci95"]
    assert other | {"ci95": report["raw"]["ci95"]} == report["raw"]


def test_ranks_are_the_same_in_every_protocol_and_a_fit_to_the_labels_errs_least(sample, report):
    assert {report[name]["SRCC"] for name in ("raw", "val_fitted", "test_fitted")} == {iqa_metrics(*sample)["SRCC"]}
    assert report["test_fitted"]["RMSE"] <= report["val_fitted"]["RMSE"] < report["raw"]["RMSE"]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_images_have_a_report_too_and_it_is_valid_json(n, capsys):
    report = evaluation_report(predictions(np.arange(n), np.arange(n) + 0.5), "val", "")
    assert "too few" in report["test_fitted"]["mapping"]
    write_json("-", report)
    assert json.loads(capsys.readouterr().out)["raw"]["RMSE"] == 0.5
    assert len(measures_table({"raw": report["raw"]}).splitlines()) == 2


def test_the_table_has_a_line_for_every_row(report):
    lines = measures_table({"raw": report["raw"], "val-fitted": None}).splitlines()
    assert [line.split()[0] for line in lines] == ["SRCC", "raw", "val-fitted"]
    assert f"{report['raw']['PLCC']:.4f}" in lines[1]


CONTENT = {
    "nan": float("nan"),
    "inf": np.inf,
    "numpy": np.float32(0.5),
    "array": np.arange(3),
    "scalar array": np.array(0.25),
    "nested": {"nan": (np.float64("nan"), 2)},
    "list": [np.int64(1), None],
}


def test_json_is_valid_whatever_the_numbers(tmp_path):
    write_json(tmp_path / "below" / "a.json", CONTENT)
    text = (tmp_path / "below" / "a.json").read_text()
    assert json.loads(text) == {
        "nan": None,
        "inf": None,
        "numpy": 0.5,
        "array": [0, 1, 2],
        "scalar array": 0.25,
        "nested": {"nan": [None, 2]},
        "list": [1, None],
    }


def test_json_for_standard_output_stands_alone_and_makes_no_file(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json("-", {"grey": "größer", "nan": np.float32("nan")})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"grey": "größer", "nan": None}
    assert captured.err == ""
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "below" / "a.csv"
    write_csv(path, [{"a": 1, "b": "ü, ö"}])
    assert pd.read_csv(path).to_dict("records") == [{"a": 1, "b": "ü, ö"}]

    def full_disk(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr("data.files.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_csv(path, [{"a": 2, "b": ""}])
    assert pd.read_csv(path)["a"].tolist() == [1]


def test_the_environment_names_what_a_result_depends_on():
    assert {"command", "python", "torch", "torchvision", "timm", "numpy", "Pillow", "simplejpeg"} <= set(environment())


@pytest.fixture
def grouped(sample) -> pd.DataFrame:
    scores, mos = sample
    kinds = np.array(["10 px", "2 px", None])[np.arange(60) % 3]
    return pd.DataFrame({"score": scores, "mos": mos, "quality": scores / 4, "kind": kinds})


def test_groups_are_measured_alone_and_in_natural_order(grouped):
    groups = group_report(grouped, "kind")
    assert list(groups["measures"]) == ["2 px", "10 px"]
    rows = grouped[grouped["kind"] == "2 px"]
    alone = groups["measures"]["2 px"]
    assert alone["n"] == 20
    assert alone["SRCC"] == iqa_metrics(rows["score"], rows["mos"])["SRCC"]
    assert alone["MAE"] == pytest.approx((rows["quality"] - rows["mos"]).abs().mean())
    assert "whole split" in groups["protocol"]


def test_without_a_mapping_groups_are_measured_raw(grouped):
    groups = group_report(grouped.assign(quality=np.nan), "kind")
    assert groups["protocol"] == "raw scores"
    rows = grouped[grouped["kind"] == "2 px"]
    assert groups["measures"]["2 px"]["RMSE"] == pytest.approx(np.sqrt(((rows["score"] - rows["mos"]) ** 2).mean()))


@pytest.mark.parametrize(("column", "words"), [("shape", "no such column.*kind"), ("score", "60 different entries")])
def test_a_column_that_makes_no_groups_is_refused(grouped, column, words):
    with pytest.raises(RunError, match=words):
        group_report(grouped, column)


def test_the_fingerprint_knows_names_and_opinions_and_not_their_order():
    table = pd.DataFrame({"image": ["a.jpg", "b.jpg"], "mos": [0.1, 0.2], "score": [1, 2]})
    fingerprint = data_fingerprint(table)
    assert data_fingerprint(table[::-1].drop(columns="score")) == fingerprint
    assert data_fingerprint(table.assign(mos=[0.1, 0.3])) != fingerprint
    assert data_fingerprint(table.assign(image=["a.jpg", "c.jpg"])) != fingerprint


def test_the_commit_is_a_hash_or_unknown(monkeypatch):
    assert commit() == "unknown" or len(commit().split(" + ")[0]) == 40
    monkeypatch.setenv("PATH", "")
    assert commit() == "unknown"


@pytest.fixture
def scenes(sample) -> pd.DataFrame:
    scores, mos = sample
    names = [f"{number // 5:04d}" for number in range(60)]
    return predictions(scores, mos).assign(image=[f"{number}.jpg" for number in range(60)], scene=names, one="x")


def test_whole_groups_are_resampled_and_the_report_says_of_what(scenes, report):
    resampled = evaluation_report(scenes, "test", "", resample_by="scene")
    assert resampled["resample_by"] == {"column": "scene", "groups": 12}
    assert f"{measures.RESAMPLES} resamples of 12 groups of images (column scene)" in resampled["bootstrap"]
    assert f"{measures.RESAMPLES} resamples of 60 images" in report["bootstrap"]
    assert report["resample_by"] is None
    assert resampled["raw"]["SRCC"] == report["raw"]["SRCC"]
    assert resampled["raw"]["ci95"] != report["raw"]["ci95"]
    by_image = evaluation_report(scenes, "test", "", resample_by="image")
    assert by_image["raw"]["ci95"] == report["raw"]["ci95"]


def test_whole_groups_are_resampled_within_other_groups(scenes):
    scenes["kind"] = np.arange(60) % 2
    by_scene = group_report(scenes, "kind", "scene")["measures"]
    by_image = group_report(scenes, "kind")["measures"]
    assert by_scene["0"]["SRCC"] == by_image["0"]["SRCC"]
    assert by_scene["0"]["ci95"] != by_image["0"]["ci95"]
    assert np.isnan(group_report(scenes, "scene", "scene")["measures"]["0000"]["ci95"]["SRCC"]).all()


def test_groups_are_text(scenes):
    scenes["camera"] = ["NA", "0001", "1.10"] * 20
    assert list(group_report(scenes, "camera")["measures"]) == ["0001", "1.10", "NA"]


@pytest.mark.parametrize(("column", "words"), [("shape", "no such column; .*scene"), ("one", "in one group")])
def test_a_column_that_cannot_be_resampled_is_refused(scenes, column, words):
    with pytest.raises(RunError, match=words):
        evaluation_report(scenes, "test", "", resample_by=column)


def test_images_without_a_group_cannot_be_resampled(scenes):
    scenes.loc[7, "scene"] = None
    with pytest.raises(RunError, match=r"1 images have no entry.*7\.jpg"):
        resampling_groups(scenes, "scene")


def test_few_groups_are_warned_of(scenes):
    assert few_groups_note(resampling_groups(scenes, "scene"), "scene") == []
    scenes["half"] = ["a", "b"] * 30
    assert "only 2 groups" in few_groups_note(resampling_groups(scenes, "half"), "half")[0]
    assert few_groups_note(None, None) == []


def test_training_images_among_those_measured_are_said_everywhere(report):
    mixed = report | {"split": "all", "training_images": 5}
    assert heading(mixed) == "all 60 images, training images included"
    assert "optimistic: training images" in protocol_notes(mixed)["raw"]
    assert heading(report) == "test split, 60 images"
    assert heading(report | {"split": "all"}) == "all 60 images"
    leaky = protocol_notes(report | {"training_images": 5})
    assert "published" not in leaky["raw"] + leaky["val_fitted"]


def test_intervals_within_the_groups_that_are_resampled_are_explained(sample):
    scores, mos = sample
    number = np.arange(len(mos))
    table = predictions(scores, mos).assign(image=number, content=number % 3)
    report = evaluation_report(table, "test", "", group_by="content", resample_by="content")
    report |= {"controls": None, "predictions": None, "checkpoint": "best.pth"}
    assert "[nan, nan]: whole groups are resampled" in summary(report)
