"""The plain, obvious implementation of views and network: tests and benchmarks compare the fast code with it.

It follows the published preprocessing: Pillow, a whole-image float tensor, a double loop over the grid, normalised
floats, and torchvision's own trunks.
"""

import os

import torch
from PIL import Image, ImageOps
from torch import nn
from torchvision.transforms import v2

from data.fragments import Offsets, place_patches
from models.backbones import published_swin

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def plain_views(
    source: str | os.PathLike | Image.Image,
    generator: Offsets,
    resize: int = 512,
    crop_size: int = 480,
    n_fragment: int = 15,
    patch_size: int = 32,
    salient_patch_dimension: int = 480,
) -> dict[str, torch.Tensor]:
    """Return the three evaluation views, each (3, S, S) float32 in 0..1, not normalised."""
    image = Image.open(source) if not isinstance(source, Image.Image) else source
    image = ImageOps.exif_transpose(image).convert("RGB")
    to_float = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    aesthetic = to_float(v2.CenterCrop(crop_size)(v2.Resize(resize)(image)))
    salient = to_float(v2.CenterCrop(salient_patch_dimension)(image))

    whole = to_float(image)  # (3, H, W): 118 MB for a 4K photograph
    side = n_fragment * patch_size
    shortest = min(whole.shape[1:])
    if shortest < side:
        size = [-(-n * side // shortest) for n in whole.shape[1:]]
        whole = nn.functional.interpolate(whole[None], size=size, mode="bilinear")[0]
    tops, lefts = place_patches(whole.shape[1], whole.shape[2], n_fragment, patch_size, generator)
    distortion = torch.zeros(3, side, side)
    for row in range(n_fragment):
        for column in range(n_fragment):
            top, left = tops[row, column], lefts[row, column]
            y, x = row * patch_size, column * patch_size
            patch = whole[:, top : top + patch_size, left : left + patch_size]
            distortion[:, y : y + patch_size, x : x + patch_size] = patch
    return {"aesthetic": aesthetic, "distortion": distortion, "salient": salient}


def normalise(view: torch.Tensor) -> torch.Tensor:
    """Normalise a view in 0..1 by ImageNet's mean and s.d."""
    return v2.functional.normalize(view, MEAN, STD)


class PlainUIQA(nn.Module):
    """The published model: torchvision's own Swin three times, features concatenated, two linear layers.

    Args:
        backbone: a key of `models.backbones.SWIN_CONFIGS`.
        stochastic_depth: rate; the trunk's default if None.
    """

    def __init__(self, backbone: str = "swin_t", stochastic_depth: float | None = None):
        super().__init__()
        self.aesthetics_feature_extraction = published_swin(backbone, stochastic_depth)
        self.distortion_feature_extraction = published_swin(backbone, stochastic_depth)
        self.saliency_feature_extraction = published_swin(backbone, stochastic_depth)
        width = self.aesthetics_feature_extraction.norm.normalized_shape[0]
        self.quality = nn.Sequential(nn.Linear(3 * width, 128), nn.Linear(128, 1))

    def forward(self, aesthetic: torch.Tensor, distortion: torch.Tensor, salient: torch.Tensor) -> torch.Tensor:
        features = [
            self.aesthetics_feature_extraction(aesthetic),
            self.distortion_feature_extraction(distortion),
            self.saliency_feature_extraction(salient),
        ]
        return self.quality(torch.cat(features, dim=1))
