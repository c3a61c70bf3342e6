"""From photographs to a trained model and its measures, through the command line alone."""

import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import predict
import test as test_entry
import train
from data.synthetic import make_synthetic_dataset
from models import build_model
from utils.benchmarks.plain import PlainUIQA, normalise, plain_views
from utils.checkpoint import load_model

ROOT = Path(__file__).parent.parent

PUBLISHED_COMMAND = """
train.py --num_epochs 1 --batch_size 12 --n_fragment 15 --resize 512 --crop_size 480
  --salient_patch_dimension 480 --lr 0.00001 --lr_weight_L2 0.1 --lr_weight_pair 1 --decay_ratio 0.9 --decay_interval 10
  --random_seed 1000 --snapshot ckpts --pretrained_path ckpts/Model_SwinT_AVA_size_480_epoch_10.pth
  --database_dir UHDIQA/challenge/training/ --model UIQA --print_samples 20 --database UHD_IQA
"""


def test_train_test_and_predict_agree_on_every_photograph(tiny_dataset, tiny_model_options, tmp_path, capsys):
    places = [f"--snapshot={tmp_path}/ckpts", f"--logdir={tmp_path}/logs", "--run=whole"]
    common = ["--num_workers=0", "--device=cpu"]
    assert train.main([*tiny_model_options, *places, *common, f"--database_dir={tiny_dataset}", "--num_epochs=1"]) == 0
    checkpoint = ["--checkpoint", f"{tmp_path}/ckpts/whole/best.pth"]
    assert test_entry.main([*checkpoint, f"--logdir={tmp_path}/logs", *common]) == 0
    assert predict.main([*checkpoint, *common, str(tiny_dataset / "test"), "--csv", f"{tmp_path}/scores.csv"]) == 0

    evaluated = pd.read_csv(tmp_path / "logs/whole/predictions_test.csv")
    loose = pd.read_csv(tmp_path / "scores.csv")
    loose["image"] = [Path(path).name for path in loose["image"]]
    both = evaluated.merge(loose, on="image", suffixes=("", "_loose"))
    assert len(both) == len(evaluated) == 6
    np.testing.assert_allclose(both["score"], both["score_loose"], atol=1e-5)
    np.testing.assert_allclose(both["quality"], both["quality_loose"], atol=1e-4)


@pytest.mark.parametrize("entry_point", sorted({path.stem for path in ROOT.glob("*.py")} - {"hubconf", "setup"}))
def test_every_entry_point_explains_itself(entry_point, capsys):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(entry_point).main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {entry_point}.py")


def test_a_typing_error_is_named_and_ends_with_argparses_code(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "--learning_rate", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 2
    assert "--learning_rate" in result.stderr


@pytest.fixture
def published_layout(tmp_path) -> Path:
    """UHD photographs as the challenge released them, with a training-only label file and an AVA checkpoint made up."""
    made = tmp_path / "made"
    make_synthetic_dataset(made, scenes=3, seed=1, workers=2)
    labels = pd.read_csv(made / "uhd-iqa-metadata.csv")
    labels = labels[labels["set"] == "training"]
    images = tmp_path / "UHDIQA/challenge/training"
    shutil.copytree(made / "training", images)
    labels.drop(columns=["subset", "degradation", "amount"]).to_csv(
        images.parent / "uhd-iqa-training-metadata.csv", index=False
    )
    (tmp_path / "ckpts").mkdir()
    torch.manual_seed(0)
    torch.save(build_model("SwinT").state_dict(), tmp_path / "ckpts/Model_SwinT_AVA_size_480_epoch_10.pth")
    return tmp_path


@pytest.mark.slow
@pytest.mark.paper
def test_the_published_command_trains_with_multi_gpu_true_false_and_absent(published_layout):
    for run, more in {"true": "--multi_gpu True", "false": "--multi_gpu False", "absent": ""}.items():
        command = [sys.executable, "-u", str(ROOT / PUBLISHED_COMMAND.split()[0])]
        command += shlex.split(PUBLISHED_COMMAND)[1:] + shlex.split(more) + ["--run", run]
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=published_layout)
        assert result.returncode == 0, result.stderr
        loaded = load_model(published_layout / f"ckpts/{run}/best.pth")
        assert loaded.view_spec.view_sizes == {"aesthetic": 480, "distortion": 480, "salient": 480}
        assert "4 train, 2 val" in result.stdout


@pytest.mark.slow
@pytest.mark.paper
def test_released_weights_and_calibration_are_evaluated_on_the_official_test_split(tmp_path):
    data = tmp_path / "UHDIQA"
    make_synthetic_dataset(data, scenes=3, seed=2, workers=2, height=600, width=900)
    torch.manual_seed(0)
    torch.save(PlainUIQA().state_dict(), tmp_path / "UIQA.pth")
    np.save(tmp_path / "UIQA.npy", np.array([0.9, 0.2, 0.0, 0.1]))
    command = ["--checkpoint", f"{tmp_path}/UIQA.pth", f"--database_dir={data}/training", f"--logdir={tmp_path}/logs"]
    assert test_entry.main(command) == 0
    report = json.loads((tmp_path / "logs/UIQA/test_test.json").read_text())
    assert report["n"] == 6
    assert report["val_fitted"]["mapping"] == "fitted on UIQA.npy (as released)"


@pytest.mark.slow
@pytest.mark.paper
def test_a_real_photograph_scores_as_the_plain_way_has_it(uhd_iqa_dir, tmp_path):
    """With UHD_IQA_DIR: every JPEG under it, from the file to the score of the paper's model."""
    torch.manual_seed(0)
    reference = PlainUIQA().eval()
    torch.save(reference.state_dict(), tmp_path / "UIQA.pth")
    photographs = sorted(uhd_iqa_dir.rglob("*.jpg"))[:4]
    assert photographs
    code = predict.main(
        ["--checkpoint", f"{tmp_path}/UIQA.pth", "--csv", f"{tmp_path}/s.csv", *map(os.fspath, photographs)]
    )
    assert code == 0
    scores = pd.read_csv(tmp_path / "s.csv").set_index("image")["score"]
    spec = load_model(tmp_path / "UIQA.pth").view_spec
    for path in photographs:
        views = plain_views(path, spec.evaluation_fractions())
        with torch.inference_mode():
            plain = reference(*(normalise(view)[None] for view in views.values())).item()
        # Resizing may differ by one grey level in 255 here and there; everything else is equal.
        assert scores[str(path)] == pytest.approx(plain, abs=1e-3)
