"""flops.py: the published figures, and what the options print and write."""

import json

import pytest

import flops
from utils.costs.counting import COUNTERS, OPERATOR_COUNTERS

TINY = ["--backbone=swin_nano", "--resize=64", "--crop_size=64", "--n_fragment=2", "--salient_patch_dimension=64"]


def figures(capsys, *words: str) -> dict:
    assert flops.main([*words, "--json=-"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> dict:
    """The report on the paper's model."""
    path = tmp_path_factory.mktemp("paper") / "costs.json"
    assert flops.main([f"--json={path}"]) == 0
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.paper
def test_the_papers_model_has_the_published_figures(paper):
    assert paper["params_m"] == pytest.approx(82.85, rel=0.0005)
    published = {"ptflops_aten": 69.65, "torch_counter": 69.45, "ptflops_pytorch": 43.53}
    assert paper["gmacs"] == pytest.approx(published, abs=0.005)
    assert paper["executed"]["gmacs"] == pytest.approx({"ptflops_aten": 62.47, "torch_counter": 62.29}, abs=0.005)
    assert paper["executed"]["params_m"] == paper["params_m"]
    assert set(paper["branches"]) == {"aesthetic", "distortion", "salient"}
    assert paper["branches"]["salient"]["input"] == [3, 480, 480]


@pytest.mark.slow
@pytest.mark.paper
def test_branches_and_head_add_up_to_the_model(paper):
    for entry in (paper, paper["executed"]):
        for counter, total in entry["gmacs"].items():
            parts = sum(branch["gmacs"][counter] for branch in entry["branches"].values())
            assert parts == pytest.approx(total, rel=1e-4)


def test_a_config_of_training_can_be_counted(capsys):
    report = figures(capsys, "--config=configs/demo.yaml")
    assert report["backbone"] == "timm:test_resnet"
    assert report["branches"]["distortion"]["input"] == [3, 128, 128]


def test_table_and_report_name_the_counters_and_say_where_they_differ(capsys, tmp_path):
    assert flops.main([*TINY, f"--json={tmp_path}/costs.json"]) == 0
    output = capsys.readouterr().out
    assert all(counter in output for counter in COUNTERS)
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
        (["--n_fragment=0"], "--n_fragment"),
        (["--model=SwinT", "--shared_trunk"], "--shared_trunk"),
        (["--config=missing.yaml"], "missing.yaml"),
        (["--json=."], "--json"),
    ],
)
def test_a_wrong_command_is_reported_in_one_line(capsys, tmp_path, monkeypatch, words, named):
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
def test_the_patches_of_a_whole_uhd_photograph_are_counted(policy, patches, capsys, monkeypatch):
    monkeypatch.setattr(
        flops, "COUNTERS", {name: COUNTERS[name] for name in OPERATOR_COUNTERS}
    )  # ptflops' pytorch backend computes
    tiny = ["--model=Patches", "--backbone=swin_nano", "--patch_dimension=64", f"--patch_policy={policy}"]
    report = figures(capsys, *tiny)
    assert report["branches"]["patches"]["input"] == [patches, 3, 64, 64]
    assert report.get("photograph") == ("3840 x 2160" if policy == "all" else None)


@pytest.mark.slow
def test_the_efficient_settings_cost_what_their_configs_say(capsys):
    assert figures(capsys, "--config=configs/uhd_iqa_448.yaml")["gmacs"]["torch_counter"] == pytest.approx(
        53.9, abs=0.05
    )
    lite = figures(capsys, "--config=configs/uhd_iqa_lite.yaml")
    assert lite["gmacs"]["ptflops_aten"] < 8
    assert lite["params_m"] == pytest.approx(7.85, abs=0.005)
    assert figures(capsys, "--shared_trunk")["params_m"] == pytest.approx(27.8, abs=0.05)
