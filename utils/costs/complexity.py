"""Parameters, MACs and activations of a model, by branch and by stage."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn

from models.backbones import SwinTrunk, published_swin
from models.stages import trunk_stages
from models.uiqa import QualityModel
from utils.costs.counting import OPERATOR_COUNTERS, Counts, count, count_operators, parameters, to_meta

AGREEMENT = 0.01  # a larger relative difference of the two operator counters is explained, operator by operator
BYTES = 4  # of a float32 number
REST = "rest"


def complexity(model: QualityModel, views: dict[str, torch.Tensor], counters: Sequence[str]) -> dict:
    """Return the cost of a forward pass: of the model, of its branches, and of the stages of their trunks.

    Args:
        model: in evaluation mode.
        views: of one photograph, (1, 3, S, S), or (1, K, 3, S, S) where a view has several patches.
        counters: keys of `utils.costs.counting.COUNTERS`, the operator counters among them. Stages have only these.

    Returns:
        A row for the whole model, with `branches`: for each a row with its `input` shape and its `stages`: for each a
        row. Stages add up to their branch. Branches and the head add up to the model, except that parameters of a
        shared trunk count once. A row has

        - `params_m`: millions of parameters;
        - `gmacs`: by counter;
        - `gmacs_of_biases`: the additions of biases, which ptflops' aten backend counts and torch's counter does not;
        - `activations_mb`: megabytes, at float32, of the outputs of all convolutions and matrix products. Their number
          is the "activations" of Radosavovic et al., "Designing Network Design Spaces", CVPR 2020, Sec. 3.2, counted
          as fvcore and timm do. It indicates memory traffic and, in training, what is kept for the backward pass; the
          peak memory of a pass is less, and `benchmark.py --suite latency` measures it;
        - `difference_by_operator`, only where the operator counters differ by more than AGREEMENT: ptflops' aten
          backend minus torch's counter, in GMACs.
    """
    inputs = tuple(views[name] for name in model.trunks())
    meta, shapes = to_meta(model, inputs)
    branches = {}
    for (name, trunk), shape in zip(meta.trunks().items(), shapes, strict=True):
        whole, stages = _rows(trunk, (shape.flatten(0, -4),), trunk_stages(trunk))
        branches[name] = {"input": list(shape.shape[1:]), **whole, "stages": stages}
    report, _ = _rows(meta, shapes, {})
    others = [counter for counter in counters if counter not in OPERATOR_COUNTERS]
    for name, trunk in model.trunks().items():
        branches[name]["gmacs"] |= count(trunk, (views[name].flatten(0, -4),), others)
    report["gmacs"] |= count(model, inputs, others)
    return {**report, "branches": branches}


def as_published(model: QualityModel, backbone: str) -> QualityModel:
    """Replace our Swin trunks by torchvision's own, in place, and return the model; other trunks stay."""
    for name, trunk in list(model.named_children()):
        if isinstance(trunk, SwinTrunk):
            setattr(model, name, published_swin(backbone).eval())
    return model


def explained_by_biases(row: dict) -> bool:
    """Return whether the operator counters agree on a row without its biases."""
    ptflops, torch_counter = (row["gmacs"][counter] for counter in OPERATOR_COUNTERS)
    return _agree(ptflops - row["gmacs_of_biases"], torch_counter)


def _rows(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], stages: dict[str, list[nn.Module]]
) -> tuple[dict, dict[str, dict]]:
    """Return a module's row and its stages' rows; what belongs to no stage is one more, if it costs anything."""
    counts, of_stages = count_operators(module, inputs, stages)
    rows = {name: _row(sum(map(parameters, parts)), of_stages[name]) for name, parts in stages.items()}
    rest = {key: total - sum((stage[key] for stage in of_stages.values()), Counter()) for key, total in counts.items()}
    rows[REST] = _row(max(0.0, parameters(module) - sum(row["params_m"] for row in rows.values())), rest)
    return _row(parameters(module), counts), {name: row for name, row in rows.items() if _costs(row)}


def _row(params_m: float, counts: Counts) -> dict:
    row = {
        "params_m": params_m,
        "gmacs": {counter: counts[counter].total() / 1e9 for counter in OPERATOR_COUNTERS},
        "gmacs_of_biases": counts["biases"].total() / 1e9,
        "activations_mb": counts["activations"].total() * BYTES / 1e6,
    }
    if not _agree(*row["gmacs"].values()):
        first, second = (counts[counter] for counter in OPERATOR_COUNTERS)
        differences = {name: first[name] - second[name] for name in sorted({*first, *second})}
        row["difference_by_operator"] = {name: macs / 1e9 for name, macs in differences.items() if macs}
    return row


def _agree(first: float, second: float) -> bool:
    return abs(first - second) <= AGREEMENT * abs(second)


def _costs(row: dict) -> bool:
    return row["params_m"] > 1e-9 or row["activations_mb"] > 0 or any(row["gmacs"].values())
