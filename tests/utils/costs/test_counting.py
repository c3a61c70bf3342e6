"""Counters: right about layers whose cost is known, and the same on the meta device."""

import pytest
import torch
from ptflops import get_model_complexity_info
from torch import nn
from torch.nn import functional
from torchvision.models import resnet50

from models import build_model
from models.backbones import build_trunk, published_swin
from utils.costs.counting import COUNTERS, OPERATOR_COUNTERS, Counts, count, count_operators, parameters, to_meta


class Product(nn.Module):
    """A batched product with something added, as in our attention."""

    def forward(self, bias: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(bias, first, second)


class Attention(nn.Module):
    """Attention in one call, as timm's models have it."""

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(query, key, value)


class BranchesOnAValue(nn.Module):
    """Cannot run on the meta device."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum().item() >= 0 else x


def macs(module: nn.Module, *inputs: torch.Tensor) -> dict[str, int]:
    counted = count(module.eval(), inputs, OPERATOR_COUNTERS)
    return {name: round(gmacs * 1e9) for name, gmacs in counted.items()}


def totals(counts: Counts) -> dict[str, int]:
    return {name: counter.total() for name, counter in counts.items()}


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_is_counted(bias):
    products = 2 * 5 * 30 * 70
    outputs = 2 * 5 * 70
    module, inputs = nn.Linear(30, 70, bias=bias).eval(), (torch.zeros(2, 5, 30),)
    for layer, x in ((module, inputs), to_meta(module, inputs)):
        assert totals(count_operators(layer, x)[0]) == {
            "ptflops_aten": products + bias * outputs,  # ptflops counts the bias, too
            "torch_counter": products,
            "activations": outputs,
            "biases": bias * outputs,
        }


def test_a_batched_product_is_counted():
    counted = macs(Product(), torch.zeros(4, 6, 7), torch.zeros(4, 6, 8), torch.zeros(4, 8, 7))
    assert set(counted.values()) == {4 * 6 * 8 * 7}


def test_the_two_products_of_attention_in_one_call_are_counted():
    counted = macs(Attention(), *(torch.zeros(1, 2, 10, 8) for _ in range(3)))
    assert counted == dict.fromkeys(OPERATOR_COUNTERS, 2 * (2 * 10 * 10 * 8))


def test_every_counter_counts_a_convolution():
    convolution = nn.Conv2d(3, 8, 4, stride=4, bias=False)
    counted = count(convolution.eval(), (torch.zeros(1, 3, 16, 16),), list(COUNTERS))
    assert {round(gmacs * 1e9) for gmacs in counted.values()} == {3 * 8 * 4 * 4 * 4 * 4}


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
def test_counts_on_the_meta_device_are_those_of_a_real_pass(build):
    module = build().eval()
    inputs = tuple(torch.zeros(1, 3, 96, 96) for _ in range(3 if hasattr(module, "trunks") else 1))
    copied, shapes = to_meta(module, inputs)
    assert all(parameter.is_meta for parameter in copied.parameters())
    assert not any(parameter.is_meta for parameter in module.parameters())
    assert totals(count_operators(copied, shapes)[0]) == totals(count_operators(module, inputs)[0])


def test_a_module_that_cannot_run_on_the_meta_device_is_counted_in_a_real_pass():
    module, inputs = to_meta(BranchesOnAValue().eval(), (torch.ones(1, 4),))
    assert macs(module, *inputs) == {"ptflops_aten": 20, "torch_counter": 16}


def test_ptflops_counts_what_its_own_aten_backend_counts():
    trunk = published_swin("swin_nano").eval()
    alone, _ = get_model_complexity_info(
        trunk, (3, 96, 96), as_strings=False, print_per_layer_stat=False, backend="aten"
    )
    assert macs(trunk, torch.zeros(1, 3, 96, 96))["ptflops_aten"] == alone


def test_activations_are_those_that_timm_reports():
    """11.11 M of ResNet-50 at 224 pixels, its 1000 classes included, in timm's table of results."""
    with torch.device("meta"):
        resnet = resnet50().eval()
        counts, _ = count_operators(resnet, (torch.zeros(1, 3, 224, 224),))
    assert counts["activations"].total() / 1e6 == pytest.approx(11.11, abs=0.005)


def test_operators_outside_the_stages_count_in_none():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 16), nn.Linear(16, 2, bias=False)).eval()
    whole, stages = count_operators(model, (torch.zeros(1, 4),), {"first": [model[0]], "last": [model[2]]})
    assert {name: totals(counts)["torch_counter"] for name, counts in stages.items()} == {"first": 32, "last": 32}
    assert totals(whole)["torch_counter"] == 32 + 128 + 32


def test_a_list_that_is_never_called_counts_as_its_modules_do():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(4, 4, bias=False) for _ in range(3)])

        def forward(self, x):
            for block in (*self.blocks, self.blocks[0]):
                x = block(x)
            return x

    model = Loop().eval()
    _, stages = count_operators(model, (torch.zeros(1, 4),), {"blocks": [model.blocks]})
    assert totals(stages["blocks"]) == {"ptflops_aten": 64, "torch_counter": 64, "activations": 16, "biases": 0}


def test_counting_removes_its_hooks():
    trunk = build_trunk("swin_nano", 64).eval()
    count_operators(trunk, (torch.zeros(1, 3, 64, 64),), {"all": [trunk]})
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in trunk.modules())
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks
