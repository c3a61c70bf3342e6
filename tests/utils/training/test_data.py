"""What a training reads: its own two splits, on the scale that the loss sees, with a teacher's scores in order."""

import numpy as np
import pandas as pd
import pytest
import torch

from data.datasets import PhotographDataset
from data.decode import ImageError
from data.packed import PackError
from utils.command_line import parse_options
from utils.errors import RunError
from utils.options import view_spec
from utils.training import data
from utils.training.data import (
    TrainingData,
    check_scale_of_teacher,
    handle_bad_images,
    load_training_data,
    teacher_scores,
    unusable_images,
)
from utils.training.options import train_parser


def load(*words: str) -> TrainingData:
    options = parse_options(train_parser(), list(words))
    return load_training_data(options, view_spec(options))


def test_the_test_split_is_not_read(tiny_dataset):
    data = load(f"--database_dir={tiny_dataset}")
    assert (len(data.training), len(data.validation), len(data.validation_mos)) == (12, 6, 6)
    assert not any("/test/" in path for path in [*data.training.paths, *data.validation.paths])


def test_standardised_opinions_have_mean_zero_and_sd_one(tiny_dataset):
    plain, standardised = (load(f"--database_dir={tiny_dataset}", f"--mos_scale={s}") for s in ("none", "standardise"))
    assert plain.mos_scale == {"mean": 0.0, "sd": 1.0}
    assert plain.training[0, 0][0]["mos"] == pytest.approx(plain.training.mos[0])
    opinions = [standardised.training[0, index][0]["mos"] for index in range(12)]
    assert np.mean(opinions) == pytest.approx(0, abs=1e-6)
    assert np.std(opinions) == pytest.approx(1)
    assert plain.fingerprint == standardised.fingerprint


def test_all_patches_are_validated_on_some(tiny_dataset):
    words = ["--model=Patches", "--patch_dimension=64", "--validation_patches=2"]
    data = load(f"--database_dir={tiny_dataset}", *words)
    assert data.validation[0]["patches"].shape == (2, 3, 64, 64)
    assert not data.validation.is_ragged


def test_a_pack_that_is_not_there_is_refused(tiny_dataset, tmp_path):
    with pytest.raises(PackError, match="is not there"):
        load(f"--database_dir={tiny_dataset}", f"--packed={tmp_path}/pack")


def test_a_teachers_scores_are_those_of_the_images_in_their_order(tmp_path):
    scores = pd.DataFrame({"image": ["a", "b", "c"], "mos": 0.5, "score": [0.1, 0.2, 0.3]})
    scores.to_csv(tmp_path / "teacher.csv", index=False)
    np.testing.assert_array_equal(teacher_scores(f"{tmp_path}/teacher.csv", pd.Series(["c", "a"])), [0.3, 0.1])
    with pytest.raises(RunError, match="lacks the scores of 1 of 2 training images, for example d"):
        teacher_scores(f"{tmp_path}/teacher.csv", pd.Series(["a", "d"]))


def test_a_teacher_on_another_scale_is_refused():
    mos = np.array([2.0, 3.0, 4.0, 0.2, 0.5, 0.8])
    table = pd.DataFrame({"mos": mos, "teacher": mos + 0.1, "source": ["five"] * 3 + ["one"] * 3})
    check_scale_of_teacher(table, "teacher.csv", "source")
    check_scale_of_teacher(table, "teacher.csv")
    table.loc[:2, "teacher"] = [0.2, 0.4, 0.6]
    with pytest.raises(RunError, match=r"the scores of five are on another scale.*0\.4 and 3"):
        check_scale_of_teacher(table, "teacher.csv", "source")
    with pytest.raises(RunError, match="the scores are on another scale"):
        check_scale_of_teacher(table[:3], "teacher.csv")


def test_a_label_column_called_teacher_is_not_a_target(tiny_dataset, tmp_path):
    labels = pd.read_csv(tiny_dataset / "uhd-iqa-metadata.csv").assign(teacher="someone")
    labels.to_csv(tmp_path / "labels.csv", index=False)
    data = load(f"--database_dir={tiny_dataset}", f"--metadata={tmp_path}/labels.csv")
    assert data.training.target_names == ("mos",)


@pytest.mark.parametrize("workers", [0, 2])
def test_unusable_photographs_are_found_without_a_model(tiny_dataset, tmp_path, workers):
    paths = sorted((tiny_dataset / "validation").iterdir())
    paths[3] = tmp_path / "broken.jpg"
    paths[3].write_bytes(b"no photograph")
    photographs = PhotographDataset(paths, view_spec(train_parser().parse_args([])))
    ((index, message),) = unusable_images(photographs, torch.device("cpu"), workers, batch_size=2)
    assert index == 3
    assert "broken.jpg" in message


def test_each_rank_checks_its_own_photographs(tiny_dataset, monkeypatch):
    read = []
    monkeypatch.setattr(data, "world_size", lambda: 3)
    monkeypatch.setattr(data, "rank", lambda: 1)
    photographs = PhotographDataset(range(8), view_spec(train_parser().parse_args([])))
    monkeypatch.setattr(PhotographDataset, "__getitem__", lambda _, i: read.append(i) or {"index": i, "error": "none"})
    assert [index for index, _ in unusable_images(photographs, torch.device("cpu"), 0)] == [1, 4, 7] == read


def test_bad_images_stop_the_run_or_are_recorded(capsys):
    errors, skipped = [(1, "b: broken"), (0, "a: broken")], {"a": "before"}
    with pytest.raises(ImageError, match=r"b: broken, a: broken \(.*--on_bad_image skip"):
        handle_bad_images(errors, skipped, ["a", "b"], "stop")
    assert skipped == {"a": "before"}
    handle_bad_images(errors, skipped, ["a", "b"], "skip")
    assert skipped == {"a": "a: broken", "b": "b: broken"}
    assert capsys.readouterr().err == "warning: skipped: b: broken\n", "each is reported once"
