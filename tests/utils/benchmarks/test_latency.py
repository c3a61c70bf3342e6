"""Measured passes: of every branch, with what they depend on named."""

import sys
from functools import partial

import pytest
import torch

from data.views import random_views
from models import build_model
from utils.benchmarks.latency import TOTAL, device_name, measure_passes, precision, run_pass

CPU = torch.device("cpu")
BRANCHES = ("aesthetic", "distortion", "salient")
SHAPES = dict.fromkeys(BRANCHES, (1, 3, 64, 64))
BUILD = partial(build_model, backbone="timm:test_resnet", view_sizes=dict.fromkeys(BRANCHES, 64))


def test_the_passes_are_those_of_the_model():
    model = BUILD().eval()
    views = random_views(SHAPES)
    with torch.inference_mode():
        assert torch.equal(run_pass(model, views, TOTAL), model(**views))
        features = torch.cat([run_pass(model, views, name) for name in BRANCHES], dim=1)
        assert torch.equal(model.regress(features), model(**views))


def test_views_are_noise_and_the_same_on_every_call():
    first, second = random_views(SHAPES), random_views(SHAPES)
    for name, view in first.items():
        assert view.dtype == torch.uint8
        assert view.float().std() > 50
        assert torch.equal(view, second[name])


@pytest.mark.parametrize("system", ["darwin"])
def test_a_system_that_tells_no_peak_gets_none(system, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    measured = measure_passes(BUILD, SHAPES, CPU, passes=3)
    rows = measured.pop("rows")
    assert list(rows) == [*BRANCHES, TOTAL]
    for row in rows.values():
        low, high = row["quartiles_ms"]
        assert 0 < low <= row["latency_ms"] <= high
        assert row["peak_memory_mb"] is None
    assert rows[TOTAL]["latency_ms"] > max(rows[name]["latency_ms"] for name in BRANCHES)
    assert measured == {
        "device": "cpu",
        "device_name": device_name(CPU),
        "precision": "float32",
        "batch_size": 1,
        "threads": torch.get_num_threads(),
        "passes": 3,
    }


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_the_peak_grows_with_the_view():
    build = partial(build_model, "SwinT", backbone="swin_nano")
    peaks = [measure_passes(build, {"aesthetic": (1, 3, side, side)}, CPU, passes=1)["rows"] for side in (224, 448)]
    small, large = (rows["aesthetic"]["peak_memory_mb"] for rows in peaks)
    assert 2.5 * small < large < 6 * small
    assert peaks[1][TOTAL]["peak_memory_mb"] == pytest.approx(large, rel=0.3)


def test_a_precision_is_the_models():
    model = BUILD()
    assert precision(model, CPU) == "float32"
    assert precision(model.to(torch.bfloat16), CPU) == "bfloat16"


def test_the_device_has_a_name():
    assert device_name(CPU)
