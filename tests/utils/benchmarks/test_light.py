"""Suites of half precision and light trunks: the same scores as timm's own networks, and figures from the times."""

import pytest
import torch

from models import build_model
from utils.benchmarks import light
from utils.benchmarks.views import SPEC, batch_of


def test_the_light_model_costs_at_most_eight_gmacs(jpeg, settings):
    figures = light.lite(jpeg, settings).figures
    assert 1 < figures["executed_gmacs"]["lite"] <= 8
    assert figures["speedup"]["lite_bf16"] == pytest.approx(figures["paper_ms"] / figures["lite_bf16_ms"])
    assert figures["decode_share"]["lite"] == pytest.approx(figures["bare_decode_ms"] / figures["lite_ms"])


def test_timms_networks_as_they_are_give_the_same_scores(jpeg, settings):
    torch.manual_seed(0)
    model = build_model("UIQA", backbone="timm:mobilenetv4_conv_small", view_sizes=SPEC.view_sizes).eval()
    batch = batch_of(jpeg, 2, settings.device)
    with torch.inference_mode():
        plain, ours = light.plain_scores(model, batch), model(**batch)
    torch.testing.assert_close(ours, plain, atol=1e-5 * max(1.0, plain.abs().max().item()), rtol=0)


def test_a_light_step_is_timed_with_and_without_frozen_stages(jpeg, settings, monkeypatch):
    monkeypatch.setattr(light, "STEP_TRUNK", "timm:test_resnet")
    monkeypatch.setattr(light, "STEP_SIZE", 64)
    monkeypatch.setattr(light, "STEP_FROZEN", 3)
    figures = light.light_step(jpeg, settings).figures
    assert set(figures["speedup"]) == {"ours", "ours_bf16", "frozen", "frozen_bf16"}
    assert figures["speedup"]["frozen"] == pytest.approx(figures["plain_ms"] / figures["frozen_ms"])


def test_every_precision_is_compared_with_float32(jpeg, settings, monkeypatch):
    monkeypatch.setattr(light, "COMPARED_TRUNKS", {"swin_nano": 64})
    monkeypatch.setattr(light, "PHOTOGRAPHS", 3)
    monkeypatch.setattr(light, "is_fast", lambda precision, device: True)
    of_model = light.precision(jpeg, settings).figures["swin_nano"]
    assert of_model["fp32"]["max_difference"] == 0
    for precision in ("bf16", "fp16"):
        assert 0 < of_model[precision]["mean_difference"] <= of_model[precision]["max_difference"] < 0.01
        assert of_model[precision]["map_sum_error"] < 1e-5


def test_rendered_photographs_differ_in_their_faults(monkeypatch):
    monkeypatch.setattr(light, "PHOTOGRAPHS", 6)
    images = light.rendered_photographs()
    assert len({image.tobytes() for image in images}) == 6
