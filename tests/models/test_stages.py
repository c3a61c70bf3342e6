"""Stages of trunks, and what freezing them leaves alone."""

import pytest
import torch
from torch import nn

from models import build_model
from models.backbones import build_trunk, published_swin
from models.stages import batch_norms, first_stages, trunk_stages


def test_swin_has_the_stages_of_its_paper():
    names = ["patch_embedding", "stage_1", "stage_2", "stage_3", "stage_4", "norm"]
    assert list(trunk_stages(published_swin("swin_nano"))) == names
    assert list(trunk_stages(build_trunk("swin_nano", 64))) == names


@pytest.mark.parametrize(
    ("backbone", "stages"),
    [("swin_nano", 4), ("timm:test_resnet", 4), ("timm:tf_efficientnet_lite0", 7), ("timm:mobilenetv4_conv_small", 5)],
)
def test_the_first_stages_include_the_stem_and_leave_later_ones_alone(backbone, stages):
    trunk = build_trunk(backbone, 64)
    assert first_stages(trunk, 0) == []
    parameters = [
        sum(p.numel() for part in first_stages(trunk, count) for p in part.parameters()) for count in range(stages + 1)
    ]
    assert parameters == sorted(set(parameters))
    assert parameters[-1] <= sum(p.numel() for p in trunk.parameters())
    with pytest.raises(ValueError, match=rf"--freeze_stages {stages + 1}: the trunk has {stages} stages"):
        first_stages(trunk, stages + 1)


@pytest.mark.parametrize("backbone", ["swin_nano", "timm:test_resnet"])
def test_frozen_stages_do_not_change_and_the_others_are_trained(backbone):
    torch.manual_seed(0)
    model = build_model("SwinT", backbone=backbone, view_sizes={"aesthetic": 64})
    model.freeze(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = {
        id(tensor)
        for part in first_stages(model.feature_extraction, 2)
        for tensor in part.state_dict(keep_vars=True).values()
    }
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    model(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)).square().sum().backward()
    optimizer.step()
    assert frozen
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in frozen:
            assert torch.equal(tensor, before[name]), name
            assert tensor.grad is None
        elif tensor.requires_grad:
            assert tensor.grad is not None, name


def test_nothing_of_a_frozen_stage_is_kept_for_the_backward_pass():
    trunk = build_trunk("timm:test_resnet", 64)
    trunk.freeze(3)
    trunk.train()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor.shape) or tensor, lambda tensor: tensor
    ):
        trunk(torch.randn(2, 3, 64, 64))
    assert saved
    assert all(len(shape) < 4 or shape[-1] <= 4 for shape in saved)  # the last stage has 2 x 2 places


def test_fixed_statistics_survive_training_mode():
    trunk = build_trunk("timm:test_resnet", 64)
    trunk.freeze(0, batch_norm=True)
    trunk.train()
    norms = batch_norms(trunk)
    assert norms
    assert not any(norm.training for norm in norms)
    assert all(parameter.requires_grad for parameter in trunk.parameters())
    before = [norm.running_mean.clone() for norm in norms]
    trunk(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    assert any(isinstance(module, nn.Conv2d) and module.training for module in trunk.modules())
