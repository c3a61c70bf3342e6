"""Latency of every branch, reported with the device and precision it depends on."""

import sys
from functools import partial

import numpy as np
import pytest
import torch

from data.views import random_views
from models import build_model
from utils.benchmarks.latency import TOTAL, configured_model, device_name, measure_passes, precision, run_pass

CPU = torch.device("cpu")
BRANCHES = ("aesthetic", "distortion", "salient")
SHAPES = dict.fromkeys(BRANCHES, (1, 3, 64, 64))
BUILD = partial(build_model, backbone="timm:test_resnet", view_sizes=dict.fromkeys(BRANCHES, 64))


def test_branches_and_total_are_parts_and_whole_of_the_models_pass():
    model = BUILD().eval()
    views = random_views(SHAPES)
    with torch.inference_mode():
        assert torch.equal(run_pass(model, views, TOTAL), model(**views))
        features = torch.cat([run_pass(model, views, name) for name in BRANCHES], dim=1)
        assert torch.equal(model.regress(features), model(**views))


def test_random_views_are_the_same_on_every_call():
    first, second = random_views(SHAPES), random_views(SHAPES)
    for name, view in first.items():
        assert view.dtype == torch.uint8
        assert view.float().std() > 50
        assert torch.equal(view, second[name])


def test_the_peak_is_none_where_the_system_does_not_report_it(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    measurement = measure_passes(BUILD, SHAPES, CPU, rounds=3)
    assert list(measurement.times) == [*BRANCHES, TOTAL]
    latency = {name: float(np.median(times)) for name, times in measurement.times.items()}
    assert min(latency.values()) > 0
    assert measurement.figures == {
        "device_name": device_name(CPU),
        "precision": "float32",
        "batch_size": 1,
        "latency_ms": latency,
        "peak_memory_mb": dict.fromkeys([*BRANCHES, TOTAL]),
    }


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the peak of a process")
def test_the_peak_grows_with_the_view():
    build = partial(build_model, "SwinT", backbone="swin_nano")
    measurements = [measure_passes(build, {"aesthetic": (1, 3, side, side)}, CPU, rounds=1) for side in (224, 448)]
    small, large = (measurement.figures["peak_memory_mb"] for measurement in measurements)
    assert 2.5 * small["aesthetic"] < large["aesthetic"] < 6 * small["aesthetic"]
    assert large[TOTAL] == pytest.approx(large["aesthetic"], rel=0.3)


def test_the_precision_is_the_models():
    model = BUILD()
    assert precision(model, CPU) == "float32"
    assert precision(model.to(torch.bfloat16), CPU) == "bfloat16"


def test_the_device_has_a_name():
    assert device_name(CPU)


def test_without_a_config_the_papers_model_is_built():
    build, spec = configured_model(None, "swin_nano")
    assert build().view_names == BRANCHES
    assert spec.view_sizes == dict.fromkeys(BRANCHES, 480)


def test_a_config_decides_model_and_views():
    build, spec = configured_model("configs/demo.yaml")
    assert build.keywords["backbone"] == "timm:test_resnet"
    assert set(spec.view_sizes.values()) == {128}


def test_a_missing_config_is_reported_by_name(capsys):
    with pytest.raises(SystemExit):
        configured_model("missing.yaml")
    assert capsys.readouterr().err.startswith("benchmark.py: error: --config missing.yaml")
