"""Trunks: feature maps, and their mean."""

import pytest
import torch
from torchvision.models import swin_t

from models.backbones import SWIN_CONFIGS, build_trunk

SMALL_TRUNKS = ["swin_nano", "timm:test_resnet", "timm:test_efficientnet", "timm:test_mambaout"]


@pytest.mark.parametrize("backbone", SMALL_TRUNKS)
def test_the_features_are_the_mean_of_the_map(backbone):
    trunk = build_trunk(backbone, 64).eval()
    x = torch.randn(2, 3, 64, 64)
    feature_map = trunk.feature_map(x)
    assert feature_map.shape[0] == 2
    assert feature_map.shape[3] == trunk.num_features
    assert trunk(x).shape == (2, trunk.num_features)
    torch.testing.assert_close(trunk(x), feature_map.mean(dim=(1, 2)))


def test_the_map_of_a_480_pixel_view_has_a_token_for_every_mini_patch():
    trunk = build_trunk("swin_nano", 480).eval()
    assert trunk.feature_map(torch.zeros(1, 3, 480, 480)).shape[1:3] == (15, 15)


def test_swin_t_has_torchvisions_keys_and_gives_torchvisions_features():
    reference = swin_t().eval()
    reference.head = torch.nn.Identity()
    trunk = build_trunk("swin_t", 224).eval()
    trunk.load_state_dict(reference.state_dict(), strict=True)
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(trunk(x), reference(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", ["swin_t", "swin_s", "swin_b"])
def test_torchvisions_swins_have_torchvisions_stochastic_depth(backbone):
    with torch.device("meta"):
        trunk = build_trunk(backbone, 480)
    rates = [module.p for module in trunk.modules() if type(module).__name__ == "StochasticDepth"]
    assert max(rates) == pytest.approx(SWIN_CONFIGS[backbone][3])


@pytest.mark.parametrize("backbone", ["swin_t", "timm:swin_tiny_patch4_window7_224"])
def test_stochastic_depth_can_be_switched_off(backbone):
    trunk = build_trunk(backbone, 64, stochastic_depth=0.0).train()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(trunk(x), trunk(x))


def test_a_trunk_with_a_fixed_input_size_is_built_for_the_view():
    trunk = build_trunk("timm:swin_tiny_patch4_window7_224", 96).eval()
    assert trunk.feature_map(torch.zeros(1, 3, 96, 96)).shape == (1, 3, 3, 768)


@pytest.mark.parametrize("backbone", ["vgg", "timm:", "timm:convnext_atom", "swin_x"])
def test_an_unknown_trunk_is_refused_by_name(backbone):
    with pytest.raises(ValueError, match=backbone.removeprefix("timm:") or "timm"):
        build_trunk(backbone, 64)


def test_a_trunk_without_a_two_dimensional_map_is_refused_by_name():
    with pytest.raises(ValueError, match=r"test_vit.*not a 2-D map"):
        build_trunk("timm:test_vit", 64)


@pytest.mark.parametrize("side", [16, 8])
def test_a_view_smaller_than_the_last_merge_is_scored(side):
    trunk = build_trunk("swin_nano", 64).eval()
    assert trunk(torch.zeros(1, 3, side, side)).isfinite().all()
