"""Checkpoints: whole or not at all, never code, ours and the released ones."""

import os
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_checkpoint import SPEC, content_of, random_views, tiny_model

from data.views import ViewSpec
from models import SwinT, build_model
from models.backbones import IMAGENET_MEAN, IMAGENET_STD
from utils.benchmarks.plain import PlainUIQA, normalise
from utils.calibration import Calibration
from utils.checkpoint import load_checkpoint, load_model
from utils.errors import CheckpointError
from utils.export.onnx_graph import export_safetensors
from utils.training.initialise import initialise
from utils.weights_file import previous_of, write_weights_file


@pytest.fixture
def model():
    return tiny_model()


def test_a_round_trip_scores_bit_for_bit_the_same(model, tmp_path):
    write_weights_file(tmp_path / "c.pth", content_of(model))
    loaded = load_model(tmp_path / "c.pth")
    views = random_views()
    assert torch.equal(loaded.model(**views), model(**views))
    assert loaded.view_spec == SPEC
    assert loaded.calibration == Calibration((0.9, 0.2, 0.5, 0.1), "validation")
    assert loaded.branch_means == {"aesthetic": 0.1, "distortion": -0.2, "salient": 0.3}
    assert loaded.options == {"run": "r", "lr": 1e-3, "metadata": None}
    assert not loaded.model.training


def test_a_checkpoint_with_all_that_resuming_needs_is_plain_data(model, tmp_path):
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    content = content_of(model) | {"optimizer": optimizer.state_dict(), "best": 0.5}
    write_weights_file(tmp_path / "c.pth", content)
    plain = torch.load(tmp_path / "c.pth", weights_only=True)
    assert set(plain) == {*content, "format", "version"}
    moments = optimizer.state_dict()["state"][0]
    assert torch.equal(plain["optimizer"]["state"][0]["exp_avg"], moments["exp_avg"])


def test_training_does_not_reach_into_what_was_saved(model, tmp_path):
    write_weights_file(tmp_path / "c.pth", content_of(model))
    views = random_views()
    before = model(**views)
    with torch.no_grad():
        model.quality[1].bias += 1
    assert torch.equal(load_model(tmp_path / "c.pth").model(**views), before)


def test_a_trunk_of_fixed_size_is_rebuilt_for_the_checkpoints_views(tmp_path):
    backbone = "timm:efficientvit_m0"
    spec = ViewSpec(resize=64, crop_size=64, views=("aesthetic",))
    model = build_model("SwinT", backbone=backbone, view_sizes=spec.view_sizes).eval()
    content = {"model": {"name": "SwinT", "backbone": backbone}, "state_dict": model.state_dict()}
    write_weights_file(tmp_path / "c.pth", content_of(model) | content | {"view_spec": spec.to_dict()})
    view = random_views()["aesthetic"]
    assert torch.equal(load_model(tmp_path / "c.pth").model(view), model(view))


def test_standardised_opinions_are_folded_into_the_scores(model, tmp_path):
    write_weights_file(tmp_path / "c.pth", content_of(model, mean=0.7, sd=0.05))
    views = random_views()
    torch.testing.assert_close(load_model(tmp_path / "c.pth").model(**views), model(**views) * 0.05 + 0.7)


def test_views_are_normalised_as_in_the_training_and_by_imagenets_in_checkpoints_of_earlier_versions(model, tmp_path):
    content = content_of(model)
    write_weights_file(
        tmp_path / "c.pth", content | {"normalisation": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    )
    del content["normalisation"]
    write_weights_file(tmp_path / "old.pth", content)
    own, old = (load_model(tmp_path / name).model.normalisation for name in ("c.pth", "old.pth"))
    assert own == {"mean": pytest.approx([0.1, 0.2, 0.3]), "std": pytest.approx([0.4, 0.5, 0.6])}
    assert old == {"mean": pytest.approx(IMAGENET_MEAN), "std": pytest.approx(IMAGENET_STD)}
    initialise(model, tmp_path / "c.pth")
    assert model.normalisation == own


def test_a_released_state_dict_scores_as_torchvisions_trunks_do_also_when_saved_from_dataparallel(tmp_path):
    torch.manual_seed(0)
    released = PlainUIQA().eval()
    torch.save(released.state_dict(), tmp_path / "UIQA.pth")
    torch.save({f"module.{key}": value for key, value in released.state_dict().items()}, tmp_path / "parallel.pth")
    loaded = load_model(tmp_path / "UIQA.pth")
    assert not loaded.model.training
    assert loaded.view_spec == ViewSpec()
    assert loaded.calibration is None
    parallel = load_model(tmp_path / "parallel.pth").model.state_dict()
    assert all(torch.equal(parallel[key], value) for key, value in released.state_dict().items())
    views = random_views(480, batch=1)
    with torch.inference_mode():
        expected = released(*(normalise(view.float() / 255) for view in views.values()))
        torch.testing.assert_close(loaded.model(**views), expected, atol=1e-5, rtol=0)


def test_a_calibration_beside_a_state_dict_is_found_and_another_can_be_given(tmp_path):
    torch.save(build_model("SwinT").state_dict(), tmp_path / "UIQA.pth")
    np.save(tmp_path / "UIQA.npy", [0.9, 0.2, 0.5, 0.1])
    np.save(tmp_path / "other.npy", [0.8, 0.1, 0.5, 0.1])
    assert load_model(tmp_path / "UIQA.pth").calibration.parameters[0] == 0.9
    assert load_model(tmp_path / "UIQA.pth", tmp_path / "other.npy").calibration.parameters[0] == 0.8


def test_a_calibration_that_is_given_replaces_the_checkpoints_and_one_beside_it_does_not(model, tmp_path):
    write_weights_file(tmp_path / "c.pth", content_of(model))
    np.save(tmp_path / "c.npy", [0.8, 0.1, 0.5, 0.1])
    assert load_model(tmp_path / "c.pth").calibration.parameters[0] == 0.9
    assert load_model(tmp_path / "c.pth", tmp_path / "c.npy").calibration.parameters[0] == 0.8


def test_a_pretraining_state_dict_loads_as_one_trunk(tmp_path):
    torch.save(build_model("SwinT").state_dict(), tmp_path / "AVA.pth")
    loaded = load_model(tmp_path / "AVA.pth")
    assert isinstance(loaded.model, SwinT)
    assert not loaded.model.training
    assert loaded.view_spec == ViewSpec(views=("aesthetic",))


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


def write_without_state_dict(path, model):
    write_weights_file(path, {key: value for key, value in content_of(model).items() if key != "state_dict"})


def write_truncated(path, model):
    write_weights_file(path, content_of(model))
    path.write_bytes(path.read_bytes()[:-5000])


def write_other_backbone(path, model):
    torch.save(model.state_dict(), path)


@pytest.mark.parametrize(
    "write",
    [
        write_garbage,
        write_truncated,
        write_other_backbone,
        write_without_state_dict,
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


@pytest.mark.parametrize("key", ["model", "state_dict", "view_spec", "mos_scale", "calibration", "options"])
def test_a_checkpoint_with_a_part_missing_is_one_error_that_names_the_file(key, model, tmp_path):
    content = content_of(model)
    del content[key]
    write_weights_file(tmp_path / "bad.pth", content)
    with pytest.raises(CheckpointError, match=r"bad\.pth"):
        load_model(tmp_path / "bad.pth")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", None),
        ("model", {"name": "UIQA", "backbone": "timm:no_such_trunk"}),
        ("state_dict", None),
        ("state_dict", [1.0, 2.0]),
        ("state_dict", {1: 2.0}),
        ("view_spec", {}),
        ("view_spec", {"views": ["aesthetic"], "colour": "blue"}),
        ("mos_scale", None),
        ("mos_scale", {"mean": 0.7}),
        ("calibration", {"parameters": None}),
        ("calibration", {"parameters": [0.9, 0.2], "fitted_on": "validation", "reason": ""}),
        ("version", "first"),
        ("normalisation", None),
        ("normalisation", {"mean": [0.5, 0.5, 0.5]}),
        ("normalisation", {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5]}),
        ("normalisation", {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.0, 0.5]}),
        ("normalisation", {"mean": [0.5, float("nan"), 0.5], "std": [0.5, 0.5, 0.5]}),
        ("sources", ["one"]),
        ("sources", {"one": {"mean": 0.0, "sd": 0.0, "calibration": None, "metrics": None}}),
        ("sources", {"one": {"mean": 0.0}}),
    ],
)
def test_a_checkpoint_with_a_wrong_part_is_one_error_that_names_the_file(key, value, model, tmp_path):
    write_weights_file(tmp_path / "bad.pth", content_of(model) | {key: value})
    with pytest.raises(CheckpointError, match=r"bad\.pth"):
        load_model(tmp_path / "bad.pth")


def test_exported_safetensors_load_as_the_checkpoint_they_were_made_of(model, tmp_path):
    write_weights_file(tmp_path / "c.pth", content_of(model, mean=0.7, sd=0.05))
    before = load_model(tmp_path / "c.pth")
    export_safetensors(before, tmp_path / "c.safetensors")
    after = load_model(tmp_path / "c.safetensors")
    views = random_views()
    assert torch.equal(after.model(**views), before.model(**views))
    assert not after.model.training
    for part in ("view_spec", "calibration", "branch_means", "options", "architecture"):
        assert getattr(after, part) == getattr(before, part)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "pt", "view_spec": "{"}])
def test_safetensors_of_others_are_a_bare_state_dict(metadata, tmp_path):
    state = build_model("SwinT").state_dict()
    save_file(state, tmp_path / "AVA.safetensors", metadata)
    loaded = load_model(tmp_path / "AVA.safetensors")
    assert loaded.view_spec == ViewSpec(views=("aesthetic",))
    assert all(torch.equal(value, state[key]) for key, value in loaded.model.state_dict().items())


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("version", None),
        ("version", "99"),
        ("version", "first"),
        ("model", None),
        ("model", "[]"),
        ("model", '{"name": "UIQA", "backbone": ["swin_t"]}'),
        ("model", '{"name": "UIQA", "backbone": "swin_b"}'),
        ("view_spec", "NaN"),
        ("view_spec", "[" * 100_000),
        ("view_spec", '{"views": ["aesthetic"], "resize": "large"}'),
        ("view_spec", '{"views": ["aesthetic", "distortion", "salient"], "resize": 1e400}'),
        ("calibration", '{"parameters": [0.9, 0.2, 0.5, 0], "fitted_on": "validation", "reason": ""}'),
        ("calibration", '{"parameters": [0.9, 0.2, 0.5, 1e400], "fitted_on": "validation", "reason": ""}'),
        ("calibration", '{"parameters": null, "fitted_on": [], "reason": ""}'),
        ("branch_means", '{"aesthetic": 0.1}'),
        ("options", "3"),
    ],
)
def test_a_header_with_a_wrong_entry_is_one_error_that_names_the_file(entry, text, model, tmp_path):
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    write_weights_file(tmp_path / "c.pth", content_of(model))
    export_safetensors(load_model(tmp_path / "c.pth"), good)
    with safe_open(good, "pt") as file:
        metadata = file.metadata() | {entry: text}
    save_file(load_file(good), bad, {name: value for name, value in metadata.items() if value is not None})
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        load_model(bad)


@pytest.mark.parametrize("read", [load_checkpoint, load_model, initialise])
def test_a_newer_version_is_refused_whatever_it_is_read_for(read, model, tmp_path):
    path = tmp_path / "c.pth"
    write_weights_file(path, content_of(model) | {"version": 99})
    with pytest.raises(CheckpointError, match=r"c\.pth.*newer"):
        read(model, path) if read is initialise else read(path)


def test_a_save_that_fails_leaves_the_previous_checkpoint_whole(model, tmp_path, monkeypatch):
    path = tmp_path / "c.pth"
    write_weights_file(path, content_of(model))
    before = path.read_bytes()

    def full_disk(content, file):
        file.write_bytes(b"half a checkpoint")
        raise OSError("No space left on device")

    with pytest.raises((AttributeError, pickle.PicklingError), match="pickle"):
        write_weights_file(path, content_of(model) | {"options": lambda: None})
    assert path.read_bytes() == before
    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(CheckpointError, match="No space"):
        write_weights_file(path, content_of(model))
    assert path.read_bytes() == before


def test_without_hard_links_the_checkpoint_before_is_kept_as_a_copy(model, tmp_path, monkeypatch):
    def no_links(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path, contents = tmp_path / "last.pth", []
    for epoch in range(2):
        write_weights_file(path, content_of(model) | {"epoch": epoch}, keep_previous=True)
        contents.append(path.read_bytes())
    assert [previous_of(path).read_bytes(), path.read_bytes()] == contents
    assert {file.name for file in tmp_path.iterdir()} == {"last.pth", "previous.pth"}
