"""Suites of the network: models that agree, and figures derived from the times."""

import pytest
import torch

from models import UIQA
from utils.benchmarks import network as network_suites


def test_the_models_have_the_same_weights(settings):
    plain, ours, compiled = network_suites.three_models(settings)
    for model in (ours, compiled):
        assert isinstance(model, UIQA)
        for name, value in plain.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])


def test_a_training_step_has_the_plain_gradients(jpeg, settings):
    figures = network_suites.train_step(jpeg, settings).figures
    assert figures["max_gradient_difference"] < 1e-4
    assert figures["speedup"] == pytest.approx(figures["plain_ms"] / figures["ours_ms"])


def test_the_limit_of_evaluation_is_the_slower_of_decoding_and_network(jpeg, settings, monkeypatch):
    monkeypatch.setattr(network_suites, "EVALUATED_PHOTOGRAPHS", 2)
    figures = network_suites.evaluate(jpeg, settings).figures
    assert figures["limit_ms"] == max(figures["decoding_ms"], figures["network_ms"])
    assert figures["ratio_to_limit"] == pytest.approx(figures["ours_ms"] / figures["limit_ms"])


@pytest.mark.slow
@pytest.mark.paper
def test_eager_and_compiled_passes_give_the_plain_scores(jpeg, settings):
    figures = network_suites.forward(jpeg, settings).figures
    assert figures["max_abs_diff"] < 1e-5
    assert set(figures["fraction_of_peak"]) == {"eager", "compiled"}
    assert figures["speedup_compiled"] == pytest.approx(figures["plain_ms"] / figures["compiled_ms"])
