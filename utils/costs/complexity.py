"""What a model costs, branch by branch and stage by stage: parameters, MACs and activations."""

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer

from models.backbones import SwinTrunk, published_swin
from models.uiqa import QualityModel
from utils.costs.counting import OPERATOR_COUNTERS, Counts, count, of_counter, parameters, tally, without_numbers

AGREEMENT = 0.01  # relative difference of the two operator counters from which on it is explained
BYTES = 4  # of a float32 number
CONTAINERS = ("stages", "layers", "blocks")  # timm's names for the list of a model's stages
REST = "rest"


def complexity(model: QualityModel, views: dict[str, torch.Tensor], counters: Sequence[str]) -> dict:
    """Return what a forward pass costs: of the model, of its branches, and of the stages of their trunks.

    Args:
        model: in evaluation mode.
        views: a batch of one photograph, (1, 3, S, S), or (1, K, 3, S, S) where a view is several pictures.
        counters: keys of `utils.costs.counting.COUNTERS`, the operator counters among them; stages have these alone.

    Returns:
        A row for the whole model with `branches`: by name a row with `input` and with `stages`: by name a row. Stages
        add up to their branch; branches and the head add up to the model, but for parameters that branches share. A row
        has

        - `params_m`: millions of parameters;
        - `gmacs`: by counter;
        - `gmacs_of_biases`: the additions of biases, which ptflops' aten backend counts and torch's counter does not;
        - `activations_mb`: megabytes, at float32, of what all convolutions and matrix products put out: the number of
          activations (Radosavovic et al., "Designing Network Design Spaces", CVPR 2020, Sec. 3.2; fvcore and timm
          count it so) times four. It stands for the traffic of memory and, in training, for what is kept for the
          backward pass; what one pass of scoring holds at a time is less, and is measured by `flops.py --latency`;
        - `difference_by_operator`, only where the operator counters differ by more than AGREEMENT: GMACs that
          ptflops' aten backend has more than torch's counter.
    """
    inputs = tuple(views[name] for name in model.trunks())
    bare, shapes = without_numbers(model, inputs)
    branches = {}
    for (name, trunk), shape in zip(bare.trunks().items(), shapes, strict=True):
        whole, stages = _rows(trunk, (shape.flatten(0, -4),), trunk_stages(trunk))
        branches[name] = {"input": list(shape.shape[1:]), **whole, "stages": stages}
    report, _ = _rows(bare, shapes, {})
    others = [counter for counter in counters if counter not in OPERATOR_COUNTERS]
    for name, trunk in model.trunks().items():
        branches[name]["gmacs"] |= count(trunk, (views[name].flatten(0, -4),), others)
    report["gmacs"] |= count(model, inputs, others)
    return {**report, "branches": branches}


def trunk_stages(trunk: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the stages of a trunk: by name the modules that belong to each, without a module in two of them.

    torchvision's Swin has the patch embedding and four stages, each with the patch merging that opens it (Liu et al.,
    "Swin Transformer", ICCV 2021, Fig. 3); other trunks have their top-level parts, with timm's lists of stages taken
    apart.
    """
    if isinstance(trunk, SwinTransformer):
        embedding, first, *later = trunk.features
        stages = {"patch_embedding": [embedding], "stage_1": [first]}
        for index in range(0, len(later), 2):
            stages[f"stage_{index // 2 + 2}"] = list(later[index : index + 2])
        return stages | {"norm": [trunk.norm]}
    children = dict(trunk.named_children())
    if len(children) == 1:  # a wrapper around the network itself
        return trunk_stages(next(iter(children.values())))
    stages = {}
    for name, child in children.items():
        if name in CONTAINERS and isinstance(child, nn.Sequential | nn.ModuleList):
            stages |= {f"{name}.{key}": [part] for key, part in child.named_children()}
        else:
            stages[name] = [child]
    return stages


def as_published(model: QualityModel, backbone: str) -> QualityModel:
    """Put torchvision's own trunks in the place of ours, in the model itself; other trunks stay."""
    for name, trunk in list(model.named_children()):
        if isinstance(trunk, SwinTrunk):
            setattr(model, name, published_swin(backbone).eval())
    return model


def explained_by_biases(row: dict) -> bool:
    """Return whether the operator counters agree on a row once biases are left out."""
    ptflops, torch_counter = (row["gmacs"][counter] for counter in OPERATOR_COUNTERS)
    return _agree(ptflops - row["gmacs_of_biases"], torch_counter)


def _rows(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], stages: dict[str, list[nn.Module]]
) -> tuple[dict, dict[str, dict]]:
    """Return the row of a module and the rows of its stages; what is in no stage is one more, if it costs anything."""
    counts, of_stages = tally(module, inputs, stages)
    rows = {name: _row(sum(map(parameters, parts)), of_stages[name]) for name, parts in stages.items()}
    outside = {key: value - sum(found.get(key, 0) for found in of_stages.values()) for key, value in counts.items()}
    rows[REST] = _row(max(0.0, parameters(module) - sum(row["params_m"] for row in rows.values())), outside)
    return _row(parameters(module), counts), {name: row for name, row in rows.items() if _costs(row)}


def _row(params_m: float, counts: Counts) -> dict:
    """Return the figures of a part by what was counted in it."""
    first, second = (of_counter(counts, counter) for counter in OPERATOR_COUNTERS)
    outputs = of_counter(counts, "outputs")
    row = {
        "params_m": params_m,
        "gmacs": {counter: sum(of_counter(counts, counter).values()) / 1e9 for counter in OPERATOR_COUNTERS},
        "gmacs_of_biases": outputs.get("biases", 0) / 1e9,
        "activations_mb": outputs.get("activations", 0) * BYTES / 1e6,
    }
    if not _agree(*row["gmacs"].values()):
        differences = {name: first.get(name, 0) - second.get(name, 0) for name in sorted({*first, *second})}
        row["difference_by_operator"] = {name: macs / 1e9 for name, macs in differences.items() if macs}
    return row


def _agree(first: float, second: float) -> bool:
    return abs(first - second) <= AGREEMENT * abs(second)


def _costs(row: dict) -> bool:
    return row["params_m"] > 1e-9 or row["activations_mb"] > 0 or any(row["gmacs"].values())
