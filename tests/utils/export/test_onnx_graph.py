"""Exported graphs: PyTorch's numbers for any batch size and model, and no file if the numbers differ."""

import json
from dataclasses import replace

import onnx
import pytest
import torch
from safetensors.torch import load_file

from data.views import ViewSpec
from models import build_model
from models.backbones import build_trunk
from models.uiqa import QualityModel
from utils.checkpoint import load_model
from utils.errors import RunError
from utils.export import onnx_graph as exporting
from utils.export.onnx_graph import VIEWS, export_onnx, export_safetensors, noise
from utils.export.onnx_runtime import load_onnx
from utils.loaded_model import LoadedModel

SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=2, salient_patch_dimension=64)


class OneTrunk(QualityModel):
    """One trunk reads two views."""

    view_names = ("distortion", "salient")

    def __init__(self, backbone: str):
        trunk = build_trunk(backbone, 64)
        super().__init__([trunk, trunk])
        self.trunk = trunk

    def trunks(self) -> dict[str, torch.nn.Module]:
        return dict.fromkeys(self.view_names, self.trunk)


def loaded_with(model: QualityModel, spec: ViewSpec = SPEC) -> LoadedModel:
    return LoadedModel(model.eval(), spec, None, None, {}, {"name": type(model).__name__})


def largest_difference(expected: dict, actual: dict) -> float:
    assert {name: value.shape for name, value in actual.items()} == {k: v.shape for k, v in expected.items()}
    return max((actual[name] - value).abs().max().item() for name, value in expected.items())


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_graph_gives_pytorchs_contributions_for_any_batch(exported, batch):
    loaded = load_model(exported.checkpoint)
    views = noise(loaded.view_spec, batch)
    with torch.inference_mode():
        expected = loaded.model.contributions(**views)
    assert largest_difference(expected, load_onnx(exported.onnx).model.contributions(**views)) < 1e-5


def test_the_file_has_all_that_scoring_needs_and_nothing_about_this_machine(exported):
    loaded, from_onnx = load_model(exported.checkpoint), load_onnx(exported.onnx)
    assert from_onnx.view_spec == loaded.view_spec
    assert from_onnx.calibration == loaded.calibration
    assert from_onnx.branch_means == loaded.branch_means
    metadata = {entry.key: entry.value for entry in onnx.load(exported.onnx).metadata_props}
    assert json.loads(metadata["input"]) == VIEWS
    content = exported.onnx.read_bytes()
    for words in (b"site-packages", b"exporting.py", str(exported.onnx.parent).encode()):
        assert words not in content
    assert not any(node.metadata_props or node.doc_string for node in onnx.load(exported.onnx).graph.node)


def test_inputs_are_uint8_views_and_outputs_are_named(exported):
    graph = onnx.load(exported.onnx).graph
    inputs = {value.name: value.type.tensor_type for value in graph.input}
    assert list(inputs) == ["aesthetic", "distortion", "salient"]
    for kind in inputs.values():
        assert kind.elem_type == onnx.TensorProto.UINT8
        batch, *size = kind.shape.dim
        assert batch.dim_param == "batch"
        assert [side.dim_value for side in size] == [3, 64, 64]
    outputs = ["score", "bias", "map_aesthetic", "map_distortion", "map_salient"]
    assert [value.name for value in graph.output] == outputs


@pytest.mark.slow
def test_a_trunk_that_reads_two_views_is_in_the_file_once(tmp_path):
    model = OneTrunk("timm:test_resnet")
    loaded = loaded_with(model, replace(SPEC, views=model.view_names))
    views = noise(loaded.view_spec, 2)
    before = model.contributions(**views)["score"]
    assert export_onnx(loaded, tmp_path / "one.onnx", VIEWS)[0] < 1e-5
    weights = sum(value.numel() for value in model.trunk.parameters()) * 4
    assert weights < (tmp_path / "one.onnx").stat().st_size < 1.7 * weights
    assert load_onnx(tmp_path / "one.onnx").model.view_names == model.view_names
    assert torch.equal(model.contributions(**views)["score"], before), "the export changed the model"


def test_a_graph_with_other_scores_is_not_written(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_graph_file", lambda *_: exported.onnx.read_bytes())
    loaded = load_model(exported.checkpoint)
    path = tmp_path / "network.onnx"
    assert export_onnx(loaded, path, VIEWS)[0] < 1e-5
    path.write_text("the old content")
    with torch.no_grad():
        next(loaded.model.trunks()["salient"].parameters()).mul_(1.05)
    with pytest.raises(RunError, match=r"network\.onnx: not written: .* differ"):
        export_onnx(loaded, path, VIEWS)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["the old content"]


def test_a_graph_that_outputs_nan_is_not_written(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_graph_file", lambda *_: exported.onnx.read_bytes())
    loaded = load_model(exported.checkpoint)
    with torch.no_grad():
        loaded.model.quality[1].bias.fill_(torch.nan)
    with pytest.raises(RunError, match="differ"):
        export_onnx(loaded, tmp_path / "network.onnx", VIEWS)
    assert not list(tmp_path.iterdir())


def test_a_trunk_that_cannot_be_traced_is_named_in_the_error(tmp_path, monkeypatch):
    model = build_model("SwinT", backbone="timm:test_resnet", view_sizes=SPEC.view_sizes)
    monkeypatch.setattr(model.feature_extraction, "feature_map", lambda x: x if x.mean() > 0 else -x, raising=True)
    loaded = loaded_with(model, replace(SPEC, views=("aesthetic",)))
    loaded.architecture["backbone"] = "timm:test_resnet"
    with pytest.raises(RunError, match=r"SwinT timm:test_resnet: torch\.onnx cannot export"):
        export_onnx(loaded, tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_too_large_for_one_file_are_an_error_before_any_work(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "LARGEST_ONNX", 1000)
    with pytest.raises(RunError, match=r"UIQA timm:test_resnet: .* GiB"):
        export_onnx(load_model(exported.checkpoint), tmp_path / "network.onnx")


def test_safetensors_of_a_shared_trunk_has_every_name(tmp_path):
    model = OneTrunk("swin_nano")
    model.second_name = model.trunk
    export_safetensors(loaded_with(model), tmp_path / "one.safetensors")
    state = load_file(tmp_path / "one.safetensors")
    assert set(state) == set(model.state_dict())
    assert torch.equal(state["second_name.norm.weight"], model.trunk.norm.weight)


@pytest.mark.slow
@pytest.mark.paper
def test_swin_trunks_are_exported(tmp_path):
    torch.manual_seed(0)
    model = build_model("UIQA", backbone="swin_nano")
    loaded = loaded_with(model, replace(SPEC, n_fragment=7, salient_patch_dimension=200))  # also rolled and padded maps
    assert export_onnx(loaded, tmp_path / "network.onnx", VIEWS)[0] < 1e-5
    views = noise(loaded.view_spec, 5)
    with torch.inference_mode():
        expected = model.contributions(**views)
    assert largest_difference(expected, load_onnx(tmp_path / "network.onnx").model.contributions(**views)) < 1e-5


@pytest.mark.slow
def test_a_trunk_of_timm_is_exported(tmp_path):
    torch.manual_seed(0)
    spec = replace(SPEC, resize=224, crop_size=224, views=("aesthetic",))
    model = build_model("SwinT", backbone="timm:convnext_atto", view_sizes=spec.view_sizes)
    assert export_onnx(loaded_with(model, spec), tmp_path / "network.onnx", VIEWS)[0] < 1e-4


def test_a_model_that_reads_all_patches_of_a_photograph_is_an_error(tmp_path):
    spec = ViewSpec(views=("patches",), patch_dimension=64)
    model = build_model("Patches", backbone="timm:test_resnet", view_sizes=spec.view_sizes)
    with pytest.raises(RunError, match="as many patches as a photograph has"):
        export_onnx(loaded_with(model, spec), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_three_patches_are_exported(tmp_path):
    spec = ViewSpec(views=("patches",), patch_dimension=64, patch_policy="texture")
    model = build_model("Patches", backbone="timm:test_resnet", view_sizes=spec.view_sizes).eval()
    assert export_onnx(loaded_with(model, spec), tmp_path / "model.onnx", VIEWS)[0] < 1e-4
