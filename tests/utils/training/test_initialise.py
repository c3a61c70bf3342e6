"""A training starts from a whole model, from one trunk for all branches, or from ImageNet weights."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_checkpoint import SPEC, content_of, random_views, tiny_model
from torchvision.models import SwinTransformer

from models import build_model
from utils.checkpoint import load_model
from utils.errors import CheckpointError
from utils.export.onnx_graph import export_safetensors
from utils.training.initialise import initialise
from utils.weights_file import write_weights_file


@pytest.fixture
def model():
    return tiny_model()


def test_a_pretrained_trunk_starts_all_three_branches(tmp_path):
    pretrained = build_model("SwinT", backbone="swin_nano")
    torch.save(pretrained.state_dict(), tmp_path / "AVA.pth")
    model = build_model("UIQA", backbone="swin_nano")
    head = model.quality[0].weight.clone()
    initialise(model, tmp_path / "AVA.pth")
    for trunk in model.trunks().values():
        for name, value in trunk.state_dict().items():
            assert torch.equal(value, pretrained.feature_extraction.state_dict()[name])
    assert torch.equal(model.quality[0].weight, head)


def test_a_pretrained_trunk_starts_a_shared_one(tmp_path):
    """Its file has the very names of a model with a shared trunk, but the head of one view."""
    pretrained = build_model("SwinT", backbone="swin_nano", view_sizes={"aesthetic": 64})
    torch.save(pretrained.state_dict(), tmp_path / "ava.pth")
    model = build_model("UIQA", backbone="swin_nano", view_sizes=SPEC.view_sizes, shared_trunk=True)
    head = model.quality[0].weight.clone()
    assert "trunk of" in initialise(model, tmp_path / "ava.pth")
    for name, value in pretrained.feature_extraction.state_dict().items():
        assert torch.equal(model.feature_extraction.state_dict()[name], value)
    assert torch.equal(model.quality[0].weight, head)


def test_a_bare_trunk_starts_every_branch_its_classifier_left_out(tmp_path):
    bare = SwinTransformer([4, 4], 32, [1, 1, 2, 1], [1, 2, 4, 8], [7, 7])  # a swin_nano with torchvision's head
    torch.save(bare.state_dict(), tmp_path / "swin.pth")
    model = build_model("UIQA", backbone="swin_nano")
    initialise(model, tmp_path / "swin.pth")
    for trunk in model.trunks().values():
        for name, value in trunk.state_dict().items():
            assert torch.equal(value, bare.state_dict()[name])


@pytest.mark.parametrize(("save", "suffix"), [(torch.save, "pth"), (save_file, "safetensors")])
def test_a_bare_timm_trunk_starts_every_branch(save, suffix, model, tmp_path):
    bare = timm.create_model("test_resnet")
    save(bare.state_dict(), tmp_path / f"test_resnet.{suffix}")
    initialise(model, tmp_path / f"test_resnet.{suffix}")
    for trunk in model.trunks().values():
        for name, value in trunk.net.state_dict().items():
            assert torch.equal(value, bare.state_dict()[name])


def test_a_whole_model_starts_a_whole_model(model, tmp_path):
    write_weights_file(tmp_path / "c.pth", content_of(model))
    other = build_model("UIQA", backbone="timm:test_resnet", view_sizes=SPEC.view_sizes).eval()
    initialise(other, tmp_path / "c.pth")
    views = random_views()
    assert torch.equal(other(**views), model(**views))


@pytest.mark.parametrize("there", [(0.0, 1.0), (0.7, 0.05)], ids=["as they are", "standardised"])
@pytest.mark.parametrize("here", [(0.0, 1.0), (0.6, 0.1)], ids=["as they are", "standardised"])
def test_training_goes_on_from_a_whole_model_on_the_same_scale(there, here, model, tmp_path):
    """Whatever the opinions were divided by there and are here, the score on the data set's scale stays."""
    scale = {"mean": there[0], "sd": there[1]}
    write_weights_file(tmp_path / "c.pth", content_of(model) | {"mos_scale": scale})
    expected = load_model(tmp_path / "c.pth").model
    other = build_model("UIQA", backbone="timm:test_resnet", view_sizes=SPEC.view_sizes).eval()
    initialise(other, tmp_path / "c.pth", *here)
    views = random_views()
    torch.testing.assert_close(other(**views) * here[1] + here[0], expected(**views), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_the_prefixes_of_parallel_and_compiled_models_do_not_matter(prefix, model, tmp_path):
    torch.save({prefix + key: value for key, value in model.state_dict().items()}, tmp_path / "c.pth")
    other = build_model("UIQA", backbone="timm:test_resnet", view_sizes=SPEC.view_sizes)
    initialise(other, tmp_path / "c.pth")
    assert torch.equal(other.quality[0].weight, model.quality[0].weight)


def test_exported_safetensors_start_a_training_on_its_own_scale(model, tmp_path):
    write_weights_file(tmp_path / "c.pth", content_of(model, mean=0.7, sd=0.05))
    expected = load_model(tmp_path / "c.pth")
    export_safetensors(expected, tmp_path / "c.safetensors")
    other = build_model("UIQA", backbone="timm:test_resnet", view_sizes=SPEC.view_sizes).eval()
    initialise(other, tmp_path / "c.safetensors", 0.6, 0.1)
    views = random_views()
    torch.testing.assert_close(other(**views) * 0.1 + 0.6, expected.model(**views), atol=1e-5, rtol=1e-5)


def test_a_head_that_is_no_tensor_is_one_error_that_names_the_file(model, tmp_path):
    torch.save(model.state_dict() | {"quality.0.weight": "no tensor"}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd\.pth"):
        initialise(model, tmp_path / "odd.pth")
