"""Scoring with ONNX files: the checkpoint's rows, maps and draws, and one clear error for a damaged file."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from PIL import Image

import export
import predict
from data.datasets import PhotographDataset
from data.decode import decode_rgb
from data.synthetic import render_scene
from data.views import ViewSpec, make_views
from models import build_model
from utils.checkpoint import load_model
from utils.errors import EXIT_FAILED_IMAGES, EXIT_UNUSABLE_INPUT, CheckpointError, RunError
from utils.export.onnx_runtime import load_onnx, open_session
from utils.inference import score_photographs

CPU = torch.device("cpu")
# What a program without torch does with an ONNX file: views in, score and quality out.
WITHOUT_TORCH = """
import json, sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
views = dict(numpy.load(sys.argv[2]))
score, = session.run(["score"], views)
metadata = session.get_modelmeta().custom_metadata_map
mapping = json.loads(metadata["calibration"])
quality = None
if mapping:
    upper, lower, middle, width = mapping["parameters"]
    quality = (lower + (upper - lower) / (1 + numpy.exp(-(score - middle) / abs(width)))).tolist()
assert "torch" not in sys.modules
print(json.dumps({"score": score.tolist(), "quality": quality, "sizes": json.loads(metadata["view_spec"])}))
"""


@pytest.fixture
def photographs(tmp_path, photograph) -> list[str]:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(np.roll(photograph, 40 * number, axis=1)).save(path)
    return [str(path) for path in paths]


def scored_without_torch(network: Path, views: dict[str, torch.Tensor], folder: Path) -> dict:
    np.savez(folder / "views.npz", **{name: view.contiguous().numpy() for name, view in views.items()})
    words = [sys.executable, "-I", "-c", WITHOUT_TORCH, str(network), str(folder / "views.npz")]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def views_of(paths: list[str], spec: ViewSpec) -> dict[str, torch.Tensor]:
    cut = [make_views(decode_rgb(path), spec, spec.evaluation_fractions()) for path in paths]
    return {name: torch.stack([views[name] for views in cut]) for name in spec.views}


def test_a_process_without_torch_scores_saved_views(exported, photographs, tmp_path):
    loaded = load_model(exported.checkpoint)
    views = views_of(photographs, loaded.view_spec)
    scored = scored_without_torch(exported.onnx, views, tmp_path)
    with torch.inference_mode():
        scores = loaded.model(**views).squeeze(1).numpy()
    np.testing.assert_allclose(scored["score"], scores, atol=1e-4)
    np.testing.assert_allclose(scored["quality"], loaded.calibration(scores), atol=1e-4)
    assert ViewSpec.from_dict(scored["sizes"]) == loaded.view_spec


@pytest.mark.parametrize("draws", [1, 3])
def test_scores_points_maps_and_draws_equal_the_checkpoints(exported, photographs, draws):
    results = []
    for loaded in (load_model(exported.checkpoint), load_onnx(exported.onnx)):
        dataset = PhotographDataset(photographs, loaded.view_spec, draws=draws)
        results.append(score_photographs(loaded.model, dataset, CPU, batch_size=2, maps=True))
    ours, onnx_ = results
    np.testing.assert_allclose(onnx_.scores, ours.scores, atol=1e-5)
    np.testing.assert_allclose(onnx_.draw_sd, ours.draw_sd, atol=1e-5)
    assert list(onnx_.points) == list(ours.points)
    for name in ours.points:
        np.testing.assert_allclose(onnx_.points[name], ours.points[name], atol=1e-5)
        np.testing.assert_allclose(onnx_.maps[name], ours.maps[name], atol=1e-5)


def test_predict_writes_the_same_rows_and_maps_as_with_the_checkpoint(exported, photographs, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_text("no photograph")
    tables, reports = {}, {}
    for name, network in (("checkpoint", exported.checkpoint), ("onnx", exported.onnx)):
        words = [f"--{name}={network}", "--device=cpu", *photographs, str(broken), "--json=-"]
        words += [f"--csv={tmp_path / name}.csv", f"--map={tmp_path / name}"]
        assert predict.main(words) == EXIT_FAILED_IMAGES
        tables[name] = pd.read_csv(tmp_path / f"{name}.csv")
        reports[name] = json.loads(capsys.readouterr().out)
    pd.testing.assert_frame_equal(tables["onnx"], tables["checkpoint"], atol=1e-4, rtol=0)
    assert tables["onnx"]["score"].notna().sum() == 3
    assert reports["onnx"]["calibration"] == reports["checkpoint"]["calibration"]
    pictures = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in tables]
    assert pictures[0] == pictures[1] == ["0_map.png", "1_map.png", "2_map.png"]


def test_a_given_calibration_replaces_the_files(exported, tmp_path):
    np.save(tmp_path / "other.npy", [0.8, 0.1, 0.5, 0.1])
    assert load_onnx(exported.onnx, calibration_path=tmp_path / "other.npy").calibration.parameters[0] == 0.8


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--checkpoint={pth}", "--onnx={onnx}"], "not allowed with"),
        (["--onnx={onnx}", "--compile"], "--compile"),
        (["--onnx={onnx}", "--device=tpu"], "unknown device"),
        (["--onnx={pth}"], "tiny.pth"),
        (["--onnx=absent.onnx"], "export.py"),
        (["--onnx={onnx}", "--calibration=absent.npy"], "absent.npy"),
    ],
)
def test_contradictory_or_unusable_options_are_one_error(words, named, exported, capsys):
    words = [word.format(pth=exported.checkpoint, onnx=exported.onnx) for word in words]
    try:
        code = predict.main([*words, "photo.jpg"])
    except SystemExit as stop:
        code = stop.code
    assert code == EXIT_UNUSABLE_INPUT
    message = capsys.readouterr().err
    assert named in message
    assert message.count("\n") == 1


def test_without_onnxruntime_it_says_how_to_install_it(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RunError, match=r"pip install -r requirements-export\.txt"):
        load_onnx(exported.onnx)


def test_cuda_needs_the_support_of_onnxruntime_as_well_as_torch(exported, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ValueError, match="onnxruntime-gpu"):
        open_session(exported.onnx, "cuda")
    assert open_session(exported.onnx, "auto").get_providers() == ["CPUExecutionProvider"]


def changed(path: Path, to: Path, **entries) -> Path:
    """Write an ONNX file with other metadata; None leaves an entry out."""
    file = onnx.load(path)
    metadata = {entry.key: entry.value for entry in file.metadata_props} | entries
    onnx.helper.set_model_props(file, {name: value for name, value in metadata.items() if value is not None})
    onnx.save(file, to)
    return to


@pytest.mark.parametrize(
    "entries",
    [
        {"format": None},
        {"format": "pt"},
        {"version": None},
        {"version": "99"},
        {"version": '"first"'},
        {"version": "{"},
        {"view_spec": None},
        {"view_spec": "[1, 2]"},
        {"view_spec": "[" * 100_000},
        {"view_spec": '{"views": ["aesthetic"], "colour": "blue"}'},
        {"view_spec": json.dumps(replace(ViewSpec(), views=("aesthetic",)).to_dict())},
        {"view_spec": json.dumps(ViewSpec().to_dict())},
        {"calibration": None},
        {"calibration": '{"parameters": [0.9, 0.2], "fitted_on": "validation", "reason": ""}'},
        {"calibration": '{"parameters": [0.9, 0.2, 0.5, NaN], "fitted_on": "validation", "reason": ""}'},
        {"calibration": '{"parameters": [0.9, 0.2, 0.5, 1e999], "fitted_on": "validation", "reason": ""}'},
        {"calibration": '{"parameters": null, "fitted_on": 3, "reason": ""}'},
        {"branch_means": '{"aesthetic": "much"}'},
        {"branch_means": "[0.1, 0.2, 0.3]"},
    ],
    ids=str,
)
def test_unusable_metadata_are_one_error_that_names_the_file(entries, exported, tmp_path):
    with pytest.raises(CheckpointError, match=r"bad\.onnx"):
        load_onnx(changed(exported.onnx, tmp_path / "bad.onnx", **entries))


def test_metadata_of_other_tools_are_ignored(exported, tmp_path):
    path = changed(exported.onnx, tmp_path / "quantised.onnx", **{"onnx.infer": "onnxruntime.quant"})
    assert load_onnx(path).view_spec == load_onnx(exported.onnx).view_spec


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_a_truncated_file_is_one_error_that_names_it(size, exported, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(exported.onnx.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"bad\.onnx"):
        load_onnx(tmp_path / "bad.onnx")


def test_a_graph_without_maps_is_one_error_that_names_the_file(exported, tmp_path):
    file = onnx.load(exported.onnx)
    kept = [output for output in file.graph.output if output.name != "map_salient"]
    del file.graph.output[:]
    file.graph.output.extend(kept)
    onnx.save(file, tmp_path / "bad.onnx")
    with pytest.raises(CheckpointError, match=r"bad\.onnx.*map_salient"):
        load_onnx(tmp_path / "bad.onnx")


@pytest.mark.slow
@pytest.mark.paper
def test_the_papers_model_scores_a_4k_jpeg_as_pytorch_does(tmp_path, capfd):
    torch.manual_seed(2)
    torch.save(build_model("UIQA").state_dict(), tmp_path / "UIQA.pth")
    Image.fromarray(render_scene(np.random.default_rng(4), 2160, 3840)).save(tmp_path / "photo.jpg", quality=60)
    assert export.main([str(tmp_path / "UIQA.pth"), "--format=onnx", "--input=views"]) == 0
    printed = capfd.readouterr()
    assert printed.out.count("\n") == 1
    assert printed.err == ""
    rows = {}
    for name in ("checkpoint=UIQA.pth", "onnx=UIQA.onnx"):
        option, file = name.split("=")
        words = [f"--{option}={tmp_path / file}", "--device=cpu", f"--json={tmp_path / option}.json"]
        assert predict.main([*words, str(tmp_path / "photo.jpg")]) == 0
        (rows[option],) = json.loads((tmp_path / f"{option}.json").read_text())["images"]
    assert rows["onnx"] == pytest.approx(rows["checkpoint"], abs=1e-4, nan_ok=True)
    spec = ViewSpec()
    scored = scored_without_torch(tmp_path / "UIQA.onnx", views_of([str(tmp_path / "photo.jpg")], spec), tmp_path)
    assert scored["score"] == pytest.approx([rows["checkpoint"]["score"]], abs=1e-4)


def test_a_pointer_in_place_of_a_network_is_named(tmp_path):
    (tmp_path / "UIQA.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(CheckpointError, match=r"UIQA\.onnx: is a Git LFS pointer.*git lfs pull"):
        load_onnx(tmp_path / "UIQA.onnx")
