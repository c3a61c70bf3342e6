"""Ways of reading a photograph, counted at its resolution."""

import argparse

import pytest
import torch

from models.backbones import published_swin
from utils.costs.counting import OPERATOR_COUNTERS, count
from utils.costs.resolutions import (
    CROP_SIDE,
    CROPS,
    RESOLUTIONS,
    Resolution,
    other_methods,
    resolution,
    resolution_rows,
)

OWN = {"params_m": 1.5, "gmacs": dict.fromkeys(OPERATOR_COUNTERS, 7.0)}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return resolution_rows("ours", [OWN, OWN], [resolution("540p"), resolution("224x224")])


def gmacs(rows: list[dict], method: str, place: str) -> float:
    return next(
        row["gmacs_torch_counter"] for row in rows if row["method"].startswith(method) and row["resolution"] == place
    )


def test_words_mean_sizes():
    assert resolution("uhd") == Resolution("UHD", 3840, 2160)
    assert resolution("6000X4000") == Resolution("6000x4000", 6000, 4000)
    assert {name: resolution(name) for name in RESOLUTIONS} == {
        name: Resolution(name, *size) for name, size in RESOLUTIONS.items()
    }


@pytest.mark.parametrize("text", ["4K", "x", "3840", "3840x", "-1x500", "1e3x500", "500x100", "99999999x500", "3x4x5"])
def test_other_words_are_errors_that_name_the_remedy(text):
    with pytest.raises(argparse.ArgumentTypeError, match="pixels"):
        resolution(text)


def test_every_method_stands_at_every_resolution(rows):
    assert len(rows) == 4 * 2
    assert {row["method"] for row in rows} == {"ours", *other_methods()}
    assert [row["width"] for row in rows if row["method"] == "ours"] == [960, 224]


def test_what_reads_views_or_crops_of_fixed_size_costs_the_same_anywhere(rows):
    assert gmacs(rows, "ours", "540P") == gmacs(rows, "ours", "224x224") == 7
    crops = f"ResNet-50, {CROPS} crops"
    assert gmacs(rows, crops, "540P") == gmacs(rows, crops, "224x224")
    alone = gmacs(rows, "ResNet-50, full", f"{CROP_SIDE}x{CROP_SIDE}")
    assert gmacs(rows, crops, "540P") == pytest.approx(CROPS * alone)


def test_what_reads_all_pixels_costs_in_proportion_to_them(rows):
    ratio = 960 * 540 / 224**2
    for method in ("Swin-T, full", "ResNet-50, full"):
        assert gmacs(rows, method, "540P") / gmacs(rows, method, "224x224") == pytest.approx(
            ratio, rel=0.15
        )  # windows are padded


def test_a_full_resolution_count_is_that_of_a_real_pass(rows):
    real = count(published_swin("swin_t").eval(), (torch.zeros(1, 3, 224, 224),), OPERATOR_COUNTERS)
    at = next(row for row in rows if row["method"].startswith("Swin-T") and row["resolution"] == "224x224")
    assert {counter: at[f"gmacs_{counter}"] for counter in OPERATOR_COUNTERS} == pytest.approx(real, rel=1e-9)
