"""Linear layers through oneDNN, on a CPU.

There, at this network's shapes, oneDNN multiplies a tenth to a fifth faster than the library behind torch's own linear
layer, also for the gradient of the input (not for that of the weights); where no gradient is wanted it applies the GELU
while the products are still in registers. The operator is the one that torch.compile puts in the place of linear layers
when their weights are frozen; with weights that may change torch.compile refuses it, unless it is hidden in an operator
of another name.
"""

import torch
from torch import nn
from torch.nn import functional

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: torch.Tensor, layer: nn.Linear, gelu: bool = False) -> torch.Tensor:
    """Return `layer(x)`, or its GELU: (..., C) -> (..., C'). The results agree to rounding whichever way is taken."""
    here = ONEDNN and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    here = here and x.dtype == layer.weight.dtype == torch.float32
    compiling, training = torch.compiler.is_compiling(), torch.is_grad_enabled()
    if here and not training:
        return (hidden_linear if compiling else _onednn_linear)(x, layer.weight, layer.bias, gelu)
    y = _WithGradient.apply(x, layer.weight, layer.bias) if here and not compiling else layer(x)
    return functional.gelu(y) if gelu else y


def _onednn_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: bool) -> torch.Tensor:
    activation, algorithm = ("gelu", "none") if gelu else ("none", "")  # "none": GELU itself, not its approximation
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)


class _WithGradient(torch.autograd.Function):
    """The product, with a gradient."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return _onednn_linear(x, weight, bias, False)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        of_x = _onednn_linear(gradient, weight.t(), None, False) if ctx.needs_input_grad[0] else None
        gradient = gradient.reshape(-1, gradient.shape[-1])
        of_weight = gradient.t() @ x.reshape(-1, x.shape[-1]) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, gradient.sum(0) if ctx.biased else None


@torch.library.custom_op("uiqa::linear", mutates_args=())
def hidden_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: bool) -> torch.Tensor:
    """Return the product, and its GELU, as an operator that torch.compile does not look into."""
    return _onednn_linear(x, weight, bias, gelu)


@hidden_linear.register_fake
def _shape_of_hidden_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: bool
) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
