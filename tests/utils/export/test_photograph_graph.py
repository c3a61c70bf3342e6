"""A graph that reads whole photographs: the views are Python's, and so are the results, without torch."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import export
from data.synthetic import render_scene
from data.views import ViewSpec, make_views
from models import build_model
from utils.calibration import Calibration
from utils.checkpoint import load_model
from utils.errors import CheckpointError, RunError
from utils.export import onnx_graph
from utils.export.onnx_graph import export_onnx
from utils.export.onnx_runtime import load_onnx
from utils.export.photograph_graph import VIEW_BUILDERS, GraphBuilder, photograph_graph
from utils.loaded_model import LoadedModel

SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=4, patch_size=16, salient_patch_dimension=48)
SIZES = [(20, 20), (33, 150), (47, 48), (48, 49), (63, 64), (64, 64), (65, 67), (72, 300), (201, 150), (400, 90)]


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return render_scene(np.random.default_rng(3), 400, 300)


def cut(spec: ViewSpec, photograph: np.ndarray) -> dict[str, np.ndarray]:
    """Cut the views with ONNX operators alone."""
    builder = GraphBuilder()
    for name in spec.views:
        builder.view(VIEW_BUILDERS[name](builder, "photograph", spec), name)
    info, uint8 = builder.helper.make_tensor_value_info, onnx.TensorProto.UINT8
    outputs = [info(name, uint8, [1, 3, size, size]) for name, size in spec.view_sizes.items()]
    graph = builder.helper.make_graph(builder.nodes, "views", [info("photograph", uint8, ["h", "w", 3])], outputs)
    model = builder.helper.make_model(graph, opset_imports=[builder.helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return dict(zip(spec.views, session.run(list(spec.views), {"photograph": photograph}), strict=True))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("fractions", ["drawn", "kept"])
def test_the_views_are_those_of_python(size, fractions, scene):
    kept = tuple(np.random.default_rng(1).integers(0, 2**16, 32).tolist()) if fractions == "kept" else ()
    spec = replace(SPEC, fractions=kept)
    photograph = np.ascontiguousarray(scene[: size[0], : size[1]])
    actual = cut(spec, photograph)
    for name, view in make_views(photograph, spec).items():
        difference = np.abs(actual[name][0].astype(int) - view.numpy())
        assert difference.max() <= 1
        assert difference.mean() < 0.1, "more than ties that are rounded the other way"
        if name == "salient" or (name == "distortion" and min(size) >= 64):
            assert not difference.any(), "nothing is resampled"


def test_its_results_are_those_of_score(exported_whole, exported, scene):
    loaded, session = load_model(exported.checkpoint), onnxruntime.InferenceSession(exported_whole)
    names = [output.name for output in session.get_outputs()]
    views = ["view_aesthetic", "view_distortion", "view_salient"]
    assert names == ["score", "quality", "bias", "map_aesthetic", "map_distortion", "map_salient", *views]
    for size in SIZES:
        photograph = np.ascontiguousarray(scene[: size[0], : size[1]])
        actual = dict(zip(names, session.run(names, {"photograph": photograph}), strict=True))
        expected = loaded.score(photograph, maps=True)
        assert actual["score"] == pytest.approx(expected.score, abs=2e-3)
        assert actual["quality"] == pytest.approx(expected.quality, abs=2e-3)
        total = actual["bias"] + sum(actual[f"map_{name}"].mean() for name in expected.maps)
        assert total == pytest.approx(actual["score"].item(), abs=1e-5)
        for name, view in make_views(photograph, loaded.view_spec).items():
            assert np.abs(actual[f"view_{name}"][0].astype(int) - view.numpy()).max() <= 1
        for name, points in expected.maps.items():
            np.testing.assert_allclose(actual[f"map_{name}"][0], points, atol=2e-2)


def test_it_runs_without_torch(exported_whole, scene, tmp_path):
    np.save(tmp_path / "photograph.npy", scene)
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy, onnxruntime\n"
        "photograph = numpy.load(sys.argv[2])\n"
        "print(onnxruntime.InferenceSession(sys.argv[1]).run(['score'], {'photograph': photograph})[0][0])"
    )
    command = [sys.executable, "-c", program, str(exported_whole), str(tmp_path / "photograph.npy")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert np.isfinite(float(printed))


def test_the_command_that_needs_views_says_how_to_export_them(exported_whole):
    with pytest.raises(CheckpointError, match="--input views"):
        load_onnx(exported_whole)


def test_half_the_size_holds_the_same_scores(exported, exported_whole, scene, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "CHECKED_SIZES", ((64, 90),))
    assert export.main([str(exported.checkpoint), "--format=onnx", "--half", f"--out={tmp_path / 'half.onnx'}"]) == 0
    assert (tmp_path / "half.onnx").stat().st_size < 0.8 * exported_whole.stat().st_size
    scores = [
        onnxruntime.InferenceSession(path).run(["score"], {"photograph": scene})[0]
        for path in (exported_whole, tmp_path / "half.onnx")
    ]
    np.testing.assert_allclose(*scores, atol=5e-3)


def test_a_graph_that_scores_otherwise_is_not_written(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "CHECKED_SIZES", ((64, 90),))
    loaded = load_model(exported.checkpoint)
    content = onnx_graph._graph_file(loaded, "photograph", False)
    monkeypatch.setattr(onnx_graph, "_graph_file", lambda *_: content)
    with torch.no_grad():
        loaded.model.quality[1].bias.add_(0.01)
    with pytest.raises(RunError, match="differ"):
        export_onnx(loaded, tmp_path / "other.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "spec",
    [replace(SPEC, saliency="spectral"), ViewSpec(views=("patches",), patch_dimension=64, patch_policy="texture")],
    ids=["spectral", "patches"],
)
def test_views_that_operators_cannot_cut_are_refused_with_the_remedy(spec):
    with pytest.raises(RunError, match="--input views"):
        photograph_graph(None, spec, None)


@pytest.mark.slow
def test_a_model_of_one_view_without_a_mapping_has_no_quality(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "CHECKED_SIZES", ((20, 20), (300, 400)))
    for calibration in (None, Calibration(None, "validation", "too few")):
        spec = replace(SPEC, resize=64, views=("aesthetic",))
        model = build_model("SwinT", backbone="timm:test_resnet", view_sizes=spec.view_sizes).eval()
        loaded = LoadedModel(model, spec, calibration, None, {}, {"name": "SwinT"})
        difference, checked = export_onnx(loaded, tmp_path / "one.onnx")
        assert difference < 2e-3
        assert "2 photographs" in checked
        outputs = [output.name for output in onnxruntime.InferenceSession(tmp_path / "one.onnx").get_outputs()]
        assert outputs == ["score", "bias", "map_aesthetic", "view_aesthetic"]
