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

from models.window_attention import WindowBlock, WindowPlan

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

# A CPU scores so many images at a time that a hidden layer has at most about so many numbers: 22 MB, which its caches
# hold. Fewer would read the weights of the last stages, 4 MB a block and more, too often.
CACHED_NUMBERS = 5_600_000


class WeightsError(RuntimeError):
    """Pre-trained weights could not be had; the message says how to pass a local file."""


class Trunk(nn.Module):
    """What every trunk has: a map of features, their mean, and arithmetic that can be compiled."""

    num_features: int
    image_size: int | None = None  # the only side that it reads, pixels; None for any
    compiled = False

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features of every place: (B, 3, S, S) floats -> (B, h, w, num_features)."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean of the feature map over its places: (B, num_features)."""
        return self.feature_map(x).mean(dim=(1, 2))

    def compile_features(self) -> None:
        """Have torch.compile translate the arithmetic of `feature_map` when it is first used."""
        # A graph for each size of batch: one for all sizes can keep the compiler busy for a quarter of an hour.
        self._compute = torch.compile(self._compute, dynamic=False)
        self.compiled = True


class SwinTrunk(Trunk, SwinTransformer):
    """torchvision's Swin Transformer without its classifier, with torchvision's own state-dict keys.

    Its attention is `models.window_attention`'s; the results are torchvision's. timm's Swin pads and rolls in another
    order and gives other features where the map is no multiple of the window, as at 480 pixels; released UIQA weights
    need this one.
    """

    def __init__(self, name: str, stochastic_depth: float | None = None):
        super().__init__(**_swin_options(name, stochastic_depth), block=WindowBlock)
        self.head = nn.Identity()
        self.name = name
        self.num_features = self.norm.normalized_shape[0]

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        lookups = self._lookups(*x.shape[2:])
        if x.device.type != "cpu" or (self.compiled and torch.is_grad_enabled()):
            return self._compute(x, lookups)
        if self.compiled:
            return torch.cat([self._compute(image, lookups) for image in x.split(1)])
        # At 480 pixels one image at a time in the first stage, eight in the last, for the cache's sake.
        for depth, of_stage in enumerate(lookups):
            block = self.features[2 * depth + 1][0]
            tokens = x.shape[2] * x.shape[3] // 16 if depth == 0 else x.shape[1] * x.shape[2] // 4
            images = max(1, CACHED_NUMBERS // (tokens * block.mlp[0].out_features))
            x = torch.cat([self._stage(part, depth, of_stage) for part in x.split(images)])
        return self.norm(x)

    def _lookups(self, height: int, width: int) -> list[list[tuple[WindowPlan, torch.Tensor]]]:
        """Return, for every block of every stage, what its attention looks up; height and width in pixels."""
        rows, columns = self.features[0][0].stride
        height, width = height // rows, width // columns
        lookups = []
        for stage in self.features[1::2]:
            lookups.append([block.attn.lookup(height, width) for block in stage])
            height, width = (height + 1) // 2, (width + 1) // 2  # merging pads an odd side
        return lookups

    def _compute(self, x: torch.Tensor, lookups: list[list[tuple[WindowPlan, torch.Tensor]]]) -> torch.Tensor:
        for depth, of_stage in enumerate(lookups):
            x = self._stage(x, depth, of_stage)
        return self.norm(x)  # (B, S/32, S/32, C)

    def _stage(self, x: torch.Tensor, depth: int, lookups: list[tuple[WindowPlan, torch.Tensor]]) -> torch.Tensor:
        x = self.features[2 * depth](x)  # (B, 3, S, S) -> (B, S/4, S/4, C), then (B, h, w, C) -> (B, h/2, w/2, 2C)
        for block, (plan, bias) in zip(self.features[2 * depth + 1], lookups, strict=True):
            x = block(x, plan, bias)
        return x


class TimmTrunk(Trunk):
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
            self.image_size = image_size
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
        features = self._compute(x)
        return features if self.channels_last else features.permute(0, 2, 3, 1)  # (B, h, w, C)

    def _compute(self, x: torch.Tensor) -> torch.Tensor:
        return self.net.forward_features(x)


def _swin_options(name: str, stochastic_depth: float | None) -> dict:
    """Return the options of torchvision's SwinTransformer for a key of SWIN_CONFIGS."""
    embed_dim, depths, num_heads, default_depth = SWIN_CONFIGS[name]
    return {
        "patch_size": [4, 4],
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": num_heads,
        "window_size": [7, 7],
        "stochastic_depth_prob": default_depth if stochastic_depth is None else stochastic_depth,
        "num_classes": 1,  # the classifier is thrown away
    }


def published_swin(name: str, stochastic_depth: float | None = None) -> SwinTransformer:
    """Return torchvision's own Swin without its classifier: what published code runs, and `SwinTrunk` is held against.

    Args:
        name: a key of SWIN_CONFIGS.
        stochastic_depth: rate; the trunk's own if None.
    """
    trunk = SwinTransformer(**_swin_options(name, stochastic_depth))
    trunk.head = nn.Identity()
    return trunk


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
