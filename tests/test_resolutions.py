"""docs/resolutions.py: methods counted at several sizes of a photograph, the table and the plot."""

import argparse
import itertools

import pandas as pd
import pytest
import torch
from docs_scripts import load_script
from PIL import Image

from models.backbones import published_swin
from utils.costs.counting import OPERATOR_COUNTERS, count

SIZES = {"540P": (960, 540), "UHD": (3840, 2160), "6000x4000": (6000, 4000)}


resolutions = load_script("resolutions")
METHODS = ("one", "two", "three", "four")


@pytest.fixture(scope="module")
def counts() -> pd.DataFrame:
    """The other methods at two sizes."""
    return resolutions.count_methods(
        resolutions.other_methods(), [resolutions.photograph_size(text) for text in ("540p", "224x224")]
    )


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> pd.DataFrame:
    """The table that the script writes for the paper's model at its default sizes."""
    path = tmp_path_factory.mktemp("paper") / "costs.csv"
    assert resolutions.main([f"--csv={path}"]) == 0
    return pd.read_csv(path)


def gmacs(counts: pd.DataFrame, method: str, size: str, counter: str = "torch_counter") -> float:
    rows = counts[counts["method"].str.startswith(method) & (counts["resolution"] == size)]
    return rows[f"gmacs_{counter}"].item()


def plotted(*sizes: str) -> pd.DataFrame:
    """Return a table of four methods, each with other costs."""
    return pd.DataFrame(
        {
            "method": method,
            "resolution": size,
            "width": SIZES[size][0],
            "height": SIZES[size][1],
            "gmacs_ptflops_aten": 10.0 ** METHODS.index(method),
            "gmacs_torch_counter": 2.0,
        }
        for method, size in itertools.product(METHODS, sizes)
    )


def test_a_size_is_a_name_or_width_and_height():
    assert resolutions.photograph_size("uhd") == resolutions.Size("UHD", 3840, 2160)
    assert resolutions.photograph_size("6000X4000") == resolutions.Size("6000x4000", 6000, 4000)
    assert {name: resolutions.photograph_size(name) for name in resolutions.SIZES} == {
        name: resolutions.Size(name, *sides) for name, sides in resolutions.SIZES.items()
    }


@pytest.mark.parametrize("text", ["4K", "x", "3840", "3840x", "-1x500", "1e3x500", "500x100", "99999999x500", "3x4x5"])
def test_anything_else_is_an_error_that_names_the_remedy(text):
    with pytest.raises(argparse.ArgumentTypeError, match="pixels"):
        resolutions.photograph_size(text)


def test_every_method_is_counted_at_every_size(counts):
    assert len(counts) == 3 * 2
    assert set(counts["method"]) == set(resolutions.other_methods())
    assert list(counts["width"]) == [960, 224] * 3


def test_inputs_of_fixed_size_cost_the_same_at_any_size(counts):
    crops = f"ResNet-50, {resolutions.CROPS} crops"
    assert gmacs(counts, crops, "540P") == gmacs(counts, crops, "224x224")
    one_crop = gmacs(counts, "ResNet-50, full", f"{resolutions.CROP_SIDE}x{resolutions.CROP_SIDE}")
    assert gmacs(counts, crops, "540P") == pytest.approx(resolutions.CROPS * one_crop)


def test_whole_photographs_cost_in_proportion_to_their_pixels(counts):
    pixels = 960 * 540 / 224**2
    for method in ("Swin-T, full", "ResNet-50, full"):
        ratio = gmacs(counts, method, "540P") / gmacs(counts, method, "224x224")
        assert ratio == pytest.approx(pixels, rel=0.15)  # windows are padded


def test_a_full_resolution_count_is_that_of_a_real_pass(counts):
    real = count(published_swin("swin_t").eval(), (torch.zeros(1, 3, 224, 224),), OPERATOR_COUNTERS)
    counted = {counter: gmacs(counts, "Swin-T", "224x224", counter) for counter in OPERATOR_COUNTERS}
    assert counted == pytest.approx(real, rel=1e-9)


@pytest.mark.slow
@pytest.mark.paper
def test_the_papers_model_costs_the_same_at_every_size(paper):
    assert len(paper) == 4 * len(resolutions.SIZES)
    own = paper[paper["method"].str.startswith("UIQA")]
    assert list(own["resolution"]) == list(resolutions.SIZES)
    assert list(own["gmacs_ptflops_aten"]) == pytest.approx([69.653] * len(own), abs=0.0005)
    assert list(own["gmacs_torch_counter"]) == pytest.approx([69.453] * len(own), abs=0.0005)


@pytest.mark.slow
@pytest.mark.paper
def test_uhd_costs_swin_at_full_resolution_in_proportion_to_the_pixels_of_a_view(paper):
    """Windows make Swin linear in the pixels: a photograph has 36 times as many as a view of 480 x 480."""
    branch = gmacs(paper, "UIQA", "UHD") / 3
    assert gmacs(paper, "Swin-T, full", "UHD") == pytest.approx(branch * 3840 * 2160 / 480**2, rel=0.1)


@pytest.mark.parametrize(("policy", "patches"), [("all", 60 * 33), ("texture", 3)])
def test_patches_are_counted_as_often_as_a_photograph_has_them(policy, patches, tmp_path, monkeypatch):
    monkeypatch.setattr(resolutions, "other_methods", dict)
    tiny = ["--model=Patches", "--backbone=swin_nano", "--patch_dimension=64", f"--patch_policy={policy}"]
    assert resolutions.main([*tiny, "UHD", "960x540", f"--csv={tmp_path}/costs.csv"]) == 0
    table = pd.read_csv(tmp_path / "costs.csv")
    fewer = 15 * 8 if policy == "all" else patches
    at_uhd, at_540 = (gmacs(table, "Patches", size) for size in ("UHD", "960x540"))
    assert at_540 == pytest.approx(at_uhd * fewer / patches, rel=0.001)


def test_a_config_of_training_can_be_counted_printed_and_plotted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(resolutions, "other_methods", dict)
    words = [
        "540P",
        "720P",
        "--config=configs/demo.yaml",
        f"--plot={tmp_path}/costs.pdf",
        f"--csv={tmp_path}/costs.csv",
    ]
    assert resolutions.main(words) == 0
    output = capsys.readouterr().out
    assert all(f"GMACs per photograph by {counter}" in output for counter in OPERATOR_COUNTERS)
    table = pd.read_csv(tmp_path / "costs.csv")
    assert set(table["method"]) == {"UIQA (timm:test_resnet), views of fixed size"}
    assert output.count(f"{table['gmacs_ptflops_aten'][0]:.2f}") == 4
    assert (tmp_path / "costs.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["4K"], "'4K' is not a size"),
        (["UHD", "--plot", "x.jpg"], "x.jpg"),
        (["UHD", "--csv=-"], "--csv"),
        (["--config=missing.yaml"], "missing.yaml"),
    ],
)
def test_a_wrong_command_is_reported_in_one_line(capsys, tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        resolutions.main(words)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert named in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sizes", [("540P",), ("UHD", "540P", "6000x4000")])
def test_any_sizes_can_be_plotted_in_any_format(sizes, tmp_path):
    for name in ("costs.svg", "costs.png"):
        resolutions.plot_counts(plotted(*sizes), "torch_counter", tmp_path / name)
    with Image.open(tmp_path / "costs.png") as image:
        assert image.width > 1000
    assert (tmp_path / "costs.svg").read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.parametrize("methods", [1, 4])
def test_every_method_has_its_own_colour(methods, tmp_path):
    resolutions.plot_counts(plotted("540P", "UHD")[: 2 * methods], "ptflops_aten", tmp_path / "costs.png")
    with Image.open(tmp_path / "costs.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(maxcolors=2**24)}
    drawn = [tuple(bytes.fromhex(colour[1:])) in colours for colour, _ in resolutions.STYLES]
    assert drawn == [index < methods for index in range(len(resolutions.STYLES))]


def test_the_plot_names_its_counter(tmp_path):
    images = set()
    for counter in OPERATOR_COUNTERS:
        equal = plotted("540P").assign(**{f"gmacs_{counter}": 5.0})
        resolutions.plot_counts(equal, counter, tmp_path / "costs.png")
        images.add((tmp_path / "costs.png").read_bytes())
    assert len(images) == len(OPERATOR_COUNTERS)  # the curves are equal, so only the titles differ
