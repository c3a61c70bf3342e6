"""Trunks: networks that turn a view into a feature map.

Every trunk has `num_features`, `feature_map(x)`: (B, 3, S, S) -> (B, h, w, num_features), and `forward(x)`, the mean of
that map over its tokens: (B, num_features).
"""

import difflib
import re
from collections.abc import Container, Mapping, Sequence

import timm
import torch
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer

from models.scoring_copy import ScoringCopies, foldable_norms
from models.stages import batch_norms, first_stages
from models.window_attention import WindowBlock, WindowPlan

StagePlans = list[tuple[WindowPlan, torch.Tensor]]  # for each block of a stage, what its attention needs beside x
# embed_dim, depths, num_heads, stochastic depth: torchvision's three models, and a small one for CPUs
SWIN_CONFIGS = {
    "swin_t": (96, [2, 2, 6, 2], [3, 6, 12, 24], 0.2),
    "swin_s": (96, [2, 2, 18, 2], [3, 6, 12, 24], 0.3),
    "swin_b": (128, [2, 2, 18, 2], [4, 8, 16, 32], 0.5),
    "swin_nano": (32, [1, 1, 2, 1], [1, 2, 4, 8], 0.0),
}
# Trunks that half precision has been measured for (docs/performance.md), with a pattern of their layers that compute in
# float32 also under autocast: in light convolutional trunks the first layers, which have few channels, make most of the
# error.
HALF_PRECISION: dict[str, str | None] = {
    "swin_t": None,
    "swin_nano": None,
    "timm:mobilenetv4_conv_small": r"net\.(conv_stem|blocks\.0)\b",
    "timm:tf_efficientnet_lite0": r"net\.(conv_stem|blocks\.\d\.0)\b",  # and the first block of each stage
}

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# On a CPU a batch is split so that the widest activation has about this many numbers: 22 MB, which its caches hold.
# With a smaller limit the weights of the last stages, 4 MB or more per block, would be read too often.
MAX_CPU_ACTIVATIONS = 5_600_000


class Trunk(nn.Module):
    """Base class of all trunks: a feature map, its mean, and compilation.

    Without gradients, in evaluation mode, a copy with folded normalisations computes the feature map; under autocast,
    one that keeps its weights in half precision.
    """

    num_features: int
    # Mean and s.d. of the pixels, in units of 255, with which its pre-training normalised images
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN
    pixel_std: tuple[float, float, float] = IMAGENET_STD
    image_size: int | None = None  # the only input size it accepts, in pixels; None if it accepts any
    compiled = False
    fixed: Sequence[nn.Module] = ()  # submodules that stay in evaluation mode in training
    foldable: Mapping[str, str] = {}  # `models.scoring_copy.foldable_norms`
    precise: Container[str] = ()  # layers that compute in float32 also under autocast
    has_unused_weights = False  # some layers never run, which DistributedDataParallel has to know

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._scoring_copies = ScoringCopies()

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features of every token: (B, 3, S, S) floats -> (B, h, w, num_features)."""
        return self._scoring_copies.network_for(self, x.device)._feature_map(x)

    def _feature_map(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean of the feature map over its tokens, in float32 or better: (B, num_features)."""
        features = self.feature_map(x)
        return features.mean(dim=(1, 2), dtype=torch.promote_types(features.dtype, torch.float32))

    def compile_features(self) -> None:
        """Compile the arithmetic of `feature_map` with torch.compile, on its first call."""
        # One graph per batch size: a dynamic one can take a quarter of an hour to compile.
        self._compute = torch.compile(type(self)._compute.__get__(self), dynamic=False)
        self.compiled = True

    def freeze(self, stages: int, batch_norm: bool = False) -> None:
        """Exclude the first stages from training: no gradients, and fixed statistics of batch normalisation.

        Args:
            stages: how many; the stem belongs to the first.
            batch_norm: fix the statistics of batch normalisation in all stages.

        Raises:
            ValueError: the trunk has fewer stages.
        """
        frozen = first_stages(self, stages)
        for module in frozen:
            module.requires_grad_(False)
        self.fixed = [*frozen, *(batch_norms(self) if batch_norm else ())]
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        for module in self.fixed:
            module.eval()
        return self


class SwinTrunk(Trunk, SwinTransformer):
    """torchvision's Swin Transformer without its classifier, with torchvision's state-dict keys and results.

    The attention is that of `models.window_attention`. Released UIQA weights need torchvision's Swin: timm's pads and
    rolls in another order, so its features differ where the map is not a multiple of the window, as at 480 pixels.
    """

    def __init__(self, name: str, stochastic_depth: float | None = None):
        super().__init__(**_swin_options(name, stochastic_depth), block=WindowBlock)
        self.head = nn.Identity()
        self.name = name
        self.num_features = self.norm.normalized_shape[0]

    def _feature_map(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()  # views are channels-last in memory, and rounding depends on the layout
        plans = self._plans(*x.shape[2:])
        if x.device.type != "cpu" or (self.compiled and torch.is_grad_enabled()):
            return self._compute(x, plans)
        if self.compiled:  # one image at a time fits the caches, and one graph then serves every batch size
            return torch.cat([self._compute(image, plans) for image in x.split(1)])
        # Uncompiled, each stage splits the batch to fit: at 480 pixels one image in the first stage, eight in the last.
        for depth, stage_plans in enumerate(plans):
            mlp = self.features[2 * depth + 1][0].mlp
            tokens = x.shape[2] * x.shape[3] // 16 if depth == 0 else x.shape[1] * x.shape[2] // 4
            images = max(1, MAX_CPU_ACTIVATIONS // max(1, tokens * mlp[0].out_features))
            x = torch.cat([self._stage(chunk, depth, stage_plans) for chunk in x.split(images)])
        return self.norm(x)

    def _plans(self, height: int, width: int) -> list[StagePlans]:
        """Return `plan_and_bias` of every block, by stage, for images of height x width pixels."""
        rows, columns = self.features[0][0].stride
        height, width = height // rows, width // columns
        plans = []
        for stage in self.features[1::2]:
            plans.append([block.attn.plan_and_bias(height, width) for block in stage])
            height, width = (height + 1) // 2, (width + 1) // 2  # patch merging pads odd sides
        return plans

    def _compute(self, x: torch.Tensor, plans: list[StagePlans]) -> torch.Tensor:
        for depth, stage_plans in enumerate(plans):
            x = self._stage(x, depth, stage_plans)
        return self.norm(x)  # (B, S/32, S/32, C)

    def _stage(self, x: torch.Tensor, depth: int, plans: StagePlans) -> torch.Tensor:
        # Patch embedding, (B, 3, S, S) -> (B, S/4, S/4, C), or patch merging, (B, h, w, C) -> (B, h/2, w/2, 2C)
        x = self.features[2 * depth](x)
        for block, (plan, bias) in zip(self.features[2 * depth + 1], plans, strict=True):
            x = block(x, plan, bias)
        return x


class TimmTrunk(Trunk):
    """Any timm model whose features are a 2-D map, pooled by our own mean over its tokens.

    Args:
        name: of the timm model, with or without a pre-training tag.
        image_size: side of the view in pixels, passed to models that have a fixed input size.
        stochastic_depth: drop-path rate; None for the model's default.
        pretrained: download timm's weights.

    Raises:
        ValueError: unknown model, or its features are not a 2-D map.
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
        pretrained_cfg = self.net.pretrained_cfg or {}  # empty for a few models without weights
        self.pixel_mean = tuple(pretrained_cfg.get("mean", IMAGENET_MEAN))
        self.pixel_std = tuple(pretrained_cfg.get("std", IMAGENET_STD))
        # Try the model once, to refuse an unsuitable one here instead of in the first batch.
        shape, self.foldable, self.has_unused_weights = self._trial_pass(image_size)
        if len(shape) != 4 or self.num_features not in (shape[1], shape[3]):
            raise ValueError(
                f"backbone timm:{name}: features of shape {tuple(shape)} are not a 2-D map of {self.num_features} "
                "channels; choose a convolutional or hierarchical model"
            )
        self.channels_last = shape[3] == self.num_features and shape[1] != self.num_features
        if shape[1] == shape[3]:
            self.channels_last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"
        in_float32 = HALF_PRECISION.get(f"timm:{name.split('.')[0]}")
        if in_float32:
            self.precise = {layer for layer, _ in self.named_modules() if re.match(in_float32, layer)}

    @torch.no_grad()
    def _trial_pass(self, image_size: int) -> tuple[torch.Size, dict[str, str], bool]:
        """Return the shape of one image's features, `models.scoring_copy.foldable_norms`, and `has_unused_weights`."""
        training, called = self.net.training, set()
        self.net.eval()
        image, features = torch.zeros(1, 3, image_size, image_size), []
        hooks = [
            module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in self.net.modules()
        ]
        foldable = foldable_norms(self, lambda: features.append(self.net.forward_features(image)))
        for hook in hooks:
            hook.remove()
        self.net.train(training)
        with_weights = {module for module in self.net.modules() if module._parameters and module is not self.net}
        return features[0].shape, foldable, not with_weights <= called

    def _feature_map(self, x: torch.Tensor) -> torch.Tensor:
        if not self.channels_last:
            # Convolutions are up to twice as fast on channels-last input, which views are already. They keep the layout
            # from layer to layer. Weights stay contiguous, and so do checkpoints.
            x = x.contiguous(memory_format=torch.channels_last)
            # Convolutions guess the layout from the strides, and view[None] has an arbitrary one over the batch.
            if x.shape[0] == 1 and x.stride(0) != x[0].numel():
                x = x.clone(memory_format=torch.channels_last)
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
        "num_classes": 1,  # the classifier is replaced by identity
    }


def published_swin(name: str, stochastic_depth: float | None = None) -> SwinTransformer:
    """Return torchvision's own Swin without its classifier: the trunk of the published code, to test and time against.

    Args:
        name: a key of SWIN_CONFIGS.
        stochastic_depth: rate; None for the model's default.
    """
    trunk = SwinTransformer(**_swin_options(name, stochastic_depth))
    trunk.head = nn.Identity()
    return trunk


def build_trunk(backbone: str, image_size: int, stochastic_depth: float | None = None) -> SwinTrunk | TimmTrunk:
    """Build a trunk with random weights.

    Args:
        backbone: a key of SWIN_CONFIGS, or `timm:<name>`.
        image_size: side of its view, in pixels.
        stochastic_depth: rate; None for the model's default.

    Raises:
        ValueError: unknown trunk, or one without a 2-D feature map.
    """
    if backbone in SWIN_CONFIGS:
        return SwinTrunk(backbone, stochastic_depth)
    return TimmTrunk(timm_name(backbone), image_size, stochastic_depth)


def timm_name(backbone: str) -> str:
    """Return the model name in `timm:<name>`, if timm has it."""
    prefix, _, name = backbone.partition(":")
    if prefix != "timm" or not name:
        raise ValueError(f"unknown backbone {backbone!r}: choose {', '.join(SWIN_CONFIGS)} or timm:<name>")
    if not timm.is_model(name.split(".")[0]):
        close = difflib.get_close_matches(name, timm.list_models(), 5)
        raise ValueError(f"timm has no model {name!r}" + (f"; close: {', '.join(close)}" if close else ""))
    return name
