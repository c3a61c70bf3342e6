"""What `flops.py` counts and measures, as tables for people; each is at most 100 columns wide."""

from collections.abc import Sequence

from utils.costs.complexity import AGREEMENT, explained_by_biases
from utils.costs.counting import COUNTERS, OPERATOR_COUNTERS

PER_LINE = 6  # resolutions


def complexity_table(report: dict) -> str:
    """Return the counts of a model as published and as executed, with the counter's name above every number."""
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
    return "\n".join([*lines, *_remarks(rows)])


def _heads(counters: Sequence[str]) -> str:
    return "".join(f"{name:>{len(name) + 2}}" for name in counters)


def _figures(row: dict, counters: Sequence[str], digits: int) -> str:
    """Return the numbers of a row; stages have no figure of the counter that looks at modules."""
    words = f"{row['params_m']:>9.3f}{row['activations_mb']:>10.1f}"
    for counter in counters:
        mark = "*" if counter == OPERATOR_COUNTERS[-1] and "difference_by_operator" in row else ""
        number = f"{row['gmacs'][counter]:.{digits}f}" if counter in row["gmacs"] else ""
        words += f"{number:>{len(counter) + 2 - len(mark)}}{mark}"
    return words.rstrip()


def _digits(largest: float) -> int:
    """Return how many decimal places tell numbers up to this one apart."""
    return 2 if largest >= 10 else 3 if largest >= 1 else 4


def _remarks(rows: Sequence[dict]) -> list[str]:
    """Return what makes the operator counters differ where they do."""
    marked = [row for row in rows if "difference_by_operator" in row]
    lines = []
    if marked:
        lines.append(
            f"* differs by over {AGREEMENT:.0%}: {OPERATOR_COUNTERS[0]} counts adding a layer's bias as a MAC, "
            f"{OPERATOR_COUNTERS[1]} does not"
        )
    for row in marked:
        if not explained_by_biases(row):
            named = ", ".join(f"{name} {gmacs:+.4g} G" for name, gmacs in row["difference_by_operator"].items())
            lines.append(f"* and not by biases alone, because one of them does not know an operator: {named}")
    return list(dict.fromkeys(lines))


def latency_table(latency: dict) -> str:
    """Return the measured passes, below what they were measured on."""
    lines = [
        f"as executed here, on {latency['device']}: {latency['device_name']}; {latency['precision']}; batch of "
        f"{latency['batch_size']}; {latency['threads']} thread(s); {latency['passes']} passes",
        f"{'':<20}{'median ms':>12}{'quartiles':>24}{'peak memory MB':>18}",
    ]
    for name, row in latency["rows"].items():
        low, high = row["quartiles_ms"]
        peak = "not told here" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:.1f}"
        lines.append(f"{name:<20}{row['latency_ms']:>12.2f}{f'[{low:.2f}, {high:.2f}]':>24}{peak:>18}")
    return "\n".join(lines)


def resolution_table(rows: Sequence[dict]) -> str:
    """Return the GMACs of every method at every resolution, by each operator counter."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    places = list(dict.fromkeys((row["resolution"], row["width"], row["height"]) for row in rows))
    found = {(row["method"], row["resolution"]): row for row in rows}
    lines = []
    for counter in OPERATOR_COUNTERS:
        for start in range(0, len(places), PER_LINE):
            some = places[start : start + PER_LINE]
            lines.append(f"\n{f'GMACs per photograph by {counter}':<40}" + "".join(f"{name:>10}" for name, *_ in some))
            lines.append(f"{'':<40}" + "".join(f"{f'{width}x{height}':>10}" for _, width, height in some))
            for method in methods:
                numbers = (found[method, name][f"gmacs_{counter}"] for name, *_ in some)
                lines.append(f"{method:<40}" + "".join(f"{number:>10.2f}" for number in numbers))
    return "\n".join(lines).lstrip("\n")
