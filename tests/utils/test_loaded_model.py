"""Scoring from Python: photographs in any form get the scores of predict.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import predict
from data.decode import ImageError, decode_rgb
from data.synthetic import render_scene
from utils.checkpoint import load_model
from utils.export.onnx_runtime import load_onnx

COUNT = 5


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    """Five photographs of different sizes."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = [folder / f"{number}.jpg" for number in range(COUNT)]
    for number, path in enumerate(paths):
        scene = render_scene(np.random.default_rng(number), 120 + 40 * number, 300)
        Image.fromarray(scene).save(path, quality=90)
    return paths


@pytest.fixture(scope="module", params=["checkpoint", "onnx"])
def case(request, exported, paths, tmp_path_factory):
    """A loaded model, and the rows that predict.py writes with it."""
    file = getattr(exported, request.param)
    out = tmp_path_factory.mktemp("rows") / "rows.json"
    words = [f"--{request.param}={file}", "--device=cpu", "--num_workers=0", f"--json={out}", *map(str, paths)]
    assert predict.main(words) == 0
    loaded = load_onnx(file) if request.param == "onnx" else load_model(file)
    return loaded, json.loads(out.read_text())["images"]


FORMS = {
    "text": str,
    "path": Path,
    "content": lambda path: path.read_bytes(),
    "content that can change": lambda path: bytearray(path.read_bytes()),
    "pil": Image.open,
    "array": decode_rgb,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_a_photograph_gets_predicts_score_alone_and_in_a_list(form, case, paths):
    loaded, rows = case
    scores = loaded.score([form(path) for path in paths], batch_size=2)
    assert len(scores) == COUNT
    for result, row in zip([*scores, loaded.score(form(paths[0]))], [*rows, rows[0]], strict=True):
        assert result.score == pytest.approx(row["score"], abs=1e-5)
        assert result.quality == pytest.approx(row["quality"], abs=1e-5)
        assert result.points == pytest.approx({n: row[f"points_{n}"] for n in result.points}, abs=1e-5)
        assert result.error is None
        assert result.maps is None


def test_points_and_bias_sum_to_the_score_and_are_the_means_of_the_maps(exported, paths):
    loaded = load_model(exported.checkpoint)
    bias = loaded.model.effective_weights()[1].item()
    for result in [*loaded.score(paths, maps=True), loaded.score(paths[0], maps=True)]:
        assert list(result.points) == list(result.maps) == ["aesthetic", "distortion", "salient"]
        assert bias + sum(result.points.values()) == pytest.approx(result.score, abs=1e-5)
        for name, points in result.maps.items():
            assert points.dtype == np.float32
            assert points.mean() == pytest.approx(result.points[name], abs=1e-5)


@pytest.mark.parametrize("maps", [False, True])
def test_an_unusable_photograph_in_a_list_has_an_error_and_the_others_are_scored(maps, case, paths, tmp_path):
    loaded, rows = case
    broken = tmp_path / "broken.jpg"
    broken.write_text("no photograph")
    first, second, third, fourth = loaded.score([paths[0], broken, np.zeros((4, 4)), paths[1]], maps=maps)
    assert [first.score, fourth.score] == pytest.approx([row["score"] for row in rows[:2]], abs=1e-5)
    assert np.isnan([second.score, third.score]).all()
    assert second.quality is None
    assert "broken.jpg" in second.error
    assert "(H, W, 3) uint8" in third.error
    assert str(second) == f"failed: {second.error}"


def test_only_unusable_photographs_are_a_list_of_errors(case):
    results = case[0].score([b"", "missing.jpg"], maps=True)
    assert ["empty" in results[0].error, "missing.jpg" in results[1].error] == [True, True]


@pytest.mark.parametrize("photo", ["missing.jpg", Path("missing.jpg"), b"no photograph", np.zeros((4, 4, 3))])
def test_a_single_unusable_photograph_raises(photo, case):
    with pytest.raises(ImageError):
        case[0].score(photo)


def test_an_empty_list_has_no_scores(case):
    assert case[0].score([]) == []


def test_a_score_prints_as_in_predicts_table(case, paths, capsys):
    loaded, rows = case
    print(loaded.score(paths[0]))
    assert capsys.readouterr().out == f"score {rows[0]['score']:.4f}, quality {rows[0]['quality']:.4f}\n"


def test_without_a_mapping_there_is_no_quality(exported, paths, tmp_path):
    content = torch.load(exported.checkpoint, weights_only=True)
    torch.save(content | {"calibration": None}, tmp_path / "model.pth")
    result = load_model(tmp_path / "model.pth").score(paths[0])
    assert result.quality is None
    assert str(result) == f"score {result.score:.4f}"
