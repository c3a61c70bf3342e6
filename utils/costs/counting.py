"""Counters of parameters, multiply-accumulates (MACs) and activations, and what they do not know by themselves."""

import copy
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout

import torch
from ptflops import get_model_complexity_info
from ptflops.aten_engine import FlopCounterMode as PtflopsCounterMode
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from models.linear import ONEDNN

COUNTERS = {
    "ptflops_aten": "ptflops, aten backend: operators, attention included",
    "torch_counter": "torch.utils.flop_counter: matrix products and convolutions only",
    "ptflops_pytorch": "ptflops, pytorch backend: misses attention; the source of the published 43.5 G",
}
OPERATOR_COUNTERS = ("ptflops_aten", "torch_counter")  # those that can tell one stage from another

# What was counted: by counter and operator MACs; under ("outputs", "activations") how many numbers all convolutions and
# matrix products put out, and under ("outputs", "biases") how many of these had a layer's bias added.
Counts = dict[tuple[str, str], float]

# Convolutions and matrix products: for each the place of a layer's bias among its arguments. What baddbmm adds in
# attention is no layer's bias, and no counter counts it.
PRODUCTS = {
    torch.ops.aten.convolution: 2,
    torch.ops.aten.addmm: 0,
    torch.ops.aten.mm: None,
    torch.ops.aten.bmm: None,
    torch.ops.aten.baddbmm: None,
    **({torch.ops.mkldnn._linear_pointwise: 2} if ONEDNN else {}),
}


def parameters(module: nn.Module) -> float:
    """Return the number of parameters in millions; those that several branches share count once."""
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def without_numbers(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Return a copy of a module and of its inputs on the device "meta", which has shapes and no numbers.

    What the operator counters find is the same there, and takes neither the time nor the memory of a pass. (ptflops'
    pytorch backend finds more, because there torch's operators call each other as functions.) A module that cannot run
    without numbers is returned as it is.
    """
    copied = copy.deepcopy(module).to("meta")
    shapes = tuple(view.to("meta") for view in inputs)
    try:
        with torch.no_grad():
            copied(*shapes)
    except (NotImplementedError, RuntimeError):  # an operator without a shape rule, or a branch that reads a number
        return module, inputs
    return copied, shapes


def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], counters: Sequence[str]) -> dict[str, float]:
    """Return the GMACs of one forward pass by each of some counters.

    Args:
        module: in evaluation mode.
        inputs: positional; a batch of one for figures per image.
        counters: keys of COUNTERS.
    """
    counts = tally(module, inputs)[0] if set(counters) & set(OPERATOR_COUNTERS) else {}
    macs = {name: sum(of_counter(counts, name).values()) for name in OPERATOR_COUNTERS}
    if "ptflops_pytorch" in counters:
        macs["ptflops_pytorch"] = _count_with_ptflops_modules(module, inputs)
    return {name: macs[name] / 1e9 for name in counters}


def of_counter(counts: Counts, counter: str) -> dict[str, float]:
    """Return what one counter found, by operator."""
    return {operator: value for (name, operator), value in counts.items() if name == counter}


@torch.no_grad()
def tally(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], stages: Mapping[str, Sequence[nn.Module]] | None = None
) -> tuple[Counts, dict[str, Counts]]:
    """Count one forward pass with both operator counters, as a whole and within stages.

    Args:
        module: in evaluation mode.
        inputs: positional.
        stages: for each the modules that belong to it, without a module in two of them.

    Returns:
        The counts of the whole pass, and those of each stage.
    """
    onednn_flops = {torch.ops.mkldnn._linear_pointwise: _onednn_linear_flops} if ONEDNN else {}
    onednn_macs = {torch.ops.mkldnn._linear_pointwise: _onednn_linear_macs} if ONEDNN else {}
    torch_counter = FlopCounterMode(display=False, custom_mapping=onednn_flops)
    ptflops = PtflopsCounterMode(custom_hooks={torch.ops.aten.baddbmm: _baddbmm_macs, **onednn_macs})
    outputs = _Outputs()

    def read() -> Counts:
        flops, macs = torch_counter.flop_counts["Global"], ptflops.flop_counts["Global"]
        return (
            {("torch_counter", str(operator)): value / 2 for operator, value in flops.items()}
            | {("ptflops_aten", str(operator)): value for operator, value in macs.items()}
            | {("outputs", name): value for name, value in outputs.found.items()}
        )

    found: dict[str, Counts] = {name: defaultdict(float) for name in stages or {}}
    # Fused attention is one operator that not every counter knows; as two products all of them see the same.
    with sdpa_kernel(SDPBackend.MATH), torch_counter, ptflops, outputs, _within(stages or {}, read, found):
        module(*inputs)
        whole = read()
    return whole, {name: dict(counts) for name, counts in found.items()}


@contextmanager
def _within(
    stages: Mapping[str, Sequence[nn.Module]], read: Callable[[], Counts], found: dict[str, Counts]
) -> Iterator[None]:
    """Add to `found` by how much a reading grows while a module of a stage runs."""
    readings: list[Counts] = []  # at the beginning of every call that has not ended, the outermost first

    def enter(*_: object) -> None:
        readings.append(read())

    def leave(name: str) -> None:
        before = readings.pop()
        if not readings:
            for key, value in read().items():
                found[name][key] += value - before.get(key, 0)

    handles = []
    for name, modules in stages.items():
        for part in {part for module in modules for part in module.modules()}:  # containers are not always called
            handles.append(part.register_forward_pre_hook(enter))
            handles.append(part.register_forward_hook(lambda *_, name=name: leave(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Outputs(TorchDispatchMode):
    """Counts the numbers that convolutions and matrix products put out, and how many of them had a bias added."""

    def __init__(self):
        super().__init__()
        self.found = {"activations": 0, "biases": 0}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        packet = getattr(func, "_overloadpacket", None)
        if packet in PRODUCTS:
            self.found["activations"] += output.numel()
            place = PRODUCTS[packet]
            if place is not None and args[place] is not None:
                self.found["biases"] += output.numel()
        return output


def _onednn_linear_flops(x: Sequence[int], weight: Sequence[int], *others: object, **out: object) -> int:
    """Return the FLOPs of a linear layer by the shapes of its operands, as torch's counter has them of its own."""
    return 2 * math.prod(x) * weight[0]


def _baddbmm_macs(inputs: Sequence, outputs: Sequence) -> int:
    """Return the MACs of (B, n, p) + (B, n, m) @ (B, m, p)."""
    _, first, second = inputs[:3]
    return first.numel() * second.shape[-1]


def _onednn_linear_macs(inputs: Sequence, outputs: Sequence) -> int:
    """Return the MACs of (..., C) times (C', C), and of the bias, which ptflops counts."""
    x, weight, bias = inputs[:3]
    return x.numel() * weight.shape[0] + (0 if bias is None else outputs[0].numel())


@torch.no_grad()
def _count_with_ptflops_modules(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123
        macs, _ = get_model_complexity_info(
            _Positional(module),
            (1,),
            input_constructor=lambda _: {"inputs": inputs},
            as_strings=False,
            print_per_layer_stat=False,
            backend="pytorch",
        )
    return macs


class _Positional(nn.Module):
    """Calls a module with a tuple of inputs: ptflops passes keyword arguments only."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.module(*inputs)
