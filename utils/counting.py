"""Counters of parameters and of multiply-accumulates (MACs), and what they do not know by themselves."""

import math
import os
from collections.abc import Sequence
from contextlib import redirect_stdout

import torch
from ptflops import get_model_complexity_info
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.linear import ONEDNN

COUNTERS = {
    "ptflops_aten": "ptflops, aten backend: operators, attention included",
    "torch_counter": "torch.utils.flop_counter: matrix products and convolutions only",
    "ptflops_pytorch": "ptflops, pytorch backend: misses attention; the source of the published 43.5 G",
}


def parameters(module: nn.Module) -> float:
    """Return the number of parameters in millions."""
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@torch.no_grad()
def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], counters: Sequence[str]) -> dict[str, float]:
    """Return the GMACs of one forward pass by each of some counters.

    Args:
        module: in evaluation mode.
        inputs: positional; a batch of one for figures per image.
        counters: keys of COUNTERS.
    """
    return {
        name: (
            _count_with_torch(module, inputs)
            if name == "torch_counter"
            else _count_with_ptflops(module, inputs, name.removeprefix("ptflops_"))
        )
        / 1e9
        for name in counters
    }


def _count_with_torch(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
    onednn = {torch.ops.mkldnn._linear_pointwise: _onednn_linear_flops} if ONEDNN else {}
    with FlopCounterMode(display=False, custom_mapping=onednn) as counter:
        module(*inputs)
    return counter.get_total_flops() / 2


def _onednn_linear_flops(x: Sequence[int], weight: Sequence[int], *others: object, **out: object) -> int:
    """Return the FLOPs of a linear layer by the shapes of its operands, as torch's counter has them of its own."""
    return 2 * math.prod(x) * weight[0]


def _count_with_ptflops(module: nn.Module, inputs: tuple[torch.Tensor, ...], backend: str) -> float:
    handlers = {}
    if backend == "aten":
        handlers[torch.ops.aten.baddbmm] = _baddbmm_macs
        if ONEDNN:
            handlers[torch.ops.mkldnn._linear_pointwise] = _onednn_linear_macs
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123
        macs, _ = get_model_complexity_info(
            _Positional(module),
            (1,),
            input_constructor=lambda _: {"inputs": inputs},
            as_strings=False,
            print_per_layer_stat=False,
            backend=backend,
            custom_modules_hooks=handlers,
        )
    return macs


def _baddbmm_macs(inputs: Sequence, outputs: Sequence) -> int:
    """Return the MACs of (B, n, p) + (B, n, m) @ (B, m, p)."""
    _, first, second = inputs[:3]
    return first.numel() * second.shape[-1]


def _onednn_linear_macs(inputs: Sequence, outputs: Sequence) -> int:
    """Return the MACs of (..., C) times (C', C), and of the bias, which ptflops counts."""
    x, weight, bias = inputs[:3]
    return x.numel() * weight.shape[0] + (0 if bias is None else outputs[0].numel())


class _Positional(nn.Module):
    """Calls a module with a tuple of inputs: ptflops passes keyword arguments only."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.module(*inputs)
