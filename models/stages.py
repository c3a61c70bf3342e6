"""The stages of a trunk, and freezing the first ones for cheaper fine-tuning."""

import re

from torch import nn
from torchvision.models.swin_transformer import SwinTransformer

STAGE_LISTS = ("stages", "layers", "blocks")  # what timm's models call the list of their stages
STAGE = re.compile(rf"stage_\d+|layer\d+|({'|'.join(STAGE_LISTS)})\.\d+")


def trunk_stages(trunk: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the submodules of each stage of a trunk, by name and in order; no submodule belongs to two stages.

    torchvision's Swin has the patch embedding and four stages, each with the patch merging before its blocks (Liu et
    al., "Swin Transformer", ICCV 2021, Fig. 3). Other trunks have their top-level children; timm's lists of stages
    are split.
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
        if name in STAGE_LISTS and isinstance(child, nn.Sequential | nn.ModuleList):
            stages |= {f"{name}.{key}": [part] for key, part in child.named_children()}
        else:
            stages[name] = [child]
    return stages


def first_stages(trunk: nn.Module, count: int) -> list[nn.Module]:
    """Return the modules of the first stages of a trunk and everything before them, the stem included.

    Raises:
        ValueError: the trunk has fewer stages.
    """
    stages = trunk_stages(trunk)
    names = [name for name in stages if STAGE.fullmatch(name)]
    if count > len(names):
        raise ValueError(f"--freeze_stages {count}: the trunk has {len(names)} stages")
    if count == 0:
        return []
    ordered = list(stages)
    frozen = ordered[: ordered.index(names[count - 1]) + 1]
    return [module for name in frozen for module in stages[name]]


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Return the batch normalisations in a module."""
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
