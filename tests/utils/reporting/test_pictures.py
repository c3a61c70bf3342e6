"""The pictures of predict.py: one name for each, and none that costs a score."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.views import ViewSpec
from utils.errors import RunError
from utils.inference import ScoredBatch
from utils.progress import PRINTED_FAILURES, Failures
from utils.reporting import pictures
from utils.reporting.folder_page import FolderReport
from utils.reporting.pictures import Drawings, draw_pictures, plan_pictures


def batch_of(count: int) -> ScoredBatch:
    outputs = {"score": np.zeros(count), "map_salient": np.zeros((count, 2, 2))}
    images = [np.zeros((8, 8, 3), np.uint8)] * count
    return ScoredBatch(np.arange(count), outputs, [], {"salient": torch.zeros(count)}, images, 0.5)


def test_photographs_with_the_same_stem_are_numbered_without_meeting_another_name(tmp_path):
    paths = ["1/a.jpg", "a_2.jpg", "2/a.jpg", "3/a.png", "2/a_2.jpg"]
    planned = plan_pictures(paths, {"views": str(tmp_path / "new"), "map": None})
    names = [planned[path]["views"].name for path in paths]
    assert names == ["a_views.png", "a_2_views.png", "a_3_views.png", "a_4_views.png", "a_2_2_views.png"]
    assert planned["1/a.jpg"].keys() == {"views"}
    assert (tmp_path / "new").is_dir()


def test_the_same_stem_in_many_folders_is_numbered_without_trying_every_number(monkeypatch):
    compared = []

    class Stems(set):
        def __contains__(self, name: str) -> bool:
            compared.append(name)
            return super().__contains__(name)

    monkeypatch.setattr(pictures, "set", Stems, raising=False)
    stems = pictures._numbered_stems([f"{number}/IMG_0001.jpg" for number in range(500)])
    assert len(set(stems)) == 500
    assert len(compared) < 3 * 500


def test_without_a_folder_nothing_is_planned():
    assert plan_pictures(["a.jpg"], {"views": None, "map": None}) == {}


def test_a_picture_never_overwrites_a_photograph(tmp_path):
    (tmp_path / "a_map.png").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "a_map.png")
    (tmp_path / "itself.jpg").symlink_to("itself.jpg")
    assert plan_pictures([str(tmp_path / "itself.jpg")], {"map": str(tmp_path)}), "scoring reports the link"
    with pytest.raises(RunError, match="choose another folder"):
        plan_pictures([str(tmp_path / "a.jpg"), str(tmp_path / "link.png")], {"map": str(tmp_path)})


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("a fault"), MemoryError()])
def test_a_picture_that_fails_is_reported_and_the_scores_pass_on(monkeypatch, capsys, error):
    def draw(batch, row, name, *_):
        if row != 1:
            raise error

    monkeypatch.setattr(pictures, "draw_photograph", draw)
    paths, unwritten = [f"{number}\n.jpg" for number in range(30)], Failures()
    planned = {path: {"map": Path(f"{path}_map.png")} for path in paths}
    (batch,) = draw_pictures([batch_of(30)], paths, planned, None, 1, unwritten)
    assert unwritten.count == 29
    assert batch.index.tolist() == list(range(30))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == PRINTED_FAILURES
    assert lines[1].startswith(r"failed: 2\n.jpg: its picture cannot be written")


def test_what_was_drawn_is_not_kept(monkeypatch):
    monkeypatch.setattr(pictures, "draw_photograph", lambda *_: None)
    (batch,) = draw_pictures([batch_of(2)], ["a", "b"], {"a": {}, "b": {}}, None, 1, Failures())
    assert list(batch.outputs) == ["score"]
    assert (batch.views, batch.images, batch.waited) == ({}, [], 0.5)


def test_an_interruption_is_not_taken_for_a_failed_picture(monkeypatch):
    def draw(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "draw_photograph", draw)
    with pytest.raises(KeyboardInterrupt):
        list(draw_pictures([batch_of(1)], ["a"], {"a": {}}, None, 1, Failures()))


def test_maps_and_whole_photographs_are_kept_only_for_what_is_drawn(tmp_path):
    report = FolderReport(tmp_path / "page.html", 1)
    views, patches = ViewSpec(), ViewSpec(views=("patches",))
    kinds = {kind: {"a.jpg": {kind: tmp_path / f"a_{kind}.png"}} for kind in ("views", "map")}
    cases = [
        (Drawings({}, None), False, False, False),
        (Drawings(kinds["views"], None), False, True, False),
        (Drawings(kinds["map"], None), True, True, False),
        (Drawings({}, report), True, False, True),
    ]
    for drawings, maps, keep_image, is_reduced in cases:
        assert drawings.need_maps(views) is maps
        photographs = drawings.photographs(["a.jpg"], views, 1)
        assert photographs.keep_image is keep_image
        assert (photographs.reduce is not None) is is_reduced
    assert not Drawings({}, report).need_maps(patches)
