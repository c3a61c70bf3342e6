"""Benchmarks of the network: models that agree, and figures that follow from the times."""

import argparse

import numpy as np
import pytest
import torch

from models import UIQA
from utils.benchmarks import network as network_suites
from utils.benchmarks.views import encode


@pytest.fixture(scope="module")
def content() -> bytes:
    return encode(np.random.default_rng(0).integers(0, 256, (500, 700, 3), np.uint8))


@pytest.fixture
def options() -> argparse.Namespace:
    return argparse.Namespace(rounds=1, backbone="swin_nano", batch_size=1, device=torch.device("cpu"), num_workers=1)


def test_the_models_have_the_same_weights(options):
    plain, ours, compiled = network_suites.three_models(options)
    for model in (ours, compiled):
        assert isinstance(model, UIQA)
        for name, value in plain.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])


def test_a_training_step_has_the_plain_gradients(content, options):
    figures = network_suites.train_step(content, options).figures
    assert figures["max_gradient_difference"] < 1e-4
    assert figures["speedup"] == pytest.approx(figures["plain_ms"] / figures["ours_ms"])


def test_evaluation_is_held_to_the_slower_of_decoding_and_network(content, options, monkeypatch):
    monkeypatch.setattr(network_suites, "EVALUATED_PHOTOGRAPHS", 2)
    figures = network_suites.evaluate(content, options).figures
    assert figures["limit_ms"] == max(figures["decoding_ms"], figures["network_ms"])
    assert figures["ratio_to_limit"] == pytest.approx(figures["ours_ms"] / figures["limit_ms"])


@pytest.mark.slow
def test_a_pass_gives_the_plain_scores_eager_and_compiled(content, options):
    figures = network_suites.forward(content, options).figures
    assert figures["max_abs_diff"] < 1e-5
    assert set(figures["fraction_of_peak"]) == {"eager", "compiled"}
    assert figures["speedup_compiled"] == pytest.approx(figures["plain_ms"] / figures["compiled_ms"])


def test_the_light_model_costs_at_most_eight_gmacs(content, options):
    figures = network_suites.lite(content, options).figures
    assert 1 < figures["executed_gmacs"]["lite"] <= 8
    assert figures["speedup"] == pytest.approx(figures["paper_ms"] / figures["lite_ms"])
    assert figures["decode_share"]["lite"] == pytest.approx(figures["bare_decode_ms"] / figures["lite_ms"])
