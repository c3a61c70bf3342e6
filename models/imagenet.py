"""ImageNet weights of trunks, from torchvision and timm."""

import torch
from torchvision.models import Swin_B_Weights, Swin_S_Weights, Swin_T_Weights

from models.backbones import SWIN_CONFIGS, TimmTrunk, timm_name

IMAGENET_WEIGHTS = {
    "swin_t": Swin_T_Weights.IMAGENET1K_V1,
    "swin_s": Swin_S_Weights.IMAGENET1K_V1,
    "swin_b": Swin_B_Weights.IMAGENET1K_V1,
}


class WeightsError(RuntimeError):
    """Pre-trained weights cannot be loaded; the message names the remedy."""


def imagenet_state_dict(backbone: str, image_size: int) -> dict[str, torch.Tensor]:
    """Return a trunk's ImageNet weights under its own state-dict keys; downloaded unless cached.

    Raises:
        WeightsError: the download fails, or there are no such weights.
        ValueError: unknown trunk.
    """
    if backbone in SWIN_CONFIGS and backbone not in IMAGENET_WEIGHTS:
        raise WeightsError(f"there are no ImageNet weights for {backbone}; use --init scratch")
    weights = IMAGENET_WEIGHTS.get(backbone)
    source = weights.url if weights else f"timm's {timm_name(backbone)}"
    try:
        if weights:
            state = weights.get_state_dict(progress=False, check_hash=True)
            return {key: value for key, value in state.items() if not key.startswith("head.")}
        return TimmTrunk(timm_name(backbone), image_size, pretrained=True).state_dict()
    except ValueError:
        raise
    except Exception as error:  # urllib, huggingface_hub and timm each raise their own
        raise WeightsError(
            f"cannot load ImageNet weights for {backbone} from {source}: {error}. Download them elsewhere and pass the "
            "file with --pretrained_path, or train from scratch with --init scratch"
        ) from error
