"""Batches one by one: the same scores as all at once, in the order of the photographs, from however many ranks."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_checkpoint import SPEC, tiny_model

from data.datasets import PhotographDataset
from utils import batches, inference
from utils.batches import gather_batches, scores_of_batch
from utils.inference import score_batches, score_photographs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[str]:
    folder, generator = tmp_path_factory.mktemp("photographs"), np.random.default_rng(2)
    for number in range(9):
        Image.fromarray(generator.integers(0, 256, (80, 100, 3), np.uint8)).save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(9)]


def test_a_batch_becomes_scores_in_the_order_of_the_photographs(model, paths, tmp_path):
    (tmp_path / "text.jpg").write_text("no photograph")
    mixed = [*paths[:3], str(tmp_path / "text.jpg"), paths[3], str(tmp_path / "missing.jpg")]
    photographs = PhotographDataset(mixed, SPEC)
    expected = score_photographs(model, photographs, CPU, batch_size=3)
    for number, batch in enumerate(score_batches(model, photographs, CPU, batch_size=3)):
        positions, scores = scores_of_batch(batch, 1, model.view_names)
        assert positions.tolist() == [3 * number, 3 * number + 1, 3 * number + 2]
        np.testing.assert_array_equal(scores.scores, expected.scores[positions])
        np.testing.assert_array_equal(scores.points["salient"], expected.points["salient"][positions])
        assert [(positions[row], message) for row, message in scores.failures] == [
            failure for failure in expected.failures if failure[0] in positions
        ]


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9])
def test_batches_of_several_ranks_are_gathered_in_the_order_of_the_photographs(model, paths, count, monkeypatch):
    photographs = PhotographDataset([*paths[: count - 1], "missing.jpg"], SPEC)
    alone = list(gather_batches(score_batches(model, photographs, CPU, batch_size=4), photographs, batch_size=4))
    for module in (batches, inference):
        monkeypatch.setattr(module, "world_size", lambda: 2)
    own = []
    for number in range(2):
        monkeypatch.setattr(inference, "rank", lambda number=number: number)
        own.append(list(score_batches(model, photographs, CPU, batch_size=2, maps=True)))
    step = iter(range(100))

    def all_gather(content: tuple) -> list:
        number = next(step)
        other = own[1][number] if number < len(own[1]) else None
        if other is None:
            return [content, (np.zeros(0, np.int64), {}, [])]
        outputs = {name: rows for name, rows in other.outputs.items() if not name.startswith("map_")}
        return [content, (other.index, outputs, other.failures)]

    monkeypatch.setattr(batches, "all_gather_objects", all_gather)
    gathered = list(gather_batches(iter(own[0]), photographs, batch_size=2))
    assert len(gathered) == len(alone)
    for batch, expected in zip(gathered, alone, strict=True):
        positions, scores = scores_of_batch(batch, 1, model.view_names)
        expected_positions, expected_scores = scores_of_batch(expected, 1, model.view_names)
        assert positions.tolist() == expected_positions.tolist()
        np.testing.assert_allclose(scores.scores, expected_scores.scores, atol=1e-5)
        assert scores.failures == expected_scores.failures
