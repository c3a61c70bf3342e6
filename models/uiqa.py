"""UIQA: three trunks read three views of a photograph, and a linear head regresses one quality score."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from models.backbones import Trunk, build_trunk

HEAD_WIDTH = 128

BRANCHES = ("aesthetic", "distortion", "salient")
IMAGES_PER_PASS = 32  # per photograph; bounds the memory of `contributions` when there are hundreds of patches or draws
DEFAULT_VIEW_SIZES = dict.fromkeys((*BRANCHES, "patches"), 480)
# State-dict prefixes, as released
SINGLE_TRUNK_KEY = "feature_extraction"
TRUNK_KEYS = {
    "aesthetic": "aesthetics_feature_extraction",
    "distortion": "distortion_feature_extraction",
    "salient": "saliency_feature_extraction",
}


class QualityModel(nn.Module):
    """Base class of all models: normalisation, the head and its exact decomposition into contributions.

    The head is two linear layers with no activation in between, as released. So it equals one weight vector and a bias,
    and the score is a sum over the tokens of each trunk's feature map (see `contributions`).

    Args:
        trunks: one for each view, all of one backbone, whose normalisation of pixels the model takes over.
    """

    view_names: tuple[str, ...]

    def __init__(self, trunks: Sequence[Trunk]):
        super().__init__()
        width = sum(trunk.num_features for trunk in trunks)
        self.quality = nn.Sequential(nn.Linear(width, HEAD_WIDTH), nn.Linear(HEAD_WIDTH, 1))
        # Not persistent: released state dicts do not have these keys.
        self.register_buffer("mean", torch.tensor(trunks[0].pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(trunks[0].pixel_std).view(3, 1, 1), persistent=False)

    def trunks(self) -> dict[str, nn.Module]:
        """Return the trunk of each view, in the order in which the head takes their features."""
        raise NotImplementedError

    def forward(self, *positional: torch.Tensor, **views: torch.Tensor) -> torch.Tensor:
        """Score a batch.

        Args:
            views: (B, 3, S, S) each, uint8 or normalised floats, by name or in the order of `view_names`. A view may
                also consist of K images, (B, K, 3, S, S), whose features are averaged.

        Returns:
            Scores, (B, 1).
        """
        views |= dict(zip(self.view_names, positional, strict=False))
        features = []
        for name, trunk in self.trunks().items():
            x = self.normalise(views[name].flatten(0, -4))  # (B, 3, S, S), or (B * K, 3, S, S)
            x = trunk(x)  # (B, C), 768 for swin_t
            if views[name].dim() == 5:
                x = x.unflatten(0, views[name].shape[:2]).mean(dim=1)  # (B * K, C) -> (B, C)
            features.append(x)
        return self.regress(torch.cat(features, dim=1))  # (B, 3C) -> (B, 1)

    def normalise(self, view: torch.Tensor) -> torch.Tensor:
        """Normalise uint8 images, (B, 3, S, S), by `mean` and `std`; floats are returned unchanged."""
        if view.dtype != torch.uint8:
            return view
        # Views are channels-last. Broadcasting over rows of W * 3 numbers is five times as fast as over 3 numbers.
        rows = view.permute(0, 2, 3, 1).to(self.mean.dtype).flatten(2)  # (B, H, 3W)
        mean, std = (values.flatten().repeat(view.shape[3]) for values in (self.mean, self.std))
        rows = rows.div_(255).sub_(mean).div_(std)
        return rows.unflatten(2, (-1, 3)).permute(0, 3, 1, 2)

    @property
    def normalisation(self) -> dict[str, list[float]]:
        """`mean` and `std` of the pixels, three numbers each in units of 255, with which views are normalised."""
        return {name: getattr(self, name).flatten().tolist() for name in ("mean", "std")}

    def set_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Normalise views as the model was trained to, where that is not what its trunks' pre-training did."""
        for name, values in (("mean", mean), ("std", std)):
            getattr(self, name).copy_(torch.tensor(values).view(3, 1, 1))

    def regress(self, features: torch.Tensor) -> torch.Tensor:
        """Map concatenated features to scores, (B, 3C) -> (B, 1), in the head's own precision, also under autocast."""
        with _no_autocast(features.device):
            return self.quality(features.to(self.quality[0].weight.dtype))

    def effective_weights(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return the head as one linear map: a weight vector (C,) for each view, and the bias, a scalar."""
        first, second = self.quality
        with _no_autocast(first.weight.device):
            weight = (second.weight @ first.weight).squeeze(0)  # (3C,)
            bias = (second.weight @ first.bias + second.bias).squeeze(0)
        trunks = self.trunks()
        weights = weight.split([trunk.num_features for trunk in trunks.values()])
        return dict(zip(trunks, weights, strict=True)), bias

    def contributions(self, *positional: torch.Tensor, **views: torch.Tensor) -> dict[str, torch.Tensor]:
        """Decompose scores into what each token of each view contributes.

        With w the effective weights of the head, `score = bias + sum over views of the mean over tokens of (w_view .
        token)`, exactly: a class activation map (Zhou et al., CVPR 2016) that is not a heuristic. The *location* is
        approximate, because attention mixes tokens with their neighbours.

        Args:
            views: as in `forward`.

        Returns:
            `score` (B,), `bias` scalar, and for each view a map (B, h, w) whose mean is the view's contribution. If a
            view consists of K images, its map is their mean, and `score_of_draw` (B, K) the score with each one alone.
        """
        views |= dict(zip(self.view_names, positional, strict=False))
        _, bias = self.effective_weights()
        maps, deviations = {}, []
        for name in self.trunks():
            maps[name] = self.contribution_map(name, views[name])  # (B, h, w) or (B, K, h, w)
            if maps[name].dim() == 4:
                per_draw = maps[name].mean(dim=(2, 3))  # (B, K)
                deviations.append(per_draw - per_draw.mean(dim=1, keepdim=True))
                maps[name] = maps[name].mean(dim=1)
        score = bias + sum(map_.mean(dim=(1, 2)) for map_ in maps.values())
        score_of_draw = {"score_of_draw": score[:, None] + sum(deviations)} if deviations else {}
        return {"score": score, "bias": bias, **maps, **score_of_draw}

    def contribution_map(self, name: str, view: torch.Tensor) -> torch.Tensor:
        """Return what each token of one view contributes to the score: (..., 3, S, S) -> (..., h, w).

        Args:
            name: of the view.
            view: (B, 3, S, S), or K images of each photograph, (B, K, 3, S, S); as in `forward`.
        """
        trunk, weights = self.trunks()[name], self.effective_weights()[0][name]
        if view.dim() == 4:
            tokens = trunk.feature_map(self.normalise(view))
            with _no_autocast(tokens.device):
                return tokens.to(weights.dtype) @ weights
        chunks = view.split(IMAGES_PER_PASS, dim=1)
        maps = [self.contribution_map(name, chunk.flatten(0, 1)) for chunk in chunks]
        maps = [map_.unflatten(0, chunk.shape[:2]) for map_, chunk in zip(maps, chunks, strict=True)]
        return torch.cat(maps, dim=1)

    @contextmanager
    def trunk_as_scored(self, name: str) -> Iterator[None]:
        """Let the trunk of one view work as in evaluation: no dropout, and batch normalisation learns no statistics."""
        trunk = self.trunks()[name]
        was_training = trunk.training
        trunk.eval()
        try:
            yield
        finally:
            trunk.train(was_training)

    def freeze(self, stages: int, batch_norm: bool = False) -> None:
        """Freeze the first stages of every trunk; arguments and errors as in `models.backbones.Trunk.freeze`."""
        for trunk in set(self.trunks().values()):
            trunk.freeze(stages, batch_norm)

    def compile_trunks(self) -> None:
        """Compile the trunks with torch.compile, on their first call; the state dict does not change."""
        for trunk in set(self.trunks().values()):
            trunk.compile_features()

    @torch.no_grad()
    def fold_opinion_scale(self, mos_mean: float, mos_sd: float) -> None:
        """Fold `score * mos_sd + mos_mean` into the last layer: from standardised opinions to the data set's scale."""
        self.quality[1].weight.mul_(mos_sd)
        self.quality[1].bias.mul_(mos_sd).add_(mos_mean)


def _no_autocast(device: torch.device) -> AbstractContextManager:
    """Return a context without autocast."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


class UIQA(QualityModel):
    """The three-branch model (Sun et al., arXiv 2409.00749, Sec. 3), with the released weights' state-dict keys.

    Args:
        backbone: of all trunks, see `models.backbones.build_trunk`.
        view_sizes: side of each view, in pixels; only trunks with a fixed input size need it.
        stochastic_depth: rate; None for the trunk's default.
        branches: comma-separated names of the views to use, some or all of BRANCHES.
        shared_trunk: use one trunk for all views: a third of the weights, the same arithmetic.

    Raises:
        ValueError: unknown branch, or a shared trunk of fixed input size for views of several sizes.
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
                raise ValueError(
                    f"{backbone} has a fixed input size: a shared trunk needs views of one size, not {sizes}"
                )
            keys, trunks = [SINGLE_TRUNK_KEY] * len(names), [shared] * len(names)
        else:
            keys = [TRUNK_KEYS[name] for name in names]
            trunks = [build_trunk(backbone, size, stochastic_depth) for size in sizes]
        super().__init__(trunks)
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
        super().__init__([trunk])
        self.feature_extraction = trunk

    def trunks(self) -> dict[str, nn.Module]:
        return {self.view_names[0]: self.feature_extraction}


class SwinT(SingleTrunk):
    """One trunk on the aesthetic view: the model that is pre-trained on AVA, with its released state-dict keys."""

    view_names = ("aesthetic",)


class Patches(SingleTrunk):
    """One trunk on full-resolution patches of a photograph, (B, P, 3, S, S), whose features are averaged.

    With the policies of `data.patches`, these are the patch-based baselines that UIQA is compared with
    (arXiv 2409.00749, Fig. 1, b and c).
    """

    view_names = ("patches",)


MODELS = {"UIQA": UIQA, "SwinT": SwinT, "Patches": Patches}
MODEL_ALIASES = {"Model_SwinT": "SwinT"}  # the name in the published pre-training command


def parse_branches(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of branches into their names, in the order of BRANCHES.

    Raises:
        ValueError: a name is unknown or given twice, or the list is empty.
    """
    names = [name.strip() for name in str(text).split(",")]
    if not set(names) <= set(BRANCHES) or len(set(names)) < len(names):
        raise ValueError(f"branches must be one or more of {','.join(BRANCHES)}, each once; got {text!r}")
    return tuple(name for name in BRANCHES if name in names)


def build_model(name: str = "UIQA", **options) -> QualityModel:
    """Build a model with random weights; nothing is downloaded.

    Args:
        name: "UIQA" (three branches, or some of them), "SwinT" (one trunk; published as "Model_SwinT") or "Patches"
            (one trunk on full-resolution patches).
        options: passed to the model: backbone, view_sizes, stochastic_depth; for UIQA also branches and shared_trunk.

    Raises:
        ValueError: unknown model or backbone.
    """
    name = MODEL_ALIASES.get(str(name), str(name))  # a damaged checkpoint may hold anything
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: choose from {', '.join(MODELS)}")
    return MODELS[name](**options)
