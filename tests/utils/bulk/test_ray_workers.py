"""What runs on Ray's workers, called without Ray: the same views, the same scores."""

import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_checkpoint import SPEC

from data.datasets import PhotographDataset
from utils.bulk.ray_workers import CutPhotographs, Scorer, cut_photographs
from utils.checkpoint import load_model
from utils.inference import score_photographs
from utils.predictions import predictions_table


@pytest.fixture
def paths(tmp_path, photograph) -> list[str]:
    """Two photographs with an unusable file between them."""
    Image.fromarray(photograph).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_text("no photograph")
    Image.fromarray(photograph[:, ::-1]).save(tmp_path / "c.png")
    return [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.png")]


def batch_of(paths: list[str]) -> dict[str, np.ndarray]:
    return {"index": np.arange(7, 7 + len(paths)), "image": np.array(paths, object)}


@pytest.mark.parametrize("draws", [1, 3])
def test_views_pass_through_ray_bit_for_bit(trained, paths, draws):
    spec = load_model(trained.best).view_spec
    cut = cut_photographs(batch_of(paths), spec, draws)
    assert cut["index"].tolist() == [7, 8, 9]
    received = CutPhotographs(cut, spec.views, draws)
    direct = PhotographDataset(paths, spec, draws=draws)
    assert len(received) == len(direct)
    for row in range(len(direct)):
        sample, expected = received[row], direct[row]
        assert sample.keys() == expected.keys()
        assert sample.get("error") == expected.get("error")
        for name in set(spec.views) & sample.keys():
            assert torch.equal(sample[name], expected[name])
            assert sample[name].stride() == expected[name].stride()


@pytest.mark.parametrize("draws", [1, 3])
def test_an_actor_scores_as_the_scoring_loop_does(trained, paths, draws, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda reference: reference))
    loaded = load_model(trained.best)
    actor = Scorer([loaded], "cpu", draws, compile=False, precision="fp32")
    rows = actor(cut_photographs(batch_of(paths), loaded.view_spec, draws))
    photographs = PhotographDataset(paths, loaded.view_spec, draws=draws)
    direct = score_photographs(loaded.model, photographs, torch.device("cpu"))
    expected = predictions_table(direct, loaded.calibration)
    assert list(rows) == ["index", "error", *expected]
    assert rows["index"].tolist() == [7, 8, 9]
    assert rows["error"].tolist() == ["", direct.failures[0][1], ""]
    for name in expected:
        np.testing.assert_allclose(rows[name], expected[name], atol=1e-6)


def test_names_that_are_no_utf8_reach_the_file_and_come_back_as_text(tmp_path, photograph):
    name, broken = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"), os.path.join(os.fsencode(tmp_path), b"\xff.png")
    Image.fromarray(photograph).save(os.fsdecode(name))
    cut = cut_photographs(batch_of([name, broken]), SPEC, 1)
    assert cut["image"].tolist() == [f"{tmp_path}/caf\\udce9.png", f"{tmp_path}/\\udcff.png"]
    assert cut["error"][0] == ""
    assert cut["error"][1].startswith(f"{tmp_path}/\\udcff.png: ")


def test_a_batch_of_only_broken_files_has_the_same_columns_as_any_other(trained, paths, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda reference: reference))
    loaded = load_model(trained.best)
    actor = Scorer([loaded], "cpu", 1, compile=False, precision="fp32")
    broken, whole = (actor(cut_photographs(batch_of(some), loaded.view_spec, 1)) for some in (paths[1:2], paths[:1]))
    assert {name: values.dtype for name, values in broken.items()} == {
        name: values.dtype for name, values in whole.items()
    }
    assert np.isnan(broken["score"]).all()
