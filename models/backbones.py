"""Trunks: networks that turn a view into a map of features.

Every trunk has `num_features`, `feature_map(x)`: (B, 3, S, S) -> (B, h, w, num_features), and `forward(x)`, the mean of
that map over its places: (B, num_features).
"""

import difflib

import timm
import torch
from torch import nn
from torchvision.models import Swin_B_Weights, Swin_S_Weights, Swin_T_Weights
from torchvision.models.swin_transformer import SwinTransformer

# embed_dim, depths, num_heads, stochastic depth: torchvision's own, and a small Swin for work on a CPU
SWIN_CONFIGS = {
    "swin_t": (96, [2, 2, 6, 2], [3, 6, 12, 24], 0.2),
    "swin_s": (96, [2, 2, 18, 2], [3, 6, 12, 24], 0.3),
    "swin_b": (128, [2, 2, 18, 2], [4, 8, 16, 32], 0.5),
    "swin_nano": (32, [1, 1, 2, 1], [1, 2, 4, 8], 0.0),
}
IMAGENET_WEIGHTS = {
    "swin_t": Swin_T_Weights.IMAGENET1K_V1,
    "swin_s": Swin_S_Weights.IMAGENET1K_V1,
    "swin_b": Swin_B_Weights.IMAGENET1K_V1,
}


class WeightsError(RuntimeError):
    """Pre-trained weights could not be had; the message says how to pass a local file."""


class SwinTrunk(SwinTransformer):
    """torchvision's Swin Transformer without its classifier, with torchvision's own state-dict keys.

    timm's Swin pads and rolls in another order and gives other features where the map is no multiple of the window, as
    at 480 pixels; released UIQA weights need this one.
    """

    def __init__(self, name: str, stochastic_depth: float | None = None):
        embed_dim, depths, num_heads, default_depth = SWIN_CONFIGS[name]
        super().__init__(
            patch_size=[4, 4],
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            window_size=[7, 7],
            stochastic_depth_prob=default_depth if stochastic_depth is None else stochastic_depth,
            num_classes=1,
        )
        self.head = nn.Identity()
        self.num_features = embed_dim * 2 ** (len(depths) - 1)

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.features(x))  # (B, S/32, S/32, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.feature_map(x).mean(dim=(1, 2))


class TimmTrunk(nn.Module):
    """Any timm model whose features are a 2-D map, pooled by our own mean over places.

    Args:
        name: of the timm model, with or without a pre-training tag.
        image_size: side of the view, pixels; passed on where the model takes it.
        stochastic_depth: drop-path rate, the model's own if None.
        pretrained: download timm's weights.

    Raises:
        ValueError: no such model, or its features are no 2-D map.
    """

    def __init__(self, name: str, image_size: int, stochastic_depth: float | None = None, pretrained: bool = False):
        super().__init__()
        options = {"num_classes": 0, "global_pool": "", "pretrained": pretrained}
        if stochastic_depth is not None:
            options["drop_path_rate"] = stochastic_depth
        try:
            self.net = timm.create_model(name, img_size=image_size, **options)
        except TypeError:  # convolutional models take no img_size
            self.net = timm.create_model(name, **options)
        self.num_features = self.net.num_features
        # Asked once here, so that an unsuitable trunk is refused when it is built and not in the first batch.
        training = self.net.training
        with torch.no_grad():
            shape = self.net.eval().forward_features(torch.zeros(1, 3, image_size, image_size)).shape
        self.net.train(training)
        if len(shape) != 4 or self.num_features not in (shape[1], shape[3]):
            raise ValueError(
                f"backbone timm:{name} gives features of shape {tuple(shape)}, no 2-D map of {self.num_features} "
                "channels; choose a convolutional or hierarchical model"
            )
        self.channels_last = shape[3] == self.num_features and shape[1] != self.num_features
        if shape[1] == shape[3]:
            self.channels_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        features = self.net.forward_features(x)
        return features if self.channels_last else features.permute(0, 2, 3, 1)  # (B, h, w, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.feature_map(x).mean(dim=(1, 2))


def build_trunk(backbone: str, image_size: int, stochastic_depth: float | None = None) -> SwinTrunk | TimmTrunk:
    """Build a trunk with random weights.

    Args:
        backbone: a key of SWIN_CONFIGS, or `timm:<name>`.
        image_size: side of the view it will read, pixels.
        stochastic_depth: rate; the trunk's own if None.

    Raises:
        ValueError: no such trunk, or one without a 2-D feature map.
    """
    if backbone in SWIN_CONFIGS:
        return SwinTrunk(backbone, stochastic_depth)
    name = _timm_name(backbone)
    return TimmTrunk(name, image_size, stochastic_depth)


def imagenet_state_dict(backbone: str, image_size: int) -> dict[str, torch.Tensor]:
    """Download a trunk's ImageNet weights (or take them from torch's or the hub's cache), as its own state dict.

    Raises:
        WeightsError: they cannot be downloaded, or there are none.
        ValueError: no such trunk.
    """
    remedy = (
        "Download them elsewhere and pass the file with --pretrained_path, or train from scratch with --init scratch"
    )
    if backbone in SWIN_CONFIGS and backbone not in IMAGENET_WEIGHTS:
        raise WeightsError(f"there are no ImageNet weights for {backbone}; use --init scratch")
    try:
        if backbone in IMAGENET_WEIGHTS:
            weights = IMAGENET_WEIGHTS[backbone]
            place = weights.url
            state = weights.get_state_dict(progress=False, check_hash=True)
            return {key: value for key, value in state.items() if not key.startswith("head.")}
        name = _timm_name(backbone)
        place = f"timm's {name}"
        return TimmTrunk(name, image_size, pretrained=True).state_dict()
    except ValueError:
        raise
    except Exception as error:  # urllib, the hub's client and timm each have exceptions of their own
        raise WeightsError(f"ImageNet weights of {backbone} ({place}) cannot be had: {error}. {remedy}") from error


def _timm_name(backbone: str) -> str:
    """Return the timm model a backbone means."""
    prefix, _, name = backbone.partition(":")
    if prefix != "timm" or not name:
        raise ValueError(f"unknown backbone {backbone!r}: choose {', '.join(SWIN_CONFIGS)} or timm:<name>")
    if not timm.is_model(name.split(".")[0]):
        close = difflib.get_close_matches(name, timm.list_models(), 5)
        raise ValueError(f"timm has no model {name!r}" + (f"; close: {', '.join(close)}" if close else ""))
    return name
