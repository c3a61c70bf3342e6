"""The scoring loop: a score is a function of the pixels and of nothing else."""

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data.datasets import PhotographDataset
from data.decode import decode_rgb
from data.views import ViewSpec, make_views
from models import build_model
from utils.inference import Scores, collect_scores, score_batches, score_photographs

SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=2, salient_patch_dimension=64)
CPU = torch.device("cpu")


def score(model: torch.nn.Module, paths: list[str], draws: int = 1, seed: int = 0, **options) -> Scores:
    return score_photographs(model, PhotographDataset(paths, replace(SPEC, seed=seed), draws=draws), CPU, **options)


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
    batched = score(model, paths, batch_size=batch_size).scores
    np.testing.assert_allclose(batched, alone, atol=1e-5)


def test_workers_and_repetition_do_not_matter_at_all(model, paths):
    scores = score(model, paths, num_workers=0).scores
    for workers in (0, 2):
        np.testing.assert_array_equal(score(model, paths, num_workers=workers).scores, scores)


def test_order_folder_and_name_do_not_matter_at_all(model, paths, alone, tmp_path):
    turned = score(model, paths[::-1], batch_size=1).scores
    np.testing.assert_array_equal(turned[::-1], alone)
    renamed = [shutil.copy(path, tmp_path / f"x{number}.jpeg") for number, path in enumerate(paths)]
    np.testing.assert_array_equal(score(model, renamed, batch_size=1).scores, alone)


def test_another_seed_of_the_fragments_gives_other_scores(model, paths):
    first, second = (score(model, paths, seed=seed).scores for seed in (0, 1))
    assert (first != second).mean() > 0.8  # a patch with the same offset in every cell is rare but not impossible


def test_what_each_view_adds_sums_to_the_score(model, paths):
    result = score(model, paths, maps=True)
    assert list(result.points) == ["aesthetic", "distortion", "salient"]
    bias = model.effective_weights()[1].item()
    np.testing.assert_allclose(sum(result.points.values()) + bias, result.scores, atol=1e-5)
    for name, points in result.maps.items():
        assert points.shape[0] == len(paths)
        np.testing.assert_allclose(points.mean(axis=(1, 2)), result.points[name], atol=1e-5)


def test_maps_are_kept_only_on_request_and_change_nothing(model, paths):
    with_maps, without = score(model, paths, maps=True), score(model, paths)
    assert without.maps == {}
    np.testing.assert_array_equal(with_maps.scores, without.scores)


def test_a_score_over_draws_is_their_mean_and_comes_with_their_spread(model, paths):
    result = score(model, paths, draws=4)
    singly = []
    for draw in range(4):
        cut = []
        for path in paths:
            views = make_views(decode_rgb(path), SPEC, SPEC.evaluation_fractions(draw))
            cut.append(model(**{name: view[None] for name, view in views.items()}).item())
        singly.append(cut)
    np.testing.assert_allclose(result.scores, np.mean(singly, axis=0), atol=1e-5)
    np.testing.assert_allclose(result.draw_sd, np.std(singly, axis=0, ddof=1), atol=1e-5)
    assert (result.draw_sd > 0).all()


def test_one_draw_has_no_spread_and_is_draw_zero(model, paths, alone):
    result = score(model, paths, draws=1)
    assert np.isnan(result.draw_sd).all()
    np.testing.assert_allclose(result.scores, alone, atol=1e-5)


def test_scores_and_maps_pass_through_dataparallel(model, paths):
    wrapped, bare = score(torch.nn.DataParallel(model), paths, maps=True), score(model, paths, maps=True)
    np.testing.assert_array_equal(wrapped.scores, bare.scores)
    np.testing.assert_array_equal(wrapped.maps["salient"], bare.maps["salient"])


def test_photographs_that_cannot_be_used_are_recorded_and_the_rest_scored(model, paths, alone, tmp_path):
    (tmp_path / "text.jpg").write_text("no photograph")
    mixed = [str(tmp_path / "text.jpg"), *paths[:2], str(tmp_path / "missing.jpg"), paths[2]]
    result = score(model, mixed, batch_size=2)
    assert [index for index, _ in result.failures] == [0, 3]
    assert ["text.jpg" in result.failures[0][1], "missing.jpg" in result.failures[1][1]] == [True, True]
    np.testing.assert_allclose(result.scores[[1, 2, 4]], alone[:3], atol=1e-5)
    assert np.isnan(result.scores[[0, 3]]).all()


def test_only_failures_are_a_result_too(model, tmp_path):
    missing = [str(tmp_path / f"{number}.jpg") for number in range(3)]
    result = score(model, missing, batch_size=2)
    assert np.isnan(result.scores).all()
    assert [index for index, _ in result.failures] == [0, 1, 2]


def test_a_batch_of_only_failures_does_not_change_the_other_batches(model, paths, tmp_path):
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


def test_speed_and_waiting_are_measured(model, paths):
    tally = score(model, paths, batch_size=4).tally
    assert (tally.steps, tally.images) == (3, 9)
    assert tally.images_per_s > 0
    assert 0 < tally.data_wait <= 1
    assert tally.seconds == tally.seconds, "the clock has stopped"


def test_photographs_with_different_numbers_of_patches_are_scored_as_each_alone(tmp_path):
    spec = ViewSpec(views=("patches",), patch_dimension=32)
    torch.manual_seed(0)
    model = build_model("Patches", backbone="timm:test_resnet", view_sizes=spec.view_sizes).eval()
    generator = np.random.default_rng(0)
    paths = []
    for number, shape in enumerate([(64, 96), (130, 70), (32, 32)]):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(generator.integers(0, 256, (*shape, 3), np.uint8)).save(paths[-1])
    scores = score_photographs(model, PhotographDataset(paths, spec), CPU, batch_size=8).scores
    for path, score_ in zip(paths, scores, strict=True):
        views = make_views(decode_rgb(path), spec, spec.evaluation_fractions())
        with torch.inference_mode():
            assert score_ == pytest.approx(model(views["patches"][None]).item(), abs=1e-6)


def test_batches_come_in_order_with_what_was_scored(model, paths, alone, tmp_path):
    (tmp_path / "text.jpg").write_text("no photograph")
    mixed = [*paths[:2], str(tmp_path / "text.jpg"), *paths[2:5]]
    photographs = PhotographDataset(mixed, SPEC, keep_image=True)
    batches = list(score_batches(model, photographs, CPU, batch_size=2, num_workers=2, maps=True))
    assert [batch.index.tolist() for batch in batches] == [[0, 1], [3], [4, 5]]
    assert [[index for index, _ in batch.failures] for batch in batches] == [[], [2], []]
    for batch in batches:
        assert batch.waited >= 0
        for row, index in enumerate(batch.index):
            image = decode_rgb(mixed[index])
            np.testing.assert_array_equal(batch.images[row], image)
            for name, view in make_views(image, SPEC, SPEC.evaluation_fractions()).items():
                assert torch.equal(batch.views[name][row], view)
                points = batch.outputs[f"points_{name}"][row]
                np.testing.assert_allclose(batch.outputs[f"map_{name}"][row].mean(), points, atol=1e-5)
    scores = collect_scores(batches, photographs, model.view_names)
    np.testing.assert_allclose(np.delete(scores.scores, 2), alone[:5], atol=1e-5)
    assert scores.tally.images == 6


def test_a_batch_is_read_only_after_the_next_one_was_launched(model, paths, monkeypatch):
    events = []
    contributions = model.contributions
    monkeypatch.setattr(model, "contributions", lambda **views: events.append("launch") or contributions(**views))
    for _ in score_batches(model, PhotographDataset(paths[:3], SPEC), CPU, batch_size=1):
        events.append("read")
    assert events == ["launch", "launch", "read", "launch", "read", "read"]


def test_the_consumer_of_batches_may_train_meanwhile(model, paths):
    for _ in score_batches(model, PhotographDataset(paths[:2], SPEC), CPU, batch_size=1):
        assert not torch.is_inference_mode_enabled()


def test_what_a_photograph_was_reduced_to_goes_with_its_score(model, paths):
    dataset = PhotographDataset(["missing.jpg", *paths[:3]], SPEC, reduce=lambda image, views: image.mean())
    for workers in (0, 2):
        batches = list(score_batches(model, dataset, CPU, batch_size=2, num_workers=workers))
        reduced = {index: value for batch in batches for index, value in zip(batch.index, batch.reduced, strict=True)}
        assert reduced == {number + 1: decode_rgb(path).mean() for number, path in enumerate(paths[:3])}


def test_a_score_that_is_not_finite_is_a_failure_of_its_photograph(model, paths):
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.quality[1].bias.fill_(torch.nan)
    result = score_photographs(model, PhotographDataset(paths, SPEC), torch.device("cpu"), batch_size=2)
    assert np.isnan(result.scores).all()
    assert [index for index, _ in result.failures] == list(range(len(paths)))
    for path, (_, message) in zip(paths, result.failures, strict=True):
        assert message.startswith(str(path))
        assert "not a finite number" in message
    dataset = PhotographDataset(paths, SPEC, reduce=lambda image, views: image.mean())
    assert all(batch.reduced == [] for batch in score_batches(model, dataset, CPU, batch_size=2))
