"""UIQA: three trunks look at three views of a photograph, and a linear head regresses one score."""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import nn

from models.backbones import build_trunk

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HEAD_WIDTH = 128

BRANCHES = ("aesthetic", "distortion", "salient")
PICTURES_AT_ONCE = 32  # of a photograph that has hundreds of patches: what a pass holds does not grow with them
DEFAULT_VIEW_SIZES = dict.fromkeys((*BRANCHES, "patches"), 480)
SINGLE_TRUNK_KEY = "feature_extraction"  # of a shared trunk and of single-trunk models
TRUNK_KEYS = {
    "aesthetic": "aesthetics_feature_extraction",
    "distortion": "distortion_feature_extraction",
    "salient": "saliency_feature_extraction",
}


class QualityModel(nn.Module):
    """What the three-branch and the single-trunk model share: normalisation, the head and its exact decomposition.

    The head is two linear layers with no activation between, as released. It therefore has one effective weight vector,
    and the score is a sum over the places of each trunk's final map (`contributions`).
    """

    view_names: tuple[str, ...]

    def __init__(self, width: int):
        super().__init__()
        self.quality = nn.Sequential(nn.Linear(width, HEAD_WIDTH), nn.Linear(HEAD_WIDTH, 1))
        # Not persistent: released state dicts have no such keys.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def trunks(self) -> dict[str, nn.Module]:
        """Return each view's trunk, in the order of their features in the head."""
        raise NotImplementedError

    def forward(self, *positional: torch.Tensor, **views: torch.Tensor) -> torch.Tensor:
        """Score a batch.

        Args:
            views: (B, 3, S, S) each, uint8 or already normalised floats, by name or in the order of `view_names`; or
                several pictures of a view, (B, K, 3, S, S), whose features count by their mean.

        Returns:
            Scores, (B, 1).
        """
        views |= dict(zip(self.view_names, positional, strict=False))
        features = [self._features(trunk, views[name]) for name, trunk in self.trunks().items()]  # (B, C) each
        return self.regress(torch.cat(features, dim=1))  # (B, 3C), 2304 with three of swin_t

    def _features(self, trunk: nn.Module, view: torch.Tensor) -> torch.Tensor:
        """Return the features of a view, (B, C): the mean over its places, and over its pictures if it has several."""
        features = trunk(self.normalise(view.flatten(0, -4)))
        return features if view.dim() == 4 else features.unflatten(0, view.shape[:2]).mean(dim=1)

    def normalise(self, view: torch.Tensor) -> torch.Tensor:
        """Return (B, 3, S, S) uint8 as ImageNet-normalised floats; floats are taken as normalised already."""
        if view.dtype != torch.uint8:
            return view
        # Views lie in memory with the channels last; a trunk's rounding must not depend on that.
        return (view.to(self.mean.dtype, memory_format=torch.contiguous_format) / 255 - self.mean) / self.std

    def regress(self, features: torch.Tensor) -> torch.Tensor:
        """Return the scores of features, (B, C) -> (B, 1), in float32 also where autocast computes trunks in less."""
        kind = features.device.type
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            return self.quality(features.to(self.quality[0].weight.dtype))

    def effective_weights(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return the head as one linear map: for each view a weight vector (C,), and the bias, a scalar."""
        first, second = self.quality
        weight = (second.weight @ first.weight).squeeze(0)
        bias = (second.weight @ first.bias + second.bias).squeeze(0)
        trunks = self.trunks()
        parts = weight.split([trunk.num_features for trunk in trunks.values()])
        return dict(zip(trunks, parts, strict=True)), bias

    def contributions(self, *positional: torch.Tensor, **views: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return how many points every place of every view adds to the score.

        With w the head's effective weight vector, `score = bias + sum over views of the mean over places of (w_view .
        token)`, exactly: a class activation map (Zhou et al., CVPR 2016) without the approximation. The *place* is
        approximate, because in the trunk every token has seen its neighbours.

        Args:
            views: as in `forward`; or several draws of a view, (B, K, 3, S, S), whose mean counts.

        Returns:
            `score` (B,), `bias` scalar, and for each view a map (B, h, w) whose mean over places is its share. Where a
            view comes in draws, also `score_of_draw` (B, K): what the score would be with that draw alone.
        """
        views |= dict(zip(self.view_names, positional, strict=False))
        weights, bias = self.effective_weights()
        maps, off_mean = {}, []
        for name, trunk in self.trunks().items():
            view = views[name]
            if view.dim() == 4:
                maps[name] = self._points(trunk, view, weights[name])  # (B, h, w)
                continue
            places = torch.cat(
                [
                    self._points(trunk, part.flatten(0, 1), weights[name]).unflatten(0, part.shape[:2])
                    for part in view.split(PICTURES_AT_ONCE, dim=1)
                ],
                dim=1,
            )  # (B, K, h, w)
            shares = places.mean(dim=(2, 3))  # (B, K)
            off_mean.append(shares - shares.mean(dim=1, keepdim=True))
            maps[name] = places.mean(dim=1)
        score = bias + sum(places.mean(dim=(1, 2)) for places in maps.values())
        of_draw = {"score_of_draw": score[:, None] + sum(off_mean)} if off_mean else {}
        return {"score": score, "bias": bias, **maps, **of_draw}

    def _points(self, trunk: nn.Module, pictures: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return what every place of pictures adds: (n, 3, S, S) -> (n, h, w)."""
        return trunk.feature_map(self.normalise(pictures)) @ weights

    def compile_trunks(self) -> None:
        """Have torch.compile translate the trunks when they are first used; the state dict stays as it is."""
        for trunk in set(self.trunks().values()):
            trunk.compile_features()

    @torch.no_grad()
    def fold_opinion_scale(self, mos_mean: float, mos_sd: float) -> None:
        """Make the last layer give `score * mos_sd + mos_mean`: from standardised opinions to the data set's scale."""
        self.quality[1].weight.mul_(mos_sd)
        self.quality[1].bias.mul_(mos_sd).add_(mos_mean)


class UIQA(QualityModel):
    """The three-branch model (Sun et al., arXiv 2409.00749, Sec. 3), with the released weights' state-dict keys.

    Args:
        backbone: of all trunks, see `models.backbones.build_trunk`.
        view_sizes: side of each view, pixels; only trunks with a fixed input size use it.
        stochastic_depth: rate; the trunk's own if None.
        branches: names of the views that are looked at, with commas between; some or all of BRANCHES.
        shared_trunk: one trunk reads all views: a third of the weights, and the same arithmetic.

    Raises:
        ValueError: no such branch, or one trunk for views that it cannot read all.
    """

    view_names = BRANCHES

    def __init__(
        self,
        backbone: str = "swin_t",
        view_sizes: Mapping[str, int] = DEFAULT_VIEW_SIZES,
        stochastic_depth: float | None = None,
        branches: str = ",".join(BRANCHES),
        shared_trunk: bool = False,
    ):
        names = parse_branches(branches)
        sizes = [view_sizes[name] for name in names]
        if shared_trunk:
            shared = build_trunk(backbone, sizes[0], stochastic_depth)
            if shared.image_size is not None and len(set(sizes)) > 1:
                raise ValueError(f"{backbone} reads one size only: a shared trunk needs views of one size, not {sizes}")
            keys, trunks = [SINGLE_TRUNK_KEY] * len(names), [shared] * len(names)
        else:
            keys = [TRUNK_KEYS[name] for name in names]
            trunks = [build_trunk(backbone, size, stochastic_depth) for size in sizes]
        super().__init__(sum(trunk.num_features for trunk in trunks))
        self.view_names = names
        self.trunk_keys = dict(zip(names, keys, strict=True))
        for key, trunk in zip(keys, trunks, strict=True):
            setattr(self, key, trunk)

    def trunks(self) -> dict[str, nn.Module]:
        return {name: getattr(self, key) for name, key in self.trunk_keys.items()}


class SingleTrunk(QualityModel):
    """One trunk on one view.

    Args:
        backbone, view_sizes, stochastic_depth: as for UIQA.
    """

    def __init__(
        self,
        backbone: str = "swin_t",
        view_sizes: Mapping[str, int] = DEFAULT_VIEW_SIZES,
        stochastic_depth: float | None = None,
    ):
        trunk = build_trunk(backbone, view_sizes[self.view_names[0]], stochastic_depth)
        super().__init__(trunk.num_features)
        self.feature_extraction = trunk

    def trunks(self) -> dict[str, nn.Module]:
        return {self.view_names[0]: self.feature_extraction}


class SwinT(SingleTrunk):
    """One trunk on the aesthetic view: the model that is pre-trained on AVA, with its released state-dict keys."""

    view_names = ("aesthetic",)


class Patches(SingleTrunk):
    """One trunk on full-resolution patches of a photograph, (B, P, 3, S, S), whose features count by their mean.

    With `data.patches`'s policies these are the rival ways of looking that UIQA is held against (arXiv 2409.00749,
    Fig. 1, b and c).
    """

    view_names = ("patches",)


MODELS = {"UIQA": UIQA, "SwinT": SwinT, "Patches": Patches}
MODEL_ALIASES = {"Model_SwinT": "SwinT"}  # the published pre-training command's word


def parse_branches(text: str) -> tuple[str, ...]:
    """Return the views that a list with commas names, in the model's own order.

    Raises:
        ValueError: an unknown one, the same twice, or none.
    """
    names = [name.strip() for name in str(text).split(",")]
    if not set(names) <= set(BRANCHES) or len(set(names)) < len(names):
        raise ValueError(f"branches must be one or more of {','.join(BRANCHES)}, each once; got {text!r}")
    return tuple(name for name in BRANCHES if name in names)


def build_model(name: str = "UIQA", **options) -> QualityModel:
    """Build a model with random weights; nothing is downloaded.

    Args:
        name: "UIQA" (three branches, or some of them), "SwinT" (one trunk; "Model_SwinT" is the published word for it)
            or "Patches" (one trunk on full-resolution patches).
        options: of the model's constructor: backbone, view_sizes, stochastic_depth; for UIQA also branches and
            shared_trunk.

    Raises:
        ValueError: no such model or backbone.
    """
    name = MODEL_ALIASES.get(name, name) if isinstance(name, str) else "no name"
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: choose from {', '.join(MODELS)}")
    return MODELS[name](**options)
