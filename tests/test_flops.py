"""Counting: the published figures, and counters that agree where they should."""

import json

import pytest

import flops


def figures(capsys, *words: str) -> dict:
    assert flops.main([*words, "--json=-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_papers_model_costs_what_it_costs(capsys):
    report = figures(capsys)
    assert report["params_m"] == pytest.approx(82.85, rel=0.005)
    expected = {"ptflops_aten": 69.65, "torch_counter": 69.45, "ptflops_pytorch": 43.5}
    assert report["gmacs"] == pytest.approx(expected, rel=0.005)
    assert set(report["branches"]) == {"aesthetic", "distortion", "salient"}
    assert report["executed"]["params_m"] == report["params_m"]
    for gmacs in (report["gmacs"], report["executed"]["gmacs"]):
        assert gmacs["torch_counter"] == pytest.approx(gmacs["ptflops_aten"], rel=0.01)
    assert report["executed"]["gmacs"]["torch_counter"] == pytest.approx(62, abs=1)


@pytest.mark.parametrize("words", [[], ["--backbone=timm:test_resnet"], ["--model=SwinT", "--backbone=swin_nano"]])
def test_the_operator_counters_agree_and_branches_add_up(capsys, words):
    if not words:
        words = ["--crop_size=224", "--n_fragment=7", "--salient_patch_dimension=224"]
    report = figures(capsys, *words)
    assert report["gmacs"]["torch_counter"] == pytest.approx(report["gmacs"]["ptflops_aten"], rel=0.05)
    for entry in (report, report["executed"]):
        for counter, total in entry["gmacs"].items():
            parts = sum(branch["gmacs"][counter] for branch in entry["branches"].values())
            assert parts == pytest.approx(total, rel=0.001)


def test_a_trunk_without_padded_windows_is_executed_as_published(capsys):
    sizes = ["--resize=224", "--crop_size=224", "--n_fragment=7", "--salient_patch_dimension=224"]
    report = figures(capsys, "--backbone=swin_nano", *sizes)
    for counter, gmacs in report["executed"]["gmacs"].items():
        assert gmacs == pytest.approx(report["gmacs"][counter], rel=1e-3)


def test_a_config_of_training_can_be_counted(capsys):
    report = figures(capsys, "--config=configs/demo.yaml")
    assert report["backbone"] == "timm:test_resnet"
    assert report["branches"]["distortion"]["input"] == [3, 128, 128]


def test_the_table_names_the_counter_beside_every_number(capsys):
    flops.main(["--backbone=swin_nano"])
    output = capsys.readouterr().out
    for counter in flops.COUNTERS:
        assert counter in output
