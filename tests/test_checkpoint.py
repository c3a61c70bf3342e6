"""Checkpoints: whole or not at all, never code, ours and the released ones."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import swin_t

from data.views import ViewSpec
from models import UIQA, SwinT, build_model
from utils.calibration import Calibration
from utils.checkpoint import CheckpointError, initialise, load_checkpoint, load_model, save_checkpoint
from utils.plain import PlainUIQA, normalise

SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=2, salient_patch_dimension=64)


def random_views(size: int = 64, batch: int = 2) -> dict[str, torch.Tensor]:
    return {name: torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8) for name in UIQA.view_names}


@pytest.fixture
def model() -> UIQA:
    torch.manual_seed(3)
    return build_model("UIQA", backbone="timm:test_resnet", view_sizes=SPEC.view_sizes).eval()


def content_of(model: UIQA, mean: float = 0.0, sd: float = 1.0) -> dict:
    return {
        "model": {"name": "UIQA", "backbone": "timm:test_resnet"},
        "state_dict": model.state_dict(),
        "view_spec": SPEC.to_dict(),
        "mos_scale": {"mean": mean, "sd": sd},
        "calibration": Calibration((0.9, 0.2, 0.5, 0.1), "validation").to_dict(),
        "branch_means": None,
        "metrics": {"SRCC": 0.5},
        "options": {"run": "r", "lr": 1e-3, "metadata": None},
        "epoch": 3,
    }


def test_a_round_trip_scores_bit_for_bit_the_same(model, tmp_path):
    save_checkpoint(tmp_path / "c.pth", content_of(model))
    loaded = load_model(tmp_path / "c.pth")
    views = random_views()
    assert torch.equal(loaded.model(**views), model(**views))
    assert loaded.view_spec == SPEC
    assert loaded.calibration == Calibration((0.9, 0.2, 0.5, 0.1), "validation")
    assert loaded.options == {"run": "r", "lr": 1e-3, "metadata": None}
    assert not loaded.model.training


def test_standardised_opinions_are_folded_into_the_scores(model, tmp_path):
    save_checkpoint(tmp_path / "c.pth", content_of(model, mean=0.7, sd=0.05))
    views = random_views()
    torch.testing.assert_close(load_model(tmp_path / "c.pth").model(**views), model(**views) * 0.05 + 0.7)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_released_state_dict_scores_as_torchvisions_trunks_do(prefix, tmp_path):
    torch.manual_seed(0)
    released = PlainUIQA().eval()
    torch.save({prefix + key: value for key, value in released.state_dict().items()}, tmp_path / "UIQA.pth")
    loaded = load_model(tmp_path / "UIQA.pth")
    assert loaded.view_spec == ViewSpec()
    assert loaded.calibration is None
    views = random_views(480, batch=1)
    with torch.inference_mode():
        expected = released(*(normalise(view.float() / 255) for view in views.values()))
        torch.testing.assert_close(loaded.model(**views), expected, atol=1e-5, rtol=0)


def test_a_calibration_beside_a_state_dict_is_found_and_another_can_be_given(tmp_path):
    torch.save(build_model("UIQA").state_dict(), tmp_path / "UIQA.pth")
    np.save(tmp_path / "UIQA.npy", [0.9, 0.2, 0.5, 0.1])
    np.save(tmp_path / "other.npy", [0.8, 0.1, 0.5, 0.1])
    assert load_model(tmp_path / "UIQA.pth").calibration.parameters[0] == 0.9
    assert load_model(tmp_path / "UIQA.pth", tmp_path / "other.npy").calibration.parameters[0] == 0.8


def test_a_pretraining_state_dict_loads_as_one_trunk(tmp_path):
    torch.save(build_model("SwinT").state_dict(), tmp_path / "AVA.pth")
    loaded = load_model(tmp_path / "AVA.pth")
    assert isinstance(loaded.model, SwinT)
    assert loaded.view_spec.views == ("aesthetic",)


def test_a_pretrained_trunk_starts_all_three_branches(tmp_path):
    pretrained = build_model("SwinT")
    torch.save(pretrained.state_dict(), tmp_path / "AVA.pth")
    model = build_model("UIQA")
    head = model.quality[0].weight.clone()
    initialise(model, tmp_path / "AVA.pth")
    for trunk in model.trunks().values():
        for name, value in trunk.state_dict().items():
            assert torch.equal(value, pretrained.feature_extraction.state_dict()[name])
    assert torch.equal(model.quality[0].weight, head)


def test_a_bare_trunk_starts_every_branch_its_classifier_left_out(tmp_path):
    bare = swin_t()
    torch.save(bare.state_dict(), tmp_path / "swin_t.pth")
    model = build_model("UIQA")
    initialise(model, tmp_path / "swin_t.pth")
    for trunk in model.trunks().values():
        assert torch.equal(trunk.state_dict()["norm.weight"], bare.state_dict()["norm.weight"])
        assert torch.equal(trunk.features[0][0].weight, bare.features[0][0].weight)


def test_a_bare_timm_trunk_starts_every_branch_from_safetensors_too(model, tmp_path):
    bare = timm.create_model("test_resnet")
    save_file(bare.state_dict(), tmp_path / "test_resnet.safetensors")
    initialise(model, tmp_path / "test_resnet.safetensors")
    for trunk in model.trunks().values():
        for name, value in trunk.net.state_dict().items():
            assert torch.equal(value, bare.state_dict()[name])


def test_a_whole_model_starts_a_whole_model(model, tmp_path):
    save_checkpoint(tmp_path / "c.pth", content_of(model))
    other = build_model("UIQA", backbone="timm:test_resnet", view_sizes=SPEC.view_sizes).eval()
    initialise(other, tmp_path / "c.pth")
    views = random_views()
    assert torch.equal(other(**views), model(**views))


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path):
    torch.save({"state_dict": Malicious(tmp_path / "owned")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth.*run code"):
        load_model(tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()


def write_garbage(path, model):
    path.write_bytes(bytes(range(256)) * 20)


def write_truncated(path, model):
    save_checkpoint(path, content_of(model))
    path.write_bytes(path.read_bytes()[:-5000])


def write_other_backbone(path, model):
    torch.save(model.state_dict(), path)


def write_without_view_spec(path, model):
    content = content_of(model)
    del content["view_spec"]
    save_checkpoint(path, content)


@pytest.mark.parametrize(
    "write",
    [
        write_garbage,
        write_truncated,
        write_other_backbone,
        write_without_view_spec,
        lambda path, model: path.write_bytes(b""),
        lambda path, model: None,
        lambda path, model: path.mkdir(),
        lambda path, model: torch.save(torch.zeros(3), path),
        lambda path, model: torch.save({"quality.0.weight": "text"}, path),
        lambda path, model: torch.save({1: torch.zeros(3)}, path),
        lambda path, model: path.with_suffix(".pth").write_text("version https://git-lfs.github.com/spec/v1"),
    ],
)
def test_what_is_no_checkpoint_is_one_error_that_names_the_file(write, model, tmp_path):
    path = tmp_path / "bad.pth"
    write(path, model)
    with pytest.raises(CheckpointError, match=r"bad\.pth"):
        load_model(path)
    with pytest.raises(CheckpointError, match=r"bad\.pth"):
        initialise(build_model("UIQA", backbone="swin_nano"), path)


def test_a_newer_version_is_refused(model, tmp_path):
    torch.save(content_of(model) | {"format": "uiqa-checkpoint", "version": 99}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="newer"):
        load_checkpoint(tmp_path / "c.pth")


def test_a_save_that_fails_leaves_the_previous_checkpoint_whole(model, tmp_path, monkeypatch):
    path = tmp_path / "c.pth"
    save_checkpoint(path, content_of(model))
    before = path.read_bytes()

    def full_disk(content, file):
        file.write(b"half a checkpoint")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, content_of(model))
    assert path.read_bytes() == before
