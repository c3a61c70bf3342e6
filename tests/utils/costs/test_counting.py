"""Counters: right about layers whose cost one can work out by hand, and the same with and without numbers."""

import pytest
import torch
from ptflops import get_model_complexity_info
from torch import nn
from torch.nn import functional
from torchvision.models import resnet50

from models import build_model
from models.backbones import build_trunk, published_swin
from models.linear import linear
from utils.costs.counting import COUNTERS, OPERATOR_COUNTERS, count, of_counter, parameters, tally, without_numbers


class Layer(nn.Module):
    """A linear layer as our trunks call it."""

    def __init__(self, bias: bool):
        super().__init__()
        self.layer = nn.Linear(30, 70, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.layer, gelu=True)


class Product(nn.Module):
    """A batched product with something added, as in our attention."""

    def forward(self, bias: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(bias, first, second)


class Attention(nn.Module):
    """Attention in one call, as timm's models have it."""

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(query, key, value)


class ReadsANumber(nn.Module):
    """Cannot run without numbers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum().item() >= 0 else x


def macs(module: nn.Module, *inputs: torch.Tensor) -> dict[str, int]:
    found = count(module.eval(), inputs, OPERATOR_COUNTERS)
    return {name: round(gmacs * 1e9) for name, gmacs in found.items()}


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_is_counted_whoever_multiplies(bias):
    products = 2 * 5 * 30 * 70
    outputs = 2 * 5 * 70
    module, inputs = without_numbers(Layer(bias).eval(), (torch.zeros(2, 5, 30),))
    for layer, x in ((Layer(bias), (torch.zeros(2, 5, 30),)), (module, inputs)):
        found = macs(layer, *x)
        assert found["torch_counter"] == products
        assert found["ptflops_aten"] == products + bias * outputs  # ptflops counts the bias, too
        assert of_counter(tally(layer, x)[0], "outputs") == {"activations": outputs, "biases": bias * outputs}


def test_a_batched_product_is_counted():
    found = macs(Product(), torch.zeros(4, 6, 7), torch.zeros(4, 6, 8), torch.zeros(4, 8, 7))
    assert set(found.values()) == {4 * 6 * 8 * 7}


def test_the_two_products_of_attention_in_one_call_are_counted():
    found = macs(Attention(), *(torch.zeros(1, 2, 10, 8) for _ in range(3)))
    assert found == dict.fromkeys(OPERATOR_COUNTERS, 2 * (2 * 10 * 10 * 8))


def test_every_counter_counts_a_convolution():
    convolution = nn.Conv2d(3, 8, 4, stride=4, bias=False)
    found = count(convolution.eval(), (torch.zeros(1, 3, 16, 16),), list(COUNTERS))
    assert {round(gmacs * 1e9) for gmacs in found.values()} == {3 * 8 * 4 * 4 * 4 * 4}


def test_parameters_are_in_millions():
    assert parameters(nn.Linear(1000, 1000, bias=False)) == 1


@pytest.mark.parametrize(
    "build",
    [
        lambda: build_model(backbone="swin_nano"),
        lambda: build_model(backbone="timm:test_resnet"),
        lambda: published_swin("swin_nano"),
    ],
)
def test_counts_without_numbers_are_the_counts(build):
    module = build().eval()
    inputs = tuple(torch.zeros(1, 3, 96, 96) for _ in range(3 if hasattr(module, "trunks") else 1))
    copied, shapes = without_numbers(module, inputs)
    assert all(parameter.is_meta for parameter in copied.parameters())
    assert not any(parameter.is_meta for parameter in module.parameters())
    found, expected = tally(copied, shapes)[0], tally(module, inputs)[0]
    for counter in (*OPERATOR_COUNTERS, "outputs"):
        assert sum(of_counter(found, counter).values()) == sum(of_counter(expected, counter).values())


def test_a_module_that_needs_numbers_is_counted_with_them():
    module, inputs = without_numbers(ReadsANumber().eval(), (torch.ones(1, 4),))
    assert macs(module, *inputs) == {"ptflops_aten": 20, "torch_counter": 16}


def test_ptflops_counts_here_as_it_does_by_itself():
    trunk = published_swin("swin_nano").eval()
    alone, _ = get_model_complexity_info(
        trunk, (3, 96, 96), as_strings=False, print_per_layer_stat=False, backend="aten"
    )
    assert macs(trunk, torch.zeros(1, 3, 96, 96))["ptflops_aten"] == alone


def test_activations_are_those_that_timm_reports():
    """11.11 M of ResNet-50 at 224 pixels, its 1000 classes included, in timm's table of results."""
    with torch.device("meta"):
        resnet = resnet50().eval()
        found, _ = tally(resnet, (torch.zeros(1, 3, 224, 224),))
    assert found["outputs", "activations"] / 1e6 == pytest.approx(11.11, abs=0.005)


def test_what_runs_outside_the_stages_is_in_none():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 16), nn.Linear(16, 2, bias=False)).eval()
    whole, stages = tally(model, (torch.zeros(1, 4),), {"first": [model[0]], "last": [model[2]]})
    found = {name: of_counter(counts, "torch_counter") for name, counts in stages.items()}
    assert {name: sum(operators.values()) for name, operators in found.items()} == {"first": 32, "last": 32}
    assert sum(of_counter(whole, "torch_counter").values()) == 32 + 128 + 32


def test_counting_leaves_no_hook_behind():
    trunk = build_trunk("swin_nano", 64).eval()
    tally(trunk, (torch.zeros(1, 3, 64, 64),), {"all": [trunk]})
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in trunk.modules())
