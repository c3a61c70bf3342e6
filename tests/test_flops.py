"""Counting as a command: the published figures, and what the options write."""

import json

import pandas as pd
import pytest
from PIL import Image

import flops
from utils.costs.counting import COUNTERS, OPERATOR_COUNTERS
from utils.costs.resolutions import RESOLUTIONS

TINY = ["--backbone=swin_nano", "--resize=64", "--crop_size=64", "--n_fragment=2", "--salient_patch_dimension=64"]


def figures(capsys, *words: str) -> dict:
    assert flops.main([*words, "--json=-"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> dict:
    """The report on the paper's model, with all resolutions, and where the table and the picture of these are."""
    folder = tmp_path_factory.mktemp("paper")
    files = {name: folder / name for name in ("costs.json", "costs.csv", "costs.pdf", "costs.png")}
    words = [f"--json={files['costs.json']}", f"--csv={files['costs.csv']}"]
    drawn = ["--plot", str(files["costs.pdf"]), str(files["costs.png"])]
    assert flops.main([*words, "--resolutions", *RESOLUTIONS, *drawn]) == 0
    return json.loads(files["costs.json"].read_text()) | {"files": files}


@pytest.mark.slow
def test_the_papers_model_costs_what_it_costs(paper):
    assert paper["params_m"] == pytest.approx(82.85, rel=0.0005)
    published = {"ptflops_aten": 69.65, "torch_counter": 69.45, "ptflops_pytorch": 43.53}
    assert paper["gmacs"] == pytest.approx(published, abs=0.005)
    assert paper["executed"]["gmacs"] == pytest.approx({"ptflops_aten": 62.47, "torch_counter": 62.29}, abs=0.005)
    assert paper["executed"]["params_m"] == paper["params_m"]
    assert set(paper["branches"]) == {"aesthetic", "distortion", "salient"}
    assert paper["branches"]["salient"]["input"] == [3, 480, 480]


@pytest.mark.slow
def test_branches_and_head_add_up_to_the_model(paper):
    for entry in (paper, paper["executed"]):
        for counter, total in entry["gmacs"].items():
            parts = sum(branch["gmacs"][counter] for branch in entry["branches"].values())
            assert parts == pytest.approx(total, rel=1e-4)


@pytest.mark.slow
def test_uhd_costs_swin_at_full_resolution_what_its_pixels_say(paper):
    """Windows make Swin linear in the pixels: the 36 windows of 480 pixels fit into the photograph 36 times."""
    at = {(row["method"], row["resolution"]): row["gmacs_torch_counter"] for row in paper["resolutions"]}
    branch = paper["branches"]["aesthetic"]["gmacs"]["torch_counter"]
    assert at["Swin-T, full resolution", "UHD"] == pytest.approx(branch * 3840 * 2160 / 480**2, rel=0.1)
    own = [gmacs for (method, _), gmacs in at.items() if method.startswith("UIQA")]
    assert own == [paper["gmacs"]["torch_counter"]] * len(RESOLUTIONS)


@pytest.mark.slow
def test_what_is_drawn_stands_in_the_table(paper):
    table = pd.read_csv(paper["files"]["costs.csv"])
    pd.testing.assert_frame_equal(table, pd.DataFrame(paper["resolutions"]))
    assert len(table) == 4 * len(RESOLUTIONS)
    assert paper["files"]["costs.pdf"].read_bytes().startswith(b"%PDF")
    with Image.open(paper["files"]["costs.png"]) as picture:
        assert picture.width > 1000


def test_a_config_of_training_can_be_counted(capsys):
    report = figures(capsys, "--config=configs/demo.yaml")
    assert report["backbone"] == "timm:test_resnet"
    assert report["branches"]["distortion"]["input"] == [3, 128, 128]


def test_tables_and_report_name_the_counter_and_say_where_counters_differ(capsys, tmp_path):
    assert flops.main([*TINY, f"--json={tmp_path}/costs.json", "--resolutions", "540P"]) == 0
    output = capsys.readouterr().out
    assert all(counter in output for counter in COUNTERS)
    assert all(f"GMACs per photograph by {counter}" in output for counter in OPERATOR_COUNTERS)
    assert max(map(len, output.splitlines())) <= 100
    report = json.loads((tmp_path / "costs.json").read_text())
    for entry in (report, report["executed"]):
        for row in (entry, *entry["branches"].values(), *entry["branches"]["salient"]["stages"].values()):
            ptflops, torch_counter = (row["gmacs"][counter] for counter in OPERATOR_COUNTERS)
            assert ptflops == pytest.approx(torch_counter, rel=0.01) or row["difference_by_operator"]
            assert ptflops - row["gmacs_of_biases"] == pytest.approx(torch_counter, rel=1e-9)
            assert set(row["gmacs"]) <= set(report["counters"])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--csv=x.csv"], "--resolutions"),
        (["--plot", "x.pdf"], "--resolutions"),
        (["--resolutions", "4K"], "'4K' is no resolution"),
        (["--resolutions", "UHD", "--plot", "x.jpg"], "x.jpg"),
        (["--resolutions", "UHD", "--csv=-"], "--json -"),
        (["--latency", "--device=tpu"], "tpu"),
    ],
)
def test_a_wrong_command_is_one_line(capsys, tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        flops.main(words)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert named in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_some_branches_and_a_shared_trunk_cost_their_part(capsys):
    whole = figures(capsys, *TINY)
    some = figures(capsys, *TINY, "--branches=aesthetic,salient")
    shared = figures(capsys, *TINY, "--shared_trunk")
    assert set(some["branches"]) == {"aesthetic", "salient"}
    assert some["gmacs"]["torch_counter"] == pytest.approx(whole["gmacs"]["torch_counter"] * 2 / 3, rel=0.01)
    assert shared["gmacs"]["torch_counter"] == pytest.approx(whole["gmacs"]["torch_counter"])
    assert shared["params_m"] < 0.4 * whole["params_m"]


@pytest.mark.parametrize(("policy", "patches"), [("all", 60 * 33), ("texture", 3)])
def test_patches_are_counted_as_often_as_a_photograph_has_them(policy, patches, capsys, monkeypatch):
    monkeypatch.setattr(flops, "COUNTERS", {name: COUNTERS[name] for name in OPERATOR_COUNTERS})  # the others compute
    tiny = ["--model=Patches", "--backbone=swin_nano", "--patch_dimension=64", f"--patch_policy={policy}"]
    report = figures(capsys, *tiny, "--resolutions", "UHD", "960x540")
    assert report["branches"]["patches"]["input"] == [patches, 3, 64, 64]
    own = {row["resolution"]: row for row in report["resolutions"] if row["method"].startswith("Patches")}
    at_uhd = own["UHD"]["gmacs_torch_counter"]
    assert at_uhd == pytest.approx(report["gmacs"]["torch_counter"])
    fewer = 15 * 8 if policy == "all" else patches
    assert own["960x540"]["gmacs_torch_counter"] == pytest.approx(at_uhd * fewer / patches, rel=0.001)


@pytest.mark.slow
def test_the_efficient_settings_cost_what_their_configs_say(capsys):
    assert figures(capsys, "--config=configs/uhd_iqa_448.yaml")["gmacs"]["torch_counter"] == pytest.approx(
        53.9, abs=0.05
    )
    lite = figures(capsys, "--config=configs/uhd_iqa_lite.yaml")
    assert lite["gmacs"]["ptflops_aten"] < 8
    assert lite["params_m"] == pytest.approx(7.85, abs=0.005)
    assert figures(capsys, "--shared_trunk")["params_m"] == pytest.approx(27.8, abs=0.05)
