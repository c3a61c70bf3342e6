"""Half precision from training to scores: near those of float32, named in every result, never mixed with others."""

import json

import pandas as pd
import pytest

import predict
import test as test_entry
import train
from utils.errors import EXIT_UNUSABLE_INPUT
from utils.training.options import train_parser

FP32, BF16 = "--precision=fp32", "--precision=bf16"


@pytest.fixture(scope="module")
def swin(tiny_dataset, tiny_model_options, tmp_path_factory) -> str:
    """A checkpoint of a small Swin that was validated in bf16."""
    folder = tmp_path_factory.mktemp("swin")
    places = [f"--database_dir={tiny_dataset}", f"--snapshot={folder}", f"--logdir={folder}/logs", "--run=swin"]
    words = [*tiny_model_options, *places, "--backbone=swin_nano", "--num_epochs=1", "--num_workers=0", "--device=cpu"]
    assert train.main([*words, BF16]) == 0
    return f"{folder}/swin/best.pth"


def test_a_split_scores_near_float32_and_the_report_names_the_precision(swin, tmp_path):
    scores = {}
    for precision in (FP32, BF16):
        run = precision.rpartition("=")[2]
        words = [f"--checkpoint={swin}", f"--logdir={tmp_path}", f"--run={run}", "--num_workers=0", "--device=cpu"]
        assert test_entry.main([*words, precision]) == 0
        assert json.loads((tmp_path / run / "test_test.json").read_text())["precision"] == run
        scores[run] = pd.read_csv(tmp_path / run / "predictions_test.csv")["score"]
    difference = (scores["bf16"] - scores["fp32"]).abs()
    assert 0 < difference.max() < 0.01


def test_scores_of_two_precisions_are_not_mixed(swin, tiny_dataset, tmp_path, capsys):
    images = sorted(map(str, tiny_dataset.rglob("*.jpg")))
    words = [f"--checkpoint={swin}", f"--csv={tmp_path}/s.csv", "--num_workers=0", "--device=cpu"]
    assert predict.main([*words, images[0], BF16]) == 0
    before = (tmp_path / "s.csv").read_bytes()
    assert predict.main([*words, *images[:2], FP32, "--resume"]) == EXIT_UNUSABLE_INPUT
    assert "precision bf16" in capsys.readouterr().err
    assert predict.main([*words, *images[:2], BF16, "--resume"]) == 0
    assert (tmp_path / "s.csv").read_bytes().startswith(before)


def test_a_trunk_without_a_measurement_and_an_onnx_file_are_refused(trained, tiny_dataset, tmp_path, capsys):
    image = str(next(tiny_dataset.rglob("*.jpg")))
    with pytest.raises(SystemExit):
        predict.main([f"--checkpoint={trained.best}", image, BF16])
    assert "timm:test_resnet has not been measured" in capsys.readouterr().err
    assert predict.main([f"--onnx={tmp_path}/x.onnx", image, BF16]) == EXIT_UNUSABLE_INPUT
    assert "fixed when it is exported" in capsys.readouterr().err


def test_training_itself_stays_in_float32_unless_asked():
    options = train_parser().parse_args([BF16])
    assert (options.amp, options.precision) == ("off", "bf16")
