"""The scoring loop: a score is a function of the pixels, whatever surrounds them."""

import shutil

import numpy as np
import pytest
import torch

from data.datasets import PhotographDataset
from data.views import ViewSpec
from models import build_model
from utils.inference import Scores, score_photographs

SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=2, salient_patch_dimension=64)
CPU = torch.device("cpu")


def score(model: torch.nn.Module, paths: list[str], draw: int = 0, **options) -> Scores:
    return score_photographs(model, PhotographDataset(paths, SPEC, draw=draw), CPU, **options)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return build_model("UIQA", backbone="timm:test_resnet", view_sizes=SPEC.view_sizes)


@pytest.fixture(scope="module")
def paths(tiny_dataset) -> list[str]:
    return [str(path) for path in sorted((tiny_dataset / "training").iterdir())[:9]]


@pytest.fixture(scope="module")
def alone(model, paths) -> np.ndarray:
    return score(model, paths, batch_size=1).scores


@pytest.mark.parametrize("batch_size", [3, 8, 100])
def test_the_batch_size_does_not_matter(batch_size, model, paths, alone):
    together = score(model, paths, batch_size=batch_size).scores
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_workers_and_repetition_do_not_matter_at_all(model, paths):
    scores = score(model, paths, num_workers=0).scores
    for workers in (0, 2):
        np.testing.assert_array_equal(score(model, paths, num_workers=workers).scores, scores)


def test_order_folder_and_name_do_not_matter_at_all(model, paths, alone, tmp_path):
    turned = score(model, paths[::-1], batch_size=1).scores
    np.testing.assert_array_equal(turned[::-1], alone)
    renamed = [shutil.copy(path, tmp_path / f"x{number}.jpeg") for number, path in enumerate(paths)]
    np.testing.assert_array_equal(score(model, renamed, batch_size=1).scores, alone)


def test_another_draw_of_the_fragments_gives_other_scores(model, paths):
    first, second = (score(model, paths, draw=draw).scores for draw in (0, 1))
    assert (first != second).all()


def test_photographs_that_cannot_be_used_are_recorded_and_the_rest_scored(model, paths, alone, tmp_path):
    (tmp_path / "text.jpg").write_text("no photograph")
    mixed = [str(tmp_path / "text.jpg"), *paths[:2], str(tmp_path / "missing.jpg"), paths[2]]
    result = score(model, mixed, batch_size=2)
    assert [index for index, _ in result.failures] == [0, 3]
    assert ["text.jpg" in result.failures[0][1], "missing.jpg" in result.failures[1][1]] == [True, True]
    np.testing.assert_allclose(result.scores[[1, 2, 4]], alone[:3], atol=1e-5)
    assert np.isnan(result.scores[[0, 3]]).all()


def test_nothing_but_failures_is_a_result_too(model, tmp_path):
    missing = [str(tmp_path / f"{number}.jpg") for number in range(3)]
    result = score(model, missing, batch_size=2)
    assert np.isnan(result.scores).all()
    assert [index for index, _ in result.failures] == [0, 1, 2]


def test_a_batch_of_nothing_but_failures_leaves_the_other_batches_alone(model, paths, tmp_path):
    missing = [str(tmp_path / f"{number}.jpg") for number in range(2)]
    result = score(model, [*missing, *paths[:2]], batch_size=2)
    expected = score(model, paths[:2], batch_size=2).scores
    np.testing.assert_array_equal(result.scores[2:], expected)
    assert np.isnan(result.scores[:2]).all()


def test_a_model_left_in_training_mode_scores_as_in_evaluation_mode_and_does_not_learn(model, paths):
    scores = score(model.eval(), paths[:4]).scores
    before = {name: value.clone() for name, value in model.state_dict().items()}
    np.testing.assert_array_equal(score(model.train(), paths[:4]).scores, scores)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_photographs_are_no_scores(model):
    assert len(score(model, [], num_workers=2).scores) == 0


def test_speed_and_waiting_are_told(model, paths):
    tally = score(model, paths, batch_size=4).tally
    assert (tally.steps, tally.images) == (3, 9)
    assert tally.images_per_s > 0
    assert 0 < tally.data_wait <= 1
    assert tally.words() == tally.words(), "the clock has stopped"
