"""Linear layers through oneDNN: the layer's own results, and only where they can be had."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from models import linear as module
from models.linear import hidden_linear, linear


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(24, 40)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 4, 24)], ids=str)
def test_the_result_is_the_layers(shape, bias, gelu):
    layer = nn.Linear(24, 40, bias=bias)
    x = torch.randn(shape)
    expected = functional.gelu(layer(x)) if gelu else layer(x)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, layer, gelu), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(hidden_linear(x, layer.weight, layer.bias, gelu), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 4, 24)], ids=str)
def test_the_gradients_are_the_layers(shape, bias, gelu):
    layer = nn.Linear(24, 40, bias=bias)
    x = torch.randn(shape, requires_grad=True)
    inputs = [x, *layer.parameters()]
    weights = torch.randn(*shape[:-1], 40)
    expected = torch.autograd.grad(((functional.gelu(layer(x)) if gelu else layer(x)) * weights).sum(), inputs)
    found = torch.autograd.grad((linear(x, layer, gelu) * weights).sum(), inputs)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_gradient_that_nobody_wants_is_not_computed(layer):
    layer.weight.requires_grad_(False)
    linear(torch.randn(3, 24), layer).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_left_to_torch(layer, dtype):
    x = torch.randn(3, 24, dtype=dtype)
    layer = layer.to(dtype)
    with torch.inference_mode():
        assert torch.equal(linear(x, layer), layer(x))


def test_autocast_is_respected(layer):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(3, 24), layer).dtype == torch.bfloat16


def test_without_onednn_the_layer_itself_is_used(layer, monkeypatch):
    monkeypatch.setattr(module, "ONEDNN", False)
    x = torch.randn(3, 24)
    with torch.inference_mode():
        assert torch.equal(linear(x, layer, gelu=True), functional.gelu(layer(x)))


@pytest.mark.skipif(not module.ONEDNN, reason="this build of torch has no oneDNN")
def test_the_operator_tells_its_shape_without_being_run(layer):
    torch.library.opcheck(hidden_linear, (torch.randn(2, 5, 24), layer.weight.detach(), layer.bias.detach(), True))
