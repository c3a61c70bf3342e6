"""The table that `flops.py` prints, at most 100 columns wide."""

from collections.abc import Sequence

from utils.costs.complexity import AGREEMENT, explained_by_biases
from utils.costs.counting import COUNTERS, OPERATOR_COUNTERS


def complexity_table(report: dict) -> str:
    """Return a report as a table: the model as published and as executed, a column for each counter."""
    lines = [
        f"{report['model']} with {report['backbone']}: GMACs per image (1 MAC = 2 FLOPs), parameters in millions,",
        "activations (outputs of convolutions and matrix products) in MB at float32",
    ]
    rows = []
    for title, entry in (("as published", report), ("as executed here", report["executed"])):
        counters = list(entry["gmacs"])
        digits = _digits(max(entry["gmacs"].values()))
        lines.append(f"\n{title:<20}{'input':<14}{'params':>9}{'activ.':>10}{_heads(counters)}")
        for name, branch in entry["branches"].items():
            size = "x".join(map(str, branch["input"]))
            rows += [branch, *branch["stages"].values()]
            lines.append(f"{name:<20}{size:<14}{_figures(branch, counters, digits)}")
            lines += [f"{'  ' + stage:<34}{_figures(row, counters, digits)}" for stage, row in branch["stages"].items()]
        rows.append(entry)
        lines.append(f"{'total':<34}{_figures(entry, counters, digits)}")
    lines += ["", *(f"{name}: {meaning}" for name, meaning in COUNTERS.items())]
    return "\n".join([*lines, *_footnotes(rows)])


def _heads(counters: Sequence[str]) -> str:
    return "".join(f"{name:>{len(name) + 2}}" for name in counters)


def _figures(row: dict, counters: Sequence[str], digits: int) -> str:
    """Return the numbers of a row; ptflops' pytorch backend has none for stages."""
    text = f"{row['params_m']:>9.3f}{row['activations_mb']:>10.1f}"
    for counter in counters:
        mark = "*" if counter == OPERATOR_COUNTERS[-1] and "difference_by_operator" in row else ""
        number = f"{row['gmacs'][counter]:.{digits}f}" if counter in row["gmacs"] else ""
        text += f"{number:>{len(counter) + 2 - len(mark)}}{mark}"
    return text.rstrip()


def _digits(largest: float) -> int:
    """Return the number of decimal places for figures up to the largest."""
    return 2 if largest >= 10 else 3 if largest >= 1 else 4


def _footnotes(rows: Sequence[dict]) -> list[str]:
    """Return footnotes that explain where the operator counters differ."""
    marked = [row for row in rows if "difference_by_operator" in row]
    lines = []
    if marked:
        lines.append(
            f"* differs by over {AGREEMENT:.0%}: {OPERATOR_COUNTERS[0]} counts adding a layer's bias as a MAC, "
            f"{OPERATOR_COUNTERS[1]} does not"
        )
    for row in marked:
        if not explained_by_biases(row):
            operators = ", ".join(f"{name} {gmacs:+.4g} G" for name, gmacs in row["difference_by_operator"].items())
            lines.append(f"* not only by biases: one counter does not know an operator: {operators}")
    return list(dict.fromkeys(lines))
