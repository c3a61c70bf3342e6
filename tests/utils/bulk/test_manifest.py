"""Scores of one origin are not mixed with those of another."""

import argparse
import json
from dataclasses import replace

import pytest
from tiny_checkpoint import SPEC

from utils.bulk.manifest import check_manifest, scoring_settings, write_manifest
from utils.calibration import Calibration
from utils.errors import RunError
from utils.loaded_model import LoadedModel

SETTINGS = {"checkpoint": "with the SHA-256 ab", "calibration": None, "fragment_draws": 1}


def test_the_same_settings_are_accepted(tmp_path):
    write_manifest(tmp_path / "m.json", SETTINGS | {"parameters": (1.0, 2.0)})
    check_manifest(tmp_path / "m.json", SETTINGS | {"parameters": (1.0, 2.0)}, tmp_path, "start anew")


@pytest.mark.parametrize("other", [{"fragment_draws": 2}, {"checkpoint": "with the SHA-256 cd"}, {"new": 1}])
def test_a_difference_is_named_with_the_results_and_the_remedy(tmp_path, other):
    write_manifest(tmp_path / "m.json", SETTINGS)
    (name,) = other
    with pytest.raises(RunError, match=rf"out: its scores were made with {name} .*, or start anew"):
        check_manifest(tmp_path / "m.json", SETTINGS | other, tmp_path / "out", "start anew")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": 3}'])
def test_a_damaged_manifest_is_named(tmp_path, content):
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(RunError, match=r"m\.json: damaged"):
        check_manifest(tmp_path / "m.json", SETTINGS, tmp_path, "start anew")


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(RunError, match=r"no m\.json about the origin .*start anew"):
        check_manifest(tmp_path / "m.json", SETTINGS, tmp_path, "start anew")


def test_settings_depend_on_the_weights_and_on_what_changes_a_score(tmp_path):
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_text(name)
    loaded = LoadedModel(None, SPEC, Calibration((0.9, 0.2, 0.5, 0.1), "validation"), None, {}, {})
    given = {"onnx": None, "checkpoint": tmp_path / "a.pth", "fragment_draws": 1, "precision": "fp32"}

    def settings(model: LoadedModel = loaded, **changes) -> dict:
        return json.loads(json.dumps(scoring_settings(argparse.Namespace(**(given | changes)), model)))

    assert settings() == settings()
    others = [
        settings(checkpoint=tmp_path / "b.pth"),
        settings(checkpoint=None, onnx=tmp_path / "a.pth"),
        settings(fragment_draws=2),
        settings(precision="bf16"),
        settings(loaded.with_max_pixels(5)),
        settings(replace(loaded, calibration=None)),
    ]
    assert all(other != settings() for other in others)
