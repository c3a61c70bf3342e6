"""The table of costs: every number under its heading, footnotes where counters differ, and lines that fit."""

from utils.costs.tables import complexity_table

ROW = {
    "params_m": 1.25,
    "gmacs": {"ptflops_aten": 2.0, "torch_counter": 1.99},
    "gmacs_of_biases": 0.01,
    "activations_mb": 30.0,
}


def report(**second_stage: object) -> dict:
    """Return a report on one branch with two stages, the second of which has the figures given."""
    stages = {"stem": ROW, "stages.0": ROW | second_stage}
    entry = {**ROW, "branches": {"aesthetic": {"input": [3, 480, 480], **ROW, "stages": stages}}}
    published = entry | {"gmacs": ROW["gmacs"] | {"ptflops_pytorch": 1.5}}
    published["branches"] = {name: row | {"gmacs": published["gmacs"]} for name, row in published["branches"].items()}
    return {"model": "UIQA", "backbone": "timm:convnext_tiny", **published, "executed": entry}


def test_numbers_stand_under_their_headings():
    lines = complexity_table(report()).splitlines()
    headings = next(line for line in lines if line.startswith("as published"))
    total = next(line for line in lines if line.startswith("total"))
    for name, number in (("ptflops_aten", "2.000"), ("torch_counter", "1.990"), ("ptflops_pytorch", "1.500")):
        assert total[: headings.index(name) + len(name)].endswith(number)
    assert max(map(len, lines)) <= 100
    assert not any("*" in line for line in lines)


def test_a_difference_by_biases_is_marked_and_explained():
    biases = {"gmacs": {"ptflops_aten": 2.1, "torch_counter": 2.0}, "gmacs_of_biases": 0.1}
    lines = complexity_table(report(**biases, difference_by_operator={"aten.addmm": 0.1})).splitlines()
    assert [line.split()[0] for line in lines if line.endswith("2.000*") or "2.000*" in line] == ["stages.0"] * 2
    assert [line for line in lines if line.startswith("*")] == [
        "* differs by over 1%: ptflops_aten counts adding a layer's bias as a MAC, torch_counter does not"
    ]


def test_a_difference_not_explained_by_biases_names_the_operator():
    other = {"gmacs": {"ptflops_aten": 1.0, "torch_counter": 2.0}, "gmacs_of_biases": 0.0}
    table = complexity_table(report(**other, difference_by_operator={"aten.baddbmm": -1.0}))
    assert "aten.baddbmm -1 G" in table
