"""The scoring loop: a score is a function of the pixels, whatever surrounds them."""

import shutil

import numpy as np
import pytest
import torch

from data.views import ViewSpec
from models import build_model
from utils.inference import score_photographs

SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=2, salient_patch_dimension=64)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return build_model("UIQA", backbone="timm:test_resnet", view_sizes=SPEC.view_sizes)


@pytest.fixture
def paths(tiny_dataset) -> list[str]:
    return [str(path) for path in sorted((tiny_dataset / "training").iterdir())]


def test_the_batch_size_does_not_matter(model, paths):
    alone = score_photographs(model, paths, SPEC, CPU, batch_size=1).scores
    for batch_size in (3, 8, 100):
        together = score_photographs(model, paths, SPEC, CPU, batch_size=batch_size).scores
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_workers_and_repetition_do_not_matter_at_all(model, paths):
    scores = score_photographs(model, paths, SPEC, CPU, num_workers=0).scores
    for workers in (0, 2):
        np.testing.assert_array_equal(score_photographs(model, paths, SPEC, CPU, num_workers=workers).scores, scores)


def test_order_folder_and_name_do_not_matter_at_all(model, paths, tmp_path):
    scores = score_photographs(model, paths, SPEC, CPU, batch_size=1).scores
    renamed = [shutil.copy(path, tmp_path / f"x{number}.jpeg") for number, path in enumerate(paths)]
    np.testing.assert_array_equal(score_photographs(model, renamed[::-1], SPEC, CPU, batch_size=1).scores[::-1], scores)


def test_another_draw_of_the_fragments_gives_other_scores(model, paths):
    first, second = (score_photographs(model, paths, SPEC, CPU, draw=draw).scores for draw in (0, 1))
    assert (first != second).all()


def test_photographs_that_cannot_be_used_are_recorded_and_the_rest_scored(model, paths, tmp_path):
    (tmp_path / "text.jpg").write_text("no photograph")
    mixed = [str(tmp_path / "text.jpg"), *paths[:2], str(tmp_path / "missing.jpg"), paths[2]]
    result = score_photographs(model, mixed, SPEC, CPU, batch_size=2)
    assert [index for index, _ in result.failures] == [0, 3]
    assert ["text.jpg" in result.failures[0][1], "missing.jpg" in result.failures[1][1]] == [True, True]
    expected = score_photographs(model, paths[:3], SPEC, CPU, batch_size=2).scores
    np.testing.assert_allclose(result.scores[[1, 2, 4]], expected, atol=1e-5)
    assert np.isnan(result.scores[[0, 3]]).all()


def test_nothing_but_failures_is_a_result_too(model, tmp_path):
    result = score_photographs(model, [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")], SPEC, CPU)
    assert np.isnan(result.scores).all()
    assert len(result.failures) == 2


def test_no_photographs_are_no_scores(model):
    assert len(score_photographs(model, [], SPEC, CPU, num_workers=2).scores) == 0
