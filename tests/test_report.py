"""Reports: the contract of the measures, valid JSON, files that are whole."""

import json

import numpy as np
import pandas as pd
import pytest

from utils.calibration import fit_calibration
from utils.metrics import MEASURES, iqa_metrics
from utils.report import environment, evaluation_report, measures_table, write_csv, write_json


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    mos = generator.uniform(0.3, 0.9, 60)
    return 4 * mos + generator.normal(0, 0.3, 60), mos


def test_the_three_protocols_have_measures_and_intervals(sample):
    scores, mos = sample
    report = evaluation_report(scores, mos, "test", fit_calibration(scores[:30], mos[:30], "validation"))
    assert list(report) == ["split", "n", "raw", "val_fitted", "test_fitted"]
    assert (report["split"], report["n"]) == ("test", 60)
    for protocol in ("raw", "val_fitted", "test_fitted"):
        assert set(report[protocol]) == {*MEASURES, "ci95", "mapping"}
        assert set(report[protocol]["ci95"]) == set(MEASURES)


def test_ranks_are_the_same_in_every_protocol_and_a_fit_to_the_labels_errs_least(sample):
    scores, mos = sample
    report = evaluation_report(scores, mos, "test", fit_calibration(scores[:30], mos[:30], "validation"))
    assert {report[name]["SRCC"] for name in ("raw", "val_fitted", "test_fitted")} == {iqa_metrics(scores, mos)["SRCC"]}
    assert report["test_fitted"]["RMSE"] <= report["val_fitted"]["RMSE"] < report["raw"]["RMSE"]


def test_without_a_calibration_there_is_no_honest_mapping(sample):
    assert evaluation_report(*sample, "test", None)["val_fitted"] is None


def test_the_table_has_a_line_for_every_row(sample):
    report = evaluation_report(*sample, "test", None)
    lines = measures_table({"raw": report["raw"], "val-fitted": None}).splitlines()
    assert [line.split()[0] for line in lines] == ["SRCC", "raw", "val-fitted"]
    assert f"{report['raw']['PLCC']:.4f}" in lines[1]


CONTENT = {
    "nan": float("nan"),
    "inf": np.inf,
    "numpy": np.float32(0.5),
    "array": np.arange(3),
    "list": [np.int64(1), None],
}


def test_json_is_valid_whatever_the_numbers(tmp_path):
    write_json(tmp_path / "below" / "a.json", CONTENT)
    text = (tmp_path / "below" / "a.json").read_text()
    assert json.loads(text) == {"nan": None, "inf": None, "numpy": 0.5, "array": [0, 1, 2], "list": [1, None]}
    assert "NaN" not in text


def test_json_for_standard_output_stands_alone(capsys):
    write_json("-", CONTENT)
    assert json.loads(capsys.readouterr().out)["numpy"] == 0.5


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "below" / "a.csv"
    write_csv(path, [{"a": 1, "b": "ü, ö"}])
    assert pd.read_csv(path).to_dict("records") == [{"a": 1, "b": "ü, ö"}]

    def full_disk(self, file, **options):
        file.write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_csv(path, [{"a": 2, "b": ""}])
    assert pd.read_csv(path)["a"].tolist() == [1]


def test_the_environment_names_what_a_result_depends_on():
    assert {"command", "python", "torch", "torchvision", "timm", "numpy", "Pillow", "simplejpeg"} <= set(environment())
