"""Tables of costs: every number under its name, remarks where counters differ, and lines that fit."""

from utils.costs.tables import complexity_table, latency_table, resolution_table

ROW = {
    "params_m": 1.25,
    "gmacs": {"ptflops_aten": 2.0, "torch_counter": 1.99},
    "gmacs_of_biases": 0.01,
    "activations_mb": 30.0,
}


def report(**of_stage: object) -> dict:
    """Return a report on one branch with two stages, the second of which has figures of its own."""
    stages = {"stem": ROW, "stages.0": ROW | of_stage}
    entry = {**ROW, "branches": {"aesthetic": {"input": [3, 480, 480], **ROW, "stages": stages}}}
    published = entry | {"gmacs": ROW["gmacs"] | {"ptflops_pytorch": 1.5}}
    published["branches"] = {name: row | {"gmacs": published["gmacs"]} for name, row in published["branches"].items()}
    return {"model": "UIQA", "backbone": "timm:convnext_tiny", **published, "executed": entry}


def test_numbers_stand_under_their_names():
    lines = complexity_table(report()).splitlines()
    heads = next(line for line in lines if line.startswith("as published"))
    total = next(line for line in lines if line.startswith("total"))
    for name, number in (("ptflops_aten", "2.000"), ("torch_counter", "1.990"), ("ptflops_pytorch", "1.500")):
        assert total[: heads.index(name) + len(name)].endswith(number)
    assert max(map(len, lines)) <= 100
    assert not any("*" in line for line in lines)


def test_a_difference_of_biases_is_marked_and_explained():
    biases = {"gmacs": {"ptflops_aten": 2.1, "torch_counter": 2.0}, "gmacs_of_biases": 0.1}
    lines = complexity_table(report(**biases, difference_by_operator={"aten.addmm": 0.1})).splitlines()
    assert [line.split()[0] for line in lines if line.endswith("2.000*") or "2.000*" in line] == ["stages.0"] * 2
    assert [line for line in lines if line.startswith("*")] == [
        "* differs by over 1%: ptflops_aten counts adding a layer's bias as a MAC, torch_counter does not"
    ]


def test_a_difference_that_is_not_of_biases_names_the_operator():
    other = {"gmacs": {"ptflops_aten": 1.0, "torch_counter": 2.0}, "gmacs_of_biases": 0.0}
    table = complexity_table(report(**other, difference_by_operator={"aten.baddbmm": -1.0}))
    assert "aten.baddbmm -1 G" in table


def test_latency_says_where_and_how_it_was_measured():
    row = {"latency_ms": 12.345, "quartiles_ms": [11.0, 13.0], "peak_memory_mb": 98.76}
    latency = {
        "device": "cpu",
        "device_name": "Some Processor",
        "precision": "float32",
        "batch_size": 1,
        "threads": 2,
        "passes": 5,
        "rows": {"aesthetic": row, "total": row | {"peak_memory_mb": None}},
    }
    table = latency_table(latency)
    for words in ("cpu: Some Processor; float32; batch of 1; 2 thread(s); 5 passes", "12.35", "[11.00, 13.00]", "98.8"):
        assert words in table
    assert table.splitlines()[-1].endswith("not told here")


def test_many_resolutions_go_on_in_further_lines():
    rows = [
        {
            "method": method,
            "resolution": f"{side}x{side}",
            "width": side,
            "height": side,
            "gmacs_ptflops_aten": side * 1.0,
            "gmacs_torch_counter": 3.0,
        }
        for method in ("UIQA (swin_t), views of fixed size", "Swin-T")
        for side in range(300, 1100, 100)
    ]
    table = resolution_table(rows)
    assert max(map(len, table.splitlines())) <= 100
    for side in range(300, 1100, 100):
        assert table.count(f"{side}.00") == 2
