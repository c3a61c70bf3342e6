"""The command: one file and one line, or one error and no file."""

import sys

import pytest
import torch
from safetensors import safe_open

import export
from utils.checkpoint import load_model
from utils.errors import EXIT_UNUSABLE_INPUT


def test_the_file_is_written_beside_the_checkpoint_and_reported_in_one_line(exported):
    assert exported.onnx.is_file()
    assert exported.output.count("\n") == 1, "the exporter printed to the terminal"
    assert exported.output.startswith(str(exported.onnx))
    assert "agrees with PyTorch" in exported.output
    assert sorted(path.name for path in exported.onnx.parent.iterdir()) == ["tiny.onnx", "tiny.pth"]


def test_safetensors_can_be_written_anywhere_and_read_by_safetensors_alone(exported, tmp_path, capsys):
    out = tmp_path / "new" / "weights.safetensors"
    assert export.main([str(exported.checkpoint), "--format=safetensors", f"--out={out}"]) == 0
    assert capsys.readouterr().out.startswith(str(out))
    state = load_model(exported.checkpoint).model.state_dict()
    with safe_open(out, "np") as file:
        assert set(file.keys()) == set(state)
        assert (file.get_tensor("quality.1.weight") == state["quality.1.weight"].numpy()).all()


@pytest.mark.parametrize(
    ("out", "word"), [("scores.bin", "scores.onnx"), ("-", "suffix"), ("tiny.pth", "tiny.onnx"), ("", "folder")]
)
def test_a_file_name_that_could_not_be_loaded_again_is_an_error(exported, tmp_path, out, word, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = export.main([str(exported.checkpoint), "--format=onnx", "--input=views", f"--out={out}"])
    except SystemExit as stop:
        code = stop.code
    assert code == EXIT_UNUSABLE_INPUT
    assert word in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_not_replaced_by_its_own_export(exported, tmp_path, capsys):
    out = tmp_path / "weights.safetensors"
    export.main([str(exported.checkpoint), "--format=safetensors", f"--out={out}"])
    before = out.read_bytes()
    assert export.main([str(out), "--format=safetensors"]) == EXIT_UNUSABLE_INPUT
    assert "--out" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_one_error_that_says_how_to_install_it(exported, tmp_path, package, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    code = export.main([str(exported.checkpoint), "--format=onnx", "--input=views", f"--out={tmp_path / 'a.onnx'}"])
    assert code == EXIT_UNUSABLE_INPUT
    message = capsys.readouterr().err
    assert package in message
    assert "pip install -r requirements-export.txt" in message
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_safetensors_need_no_optional_package(exported, tmp_path, monkeypatch):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    assert export.main([str(exported.checkpoint), "--format=safetensors", f"--out={tmp_path / 'a.safetensors'}"]) == 0


def test_without_a_checkpoint_it_says_where_to_get_one(tmp_path, capsys):
    assert export.main([str(tmp_path / "absent.pth"), "--format=onnx", "--input=views"]) == EXIT_UNUSABLE_INPUT
    assert "github.com/sunwei925/UIQA" in capsys.readouterr().err


def test_the_help_describes_inputs_and_outputs_for_other_languages(capsys):
    with pytest.raises(SystemExit):
        export.main(["--help"])
    words = " ".join(capsys.readouterr().out.split())
    for word in ("uint8", "(B, 3, S, S)", "aesthetic, distortion, salient", "map_<view> (B, h, w)", "float32"):
        assert word in words


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_name_without_a_file_is_one_error(name, capsys):
    assert export.main([name, "--format=onnx"]) == EXIT_UNUSABLE_INPUT
    assert "is not the name of a checkpoint" in capsys.readouterr().err


def test_the_weights_alone_know_the_images_that_they_were_trained_on(exported, tmp_path):
    content = torch.load(exported.checkpoint, weights_only=True)
    torch.save(content | {"fingerprint": "training validation order"}, tmp_path / "a.pth")
    assert export.main([f"{tmp_path}/a.pth", "--format=safetensors"]) == 0
    for name in ("a.pth", "a.safetensors"):
        assert load_model(tmp_path / name).fingerprint == "training"
