"""The figure of costs: a curve a method, and the counter named."""

import itertools

import pytest
from PIL import Image

from utils.costs.counting import OPERATOR_COUNTERS
from utils.costs.figures import STYLES, draw_costs

METHODS = ("one", "two", "three", "four")
PLACES = {"540P": (960, 540), "UHD": (3840, 2160), "6000x4000": (6000, 4000)}


def rows(*places: str) -> list[dict]:
    return [
        {
            "method": method,
            "resolution": name,
            "width": PLACES[name][0],
            "height": PLACES[name][1],
            "gmacs_ptflops_aten": 10.0 ** METHODS.index(method),
            "gmacs_torch_counter": 2.0,
        }
        for method, name in itertools.product(METHODS, places)
    ]


@pytest.mark.parametrize("places", [("540P",), ("UHD", "540P", "6000x4000")])
def test_any_sizes_give_a_picture_of_every_format(places, tmp_path):
    paths = [tmp_path / "costs.svg", tmp_path / "costs.png"]
    draw_costs(rows(*places), "torch_counter", paths)
    with Image.open(paths[1]) as picture:
        assert picture.width > 1000
    assert paths[0].read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.parametrize("methods", [1, 4])
def test_every_method_has_a_colour_of_its_own(methods, tmp_path):
    draw_costs(rows("540P", "UHD")[: 2 * methods], "ptflops_aten", [tmp_path / "costs.png"])
    with Image.open(tmp_path / "costs.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(maxcolors=2**24)}
    drawn = [tuple(bytes.fromhex(colour[1:])) in colours for colour, _ in STYLES]
    assert drawn == [index < methods for index in range(len(STYLES))]


def test_the_counter_is_named(tmp_path):
    pictures = set()
    for counter in OPERATOR_COUNTERS:
        level = [row | {f"gmacs_{counter}": 5.0} for row in rows("540P")]
        draw_costs(level, counter, [tmp_path / "costs.png"])
        pictures.add((tmp_path / "costs.png").read_bytes())
    assert len(pictures) == len(OPERATOR_COUNTERS)  # all numbers drawn are the same, so only the words differ
