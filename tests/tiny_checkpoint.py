"""A three-branch model on 64-pixel views and the content of its checkpoint, which several test files write."""

import torch

from data.views import ViewSpec
from models import UIQA, build_model
from utils.calibration import Calibration

SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=2, salient_patch_dimension=64)


def random_views(size: int = 64, batch: int = 2) -> dict[str, torch.Tensor]:
    return {name: torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8) for name in UIQA.view_names}


def tiny_model() -> UIQA:
    torch.manual_seed(3)
    return build_model("UIQA", backbone="timm:test_resnet", view_sizes=SPEC.view_sizes).eval()


def content_of(model: UIQA, mean: float = 0.0, sd: float = 1.0) -> dict:
    return {
        "model": {"name": "UIQA", "backbone": "timm:test_resnet"},
        "state_dict": model.state_dict(),
        "normalisation": model.normalisation,
        "view_spec": SPEC.to_dict(),
        "mos_scale": {"mean": mean, "sd": sd},
        "calibration": Calibration((0.9, 0.2, 0.5, 0.1), "validation").to_dict(),
        "branch_means": {"aesthetic": 0.1, "distortion": -0.2, "salient": 0.3},
        "metrics": {"SRCC": 0.5},
        "options": {"run": "r", "lr": 1e-3, "metadata": None},
        "epoch": 3,
    }
