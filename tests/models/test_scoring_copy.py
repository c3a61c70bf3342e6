"""The copy that scores: the same features, always those of the network's present weights."""

import copy

import pytest
import timm
import torch
from torch import nn

from models import build_model
from models.backbones import HALF_PRECISION, build_trunk
from models.scoring_copy import foldable_norms

LIGHT = ["timm:mobilenetv4_conv_small", "timm:tf_efficientnet_lite0"]


@torch.no_grad()
def trained(backbone: str, size: int = 64):
    """A trunk whose normalisations are not the identity."""
    torch.manual_seed(0)
    trunk = build_trunk(backbone, size).eval()
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.05)
            module.running_var.uniform_(0.8, 1.25)
            if module.affine:
                module.weight.uniform_(0.8, 1.25)
                module.bias.normal_(0, 0.05)
    return trunk


@pytest.mark.parametrize(
    "backbone", [*LIGHT, "timm:test_resnet", "timm:densenet121", "timm:test_mambaout", "swin_nano"]
)
def test_scoring_gives_the_features_that_training_has_in_evaluation_mode(backbone):
    trunk, x = trained(backbone), torch.randn(3, 3, 64, 64)
    expected = trunk.feature_map(x).detach()  # with gradients, nothing is folded
    with torch.no_grad():
        scale = expected.abs().max()
        torch.testing.assert_close(trunk.feature_map(x) / scale, expected / scale, atol=1e-5, rtol=0)
        alone = torch.cat([trunk.feature_map(image) for image in x.split(1)])
        torch.testing.assert_close(alone / scale, expected / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", LIGHT)
def test_every_normalisation_after_a_convolution_is_folded(backbone):
    trunk = trained(backbone)
    with torch.no_grad():
        trunk(torch.randn(1, 3, 64, 64))
    (scoring_copy,) = trunk._scoring_copies._copies.values()
    left = [module for module in scoring_copy.network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(left) <= 1  # MobileNetV4 has one after its pooling, which is not used


class Shared(nn.Module):
    """Convolutions whose normalisation must not be folded: read twice, called twice, or normalised twice."""

    def __init__(self):
        super().__init__()
        self.read_twice, self.called_twice, self.sound = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.first, self.second, self.third = (nn.BatchNorm2d(3) for _ in range(3))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        read = self.read_twice(x)
        x = self.first(read) + read
        x = self.called_twice(self.second(self.called_twice(x)))
        return self.third(self.sound(x))


def test_a_convolution_is_folded_only_if_its_normalisation_alone_reads_it():
    network = Shared().eval()
    foldable = foldable_norms(network, lambda: network.forward_features(torch.zeros(1, 3, 4, 4)))
    assert foldable == {"sound": "third"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "change",
    [
        lambda trunk: next(trunk.parameters()).mul_(2),
        lambda trunk: trunk.load_state_dict({name: value * 2 for name, value in trunk.state_dict().items()}),
        lambda trunk: [norm.running_mean.add_(1) for norm in trunk.modules() if isinstance(norm, nn.BatchNorm2d)],
        lambda trunk: torch.optim.SGD(trunk.parameters(), lr=0.1).step(),
    ],
    ids=["a weight", "state dict", "statistics", "optimizer"],
)
def test_the_copy_is_never_stale(change, dtype):
    trunk, x = trained("timm:test_resnet"), torch.randn(1, 3, 64, 64)
    for parameter in trunk.parameters():
        parameter.grad = torch.ones_like(parameter)
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        before = trunk(x)
    with torch.no_grad():
        change(trunk)
    fresh = build_trunk("timm:test_resnet", 64).eval()
    fresh.load_state_dict(trunk.state_dict())
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        assert torch.equal(trunk(x), fresh(x))
        assert not torch.equal(trunk(x), before)


def test_a_deep_copy_follows_its_own_weights():
    trunk, x = trained("timm:test_resnet"), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = trunk(x)
        other = copy.deepcopy(trunk)
        next(other.parameters()).zero_()
        assert not torch.equal(other(x), before)
        assert torch.equal(trunk(x), before)


def test_training_after_scoring_changes_the_weights_themselves():
    trunk, x = trained("timm:test_resnet"), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        trunk(x)
    trunk.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in trunk.parameters())


@pytest.mark.parametrize("backbone", ["swin_nano", *LIGHT])
def test_half_precision_is_near_full_precision_and_its_map_sums_to_the_score(backbone):
    torch.manual_seed(0)
    sizes = dict.fromkeys(("aesthetic", "distortion", "salient"), 64)
    model = build_model("UIQA", backbone=backbone, view_sizes=sizes).eval()
    for trunk in model.trunks().values():
        trunk.load_state_dict(trained(backbone).state_dict())
    views = {name: torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8) for name in sizes}
    with torch.inference_mode():
        full = model(**views)
        with torch.autocast("cpu", torch.bfloat16):
            half, parts = model(**views), model.contributions(**views)
        assert half.dtype == torch.float32
        assert not torch.equal(half, full)
        features = max(trunk(model.normalise(views["salient"])).abs().max().item() for trunk in model.trunks().values())
        torch.testing.assert_close(half, full, atol=0.02 * max(1.0, features), rtol=0)
        total = parts["bias"] + sum(parts[name].mean(dim=(1, 2)) for name in views)
        torch.testing.assert_close(total, half.squeeze(1), atol=1e-5 * max(1.0, features), rtol=0)


@pytest.mark.parametrize("backbone", LIGHT)
def test_the_first_layers_stay_in_full_precision(backbone):
    trunk = trained(backbone)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        trunk(torch.randn(1, 3, 64, 64))
    (scoring_copy,) = trunk._scoring_copies._copies.values()
    dtypes = {
        name: module.weight.dtype for name, module in scoring_copy.network.named_modules() if hasattr(module, "weight")
    }
    full = [name for name, dtype in dtypes.items() if dtype == torch.float32 and "conv" in name]
    assert full[0] == "net.conv_stem.module"
    assert 2 <= len(full) < len(dtypes) / 2


def test_half_precision_is_measured_for_trunks_that_exist():
    for backbone in HALF_PRECISION:
        assert not backbone.startswith("timm:") or timm.is_model(backbone.removeprefix("timm:"))


def test_convolutions_read_views_as_they_lie_and_keep_their_layout():
    trunk = trained("timm:test_resnet")
    view = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8).permute(0, 3, 1, 2).float()
    layouts = []
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _, inputs, output: layouts.append(
                    all(x.is_contiguous(memory_format=torch.channels_last) for x in (*inputs, output))
                )
            )
    trunk(view)
    assert layouts
    assert all(layouts)


def test_a_single_view_is_scored_in_the_layout_of_a_batch():
    """`view[None]` has an arbitrary stride over the batch, from which convolutions guess the layout."""
    trunk = trained("timm:test_resnet")
    view = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8).permute(2, 0, 1).float()
    strides = []
    trunk._compute = lambda x: strides.append(x.stride()) or trunk.net.forward_features(x)
    trunk(view[None])
    assert strides == [(64 * 64 * 3, 1, 64 * 3, 3)]


def replica_of(module: nn.Module) -> nn.Module:
    """Return what torch.nn.parallel.replicate makes for another GPU: weights are attributes, not parameters."""
    replica = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        setattr(replica, name, child if child is None else replica_of(child))
    for name, parameter in module._parameters.items():
        setattr(replica, name, parameter if parameter is None else parameter.clone())
    return replica


@pytest.mark.parametrize("backbone", ["swin_nano", "timm:test_resnet", "timm:tf_efficientnet_lite0"])
@pytest.mark.parametrize("is_training", [True, False])
def test_a_dataparallel_replica_computes_what_the_model_does(backbone, is_training):
    model = build_model("UIQA", backbone=backbone).train(is_training)
    model.eval() if "efficientnet" in backbone else None  # training passes change its running statistics
    views = {name: torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8) for name in model.view_names}
    with torch.set_grad_enabled(is_training):
        torch.manual_seed(0)
        expected = model(**views)
        torch.manual_seed(0)
        torch.testing.assert_close(replica_of(model)(**views), expected, atol=1e-5, rtol=1e-5)
    if not is_training:
        with torch.inference_mode():
            expected, maps = model.contributions(**views), replica_of(model).contributions(**views)
            torch.testing.assert_close(maps["score"], expected["score"], atol=1e-5, rtol=1e-5)
