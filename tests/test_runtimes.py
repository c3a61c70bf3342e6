"""docs/runtimes.py: the exported model scores twelve photographs alike in Python, Node and Chromium."""

import pytest
from docs_scripts import load_script

from utils.checkpoint import load_model
from utils.export.onnx_graph import CHECKED_SIZES

TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def runtimes():
    return load_script("runtimes")


def test_the_table_has_medians_and_the_largest_difference(runtimes):
    def rounds(score: float, *seconds: float) -> list[list[dict]]:
        return [[{"name": "30x20.rgb", "score": score, "quality": 0.5, "seconds": value}] for value in seconds]

    table = runtimes.table_of({"PyTorch": rounds(0.7, 0.01, 0.03, 0.02), "Node": rounds(0.701, 0.04, 0.04, 0.5)})
    assert table.splitlines()[2:] == [
        "| 30 x 20 | 0.500 | 20 | 40 |",
        "| largest difference of score or quality | | | 0.001 |",
    ]


def test_photographs_are_cut_out_of_one_scene(runtimes, tmp_path):
    written = runtimes.write_photographs(tmp_path, ((40, 60), (50, 30)))
    assert {name: photograph.shape for name, photograph in written.items()} == {
        "60x40.rgb": (40, 60, 3),
        "30x50.rgb": (50, 30, 3),
    }
    assert (tmp_path / "60x40.rgb").read_bytes() == written["60x40.rgb"].tobytes()


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_three_runtimes_score_twelve_photographs_as_pytorch_does(runtimes, browser, javascript):
    results = runtimes.compare(browser, javascript, load_model(), CHECKED_SIZES, 1)
    assert len(results["PyTorch"][0]) == 12
    for name in ("Python", "Node", "Chromium"):
        assert runtimes.largest_difference(results[name], results["PyTorch"]) < TOLERANCE
