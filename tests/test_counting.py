"""Counters of MACs: right about layers whose cost one can work out by hand."""

import pytest
import torch
from torch import nn

from models.linear import linear
from utils.counting import COUNTERS, count, parameters


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


def macs(module: nn.Module, *inputs: torch.Tensor) -> dict[str, int]:
    found = count(module.eval(), inputs, ["ptflops_aten", "torch_counter"])
    return {name: round(gmacs * 1e9) for name, gmacs in found.items()}


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_is_counted_whoever_multiplies(bias):
    products = 2 * 5 * 30 * 70
    found = macs(Layer(bias), torch.zeros(2, 5, 30))
    assert found["torch_counter"] == products
    assert found["ptflops_aten"] == products + bias * 2 * 5 * 70  # ptflops counts the bias, too


def test_a_batched_product_is_counted():
    found = macs(Product(), torch.zeros(4, 6, 7), torch.zeros(4, 6, 8), torch.zeros(4, 8, 7))
    assert set(found.values()) == {4 * 6 * 8 * 7}


def test_every_counter_counts_a_convolution():
    convolution = nn.Conv2d(3, 8, 4, stride=4, bias=False)
    found = count(convolution.eval(), (torch.zeros(1, 3, 16, 16),), list(COUNTERS))
    assert {round(gmacs * 1e9) for gmacs in found.values()} == {3 * 8 * 4 * 4 * 4 * 4}


def test_parameters_are_in_millions():
    assert parameters(nn.Linear(1000, 1000, bias=False)) == 1
