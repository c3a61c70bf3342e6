"""Linear layers through oneDNN, on a CPU and where no gradient is wanted.

There, at this network's shapes, oneDNN multiplies a tenth faster than the library behind torch's own linear layer, and
applies the GELU while the products are still in registers. The operator is the one that torch.compile puts in the place
of linear layers when their weights are frozen; with weights that may change torch.compile refuses it, unless it is
hidden in an operator of another name.
"""

import torch
from torch import nn
from torch.nn import functional

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: torch.Tensor, layer: nn.Linear, gelu: bool = False) -> torch.Tensor:
    """Return `layer(x)`, or its GELU: (..., C) -> (..., C'). The results agree to rounding whichever way is taken."""
    here = ONEDNN and x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    if not here or not x.dtype == layer.weight.dtype == torch.float32:
        y = layer(x)
        return functional.gelu(y) if gelu else y
    product = hidden_linear if torch.compiler.is_compiling() else _onednn_linear
    return product(x, layer.weight, layer.bias, gelu)


def _onednn_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: bool) -> torch.Tensor:
    activation, algorithm = ("gelu", "none") if gelu else ("none", "")  # "none": GELU itself, not its approximation
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)


@torch.library.custom_op("uiqa::linear", mutates_args=())
def hidden_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: bool) -> torch.Tensor:
    """Return the product, and its GELU, as an operator that torch.compile does not look into."""
    return _onednn_linear(x, weight, bias, gelu)


@hidden_linear.register_fake
def _shape_of_hidden_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: bool
) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
