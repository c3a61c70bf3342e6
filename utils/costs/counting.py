"""Count the parameters, multiply-accumulates (MACs) and activations of a module, by operator and by submodule."""

import copy
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial

import torch
from ptflops import get_model_complexity_info
from ptflops.aten_engine import FlopCounterMode as PtflopsCounterMode
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

COUNTERS = {
    "ptflops_aten": "ptflops, aten backend: operators, attention included",
    "torch_counter": "torch.utils.flop_counter: matrix products and convolutions only",
    "ptflops_pytorch": "ptflops, pytorch backend: misses attention; the source of the published 43.5 G",
}
OPERATOR_COUNTERS = ("ptflops_aten", "torch_counter")  # these count per submodule, too

# By counter and operator: "ptflops_aten" and "torch_counter" in MACs; "activations", the outputs of convolutions and
# matrix products; and "biases", how many of these outputs had a layer's bias added.
Counts = dict[str, Counter]

# Convolutions and matrix products, each with the index of the layer's bias among its arguments. What baddbmm adds in
# attention is not a layer's bias, and no counter counts it.
BIAS_ARGUMENT = {
    torch.ops.aten.convolution: 2,
    torch.ops.aten.addmm: 0,
    torch.ops.aten.mm: None,
    torch.ops.aten.bmm: None,
    torch.ops.aten.baddbmm: None,
}


def parameters(module: nn.Module) -> float:
    """Return the number of parameters in millions; a parameter that several branches use counts once."""
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def to_meta(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Return copies of a module and its inputs on the device "meta", where tensors have shapes but no data.

    The operator counters count the same there, without the time and memory of a real pass. (ptflops' pytorch backend
    does not: on "meta" it sees torch's operators call each other.) A module that cannot run there is returned as it is.
    """
    copied = copy.deepcopy(module).to("meta")
    shapes = tuple(view.to("meta") for view in inputs)
    try:
        with torch.no_grad():
            copied(*shapes)
    except (NotImplementedError, RuntimeError):  # an operator without a meta kernel, or a branch on a tensor's value
        return module, inputs
    return copied, shapes


def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], counters: Sequence[str]) -> dict[str, float]:
    """Return the GMACs of one forward pass by counter.

    Args:
        module: in evaluation mode.
        inputs: positional; a batch of one gives figures per image.
        counters: keys of COUNTERS.
    """
    counts = count_operators(module, inputs)[0] if set(counters) & set(OPERATOR_COUNTERS) else {}
    macs = {name: counter.total() for name, counter in counts.items()}
    if "ptflops_pytorch" in counters:
        macs["ptflops_pytorch"] = _count_with_ptflops_modules(module, inputs)
    return {name: macs[name] / 1e9 for name in counters}


@torch.enable_grad()  # as in training: without gradients normalisations may be folded away
def count_operators(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], stages: Mapping[str, Sequence[nn.Module]] | None = None
) -> tuple[Counts, dict[str, Counts]]:
    """Count the operators of one forward pass, in the whole module and in each stage.

    Args:
        module: in evaluation mode.
        inputs: positional.
        stages: the submodules of each; no submodule belongs to two of them.

    Returns:
        The counts of the whole pass, and those of each stage.
    """
    torch_counter = FlopCounterMode(display=False)
    activations = FlopCounterMode(display=False, custom_mapping=dict.fromkeys(BIAS_ARGUMENT, _activations))
    biases = FlopCounterMode(
        display=False, custom_mapping={op: partial(_biases, index) for op, index in BIAS_ARGUMENT.items()}
    )
    ptflops = PtflopsCounterMode(custom_hooks={torch.ops.aten.baddbmm: _baddbmm_macs})
    ptflops.parents = torch_counter.mod_tracker.parents  # ptflops itself tracks one level of modules only
    # Not every counter knows fused attention; the math backend runs it as two products, which all of them know.
    with sdpa_kernel(SDPBackend.MATH), torch_counter, activations, biases, ptflops:
        module(*inputs)

    counters = {
        "ptflops_aten": ptflops.flop_counts,
        "torch_counter": torch_counter.flop_counts,
        "activations": activations.flop_counts,
        "biases": biases.flop_counts,
    }
    root = type(module).__name__
    names = {part: f"{root}.{name}".removesuffix(".") for name, part in module.named_modules()}

    def counts_of(*parts: nn.Module) -> Counts:
        counts = {
            counter: sum((_sum_of_calls(by_module, part, names[part]) for part in parts), Counter())
            for counter, by_module in counters.items()
        }
        halved = {name: flops // 2 for name, flops in counts["torch_counter"].items()}  # 1 MAC = 2 FLOPs
        return counts | {"torch_counter": Counter(halved)}

    return counts_of(module), {name: counts_of(*parts) for name, parts in (stages or {}).items()}


def _sum_of_calls(by_module: Mapping[str, Mapping[object, int]], module: nn.Module, name: str) -> Counter:
    """Return a submodule's counts by operator; if it was never called, as a list of blocks is not, its children's."""
    if name in by_module:
        return Counter({str(operator): value for operator, value in by_module[name].items()})
    children = (_sum_of_calls(by_module, child, f"{name}.{key}") for key, child in module.named_children())
    return sum(children, Counter())


def _activations(*shapes: object, out_shape: Sequence[int], **others: object) -> int:
    return math.prod(out_shape)


def _biases(index: int | None, *shapes: object, out_shape: Sequence[int], **others: object) -> int:
    return 0 if index is None or shapes[index] is None else math.prod(out_shape)


def _baddbmm_macs(inputs: Sequence, outputs: Sequence) -> int:
    """Return the MACs of (B, n, p) + (B, n, m) @ (B, m, p)."""
    _, first, second = inputs[:3]
    return first.numel() * second.shape[-1]


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
