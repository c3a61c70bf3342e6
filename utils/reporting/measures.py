"""The measures of an evaluation in three protocols and within groups, and as text for the terminal."""

import numpy as np
import pandas as pd

from data.files import listing, natural_order
from data.tables import ALL
from utils.calibration import fit_calibration
from utils.errors import RunError
from utils.metrics import MEASURES, bootstrap_intervals, mapped_metrics

RESAMPLES = 1000
MAX_GROUPS = 50
UHD_IQA_TEST_IMAGES = 900  # what the published tables measure
FEW_GROUPS = 10  # resampling fewer gives intervals that are too narrow
NO_MAPPING_OF_SOURCE = "not available: the checkpoint has no mapping of this data set"
NO_MAPPING = "not available: the checkpoint has no mapping; give one with --calibration FILE (UIQA.npy)"


def evaluation_report(
    table: pd.DataFrame,
    split: str,
    mapping: str,
    group_by: str | None = None,
    resample_by: str | None = None,
    seed: int = 0,
) -> dict:
    """Measure scores against opinions in three protocols.

    Args:
        table: one row per image: mos, score, quality (NaN without a mapping), and the columns named below.
        split: name of the split, or ALL.
        mapping: description of the mapping from score to quality.
        group_by: column whose groups are also measured, see `group_report`.
        resample_by: column whose groups the bootstrap draws whole, see `resampling_groups`.
        seed: of the bootstrap.

    Returns:
        `split`, `n`; `source` and `training_images`, None, for test.py to fill in; for each protocol the five measures,
        `ci95` (95 % intervals by the bootstrap, the mapping held fixed) and `mapping` (its description): `raw` scores;
        `val_fitted`, which is `quality`, None without a mapping; `test_fitted`, mapped by a fit on these labels
        themselves: a bound, not a result; `groups`, None without `group_by`; `resample_by`, the column and its number
        of `groups`, or None; and `bootstrap`, its description.
    """
    scores, mos = table["score"].to_numpy(), table["mos"].to_numpy()
    own = fit_calibration(scores, mos, f"the {'measured' if split == ALL else split} labels themselves")
    protocols = {"raw": (scores, "none: raw scores"), "val_fitted": None, "test_fitted": (own(scores), own.describe())}
    if is_mapped(table):
        protocols["val_fitted"] = (table["quality"].to_numpy(), mapping)
    groups = resampling_groups(table, resample_by)
    report = {"split": split, "n": len(scores), "source": None, "training_images": None}
    for name, protocol in protocols.items():
        report[name] = protocol and measure(scores, protocol[0], mos, groups, seed) | {"mapping": protocol[1]}
    has_groups = bool(group_by) and len(group_names(table, group_by)) > 0  # a column may be empty for one data set
    report["groups"] = group_report(table, group_by, resample_by) if has_groups else None
    report["resample_by"] = resample_by and {"column": resample_by, "groups": len(set(groups))}
    drawn = resampled_text(len(scores), groups, resample_by)
    return report | {"bootstrap": f"paired percentile, {RESAMPLES:,} resamples of {drawn}, the mapping held fixed"}


def is_mapped(table: pd.DataFrame) -> bool:
    """Return whether every score of a table of predictions has been mapped to quality."""
    return bool(np.isfinite(table["quality"]).all())


def measure(
    scores: np.ndarray, mapped: np.ndarray, mos: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> dict:
    """Return the five measures, and their 95 % intervals as `ci95`; with groups, whole groups are resampled."""
    intervals = bootstrap_intervals(scores, mapped, mos, RESAMPLES, seed, groups)
    return mapped_metrics(scores, mapped, mos) | {"ci95": intervals}


def group_report(table: pd.DataFrame, column: str, resample_by: str | None = None) -> dict:
    """Measure scores within each group of photographs.

    Args:
        table: one row per image: mos, score, quality, and the columns named below.
        column: its entries name the groups; a photograph without an entry is in none.
        resample_by: as for `evaluation_report`; what is drawn within a group is its part of a scene, for example.

    Returns:
        `column`; `protocol`, the description of the mapping; `measures`: for each group, in natural order, `n` and the
        measures with `ci95`; `mean`: of each measure over the groups in which it is defined.

    Raises:
        RunError: as `group_names` and `resampling_groups`.
    """
    mapped = "quality" if is_mapped(table) else "score"
    drawn = resampling_groups(table, resample_by)
    groups = {}
    for name in group_names(table, column):
        selected = (table[column] == name).to_numpy()
        rows = table[selected]
        measures = measure(
            *(rows[values].to_numpy() for values in ("score", mapped, "mos")),
            None if drawn is None else drawn[selected],
        )
        groups[str(name)] = {"n": len(rows)} | measures
    protocol = "the mapping is that of the whole split" if mapped == "quality" else "raw scores"
    values = pd.DataFrame([[measures[name] for name in MEASURES] for measures in groups.values()], columns=MEASURES)
    return {"column": column, "protocol": protocol, "measures": groups, "mean": values.mean().to_dict()}


def has_too_many_groups(table: pd.DataFrame, column: str) -> bool:
    """Return whether a column has more different entries than `group_names` allows; False without the column."""
    return column in table and table[column].nunique() > MAX_GROUPS


def group_names(table: pd.DataFrame, column: str) -> list:
    """Return the groups of a column, in natural order.

    Raises:
        RunError: there is no such column, or it has too many different entries.
    """
    if column not in table:
        raise RunError(f"--group_by {column}: no such column; choose from {', '.join(map(str, table.columns))}")
    names = sorted(table[column].dropna().unique(), key=lambda name: natural_order(str(name)))
    if len(names) > MAX_GROUPS:
        raise RunError(
            f"--group_by {column}: {len(names)} different entries; choose a column with at most {MAX_GROUPS}"
        )
    return names


def resampling_groups(table: pd.DataFrame, column: str | None) -> np.ndarray | None:
    """Return the group of each image, (n,), for a bootstrap that draws whole groups; None without a column.

    Args:
        table: one row per image: image, and the column.
        column: its entries name the groups.

    Raises:
        RunError: there is no such column, it has empty cells, or all images are in one group.
    """
    if column is None:
        return None
    if column not in table:
        raise RunError(f"--resample_by {column}: no such column; choose from {', '.join(map(str, table.columns))}")
    empty = table.loc[table[column].isna(), "image"]
    if len(empty):
        raise RunError(
            f"--resample_by {column}: {len(empty)} images have no entry in this column: {listing(empty)}; fill in "
            "their groups"
        )
    groups = table[column].to_numpy()
    if len(set(groups)) < 2:
        raise RunError(f"--resample_by {column}: all images are in one group; resampling needs two groups, better ten")
    return groups


def resampled_text(images: int, groups: np.ndarray | None, column: str | None) -> str:
    """Return what the bootstrap draws, to follow "resamples of"."""
    return f"{images:,} images" if groups is None else f"{len(set(groups)):,} groups of images (column {column})"


def few_groups_note(groups: np.ndarray | None, column: str | None) -> list[str]:
    """Return a warning if too few groups are resampled."""
    if groups is None or len(set(groups)) >= FEW_GROUPS:
        return []
    return [
        f"--resample_by {column} has only {len(set(groups))} groups: intervals from fewer than {FEW_GROUPS} are "
        "unreliable, as a rule too narrow"
    ]


def heading(report: dict) -> str:
    """Return which images were measured."""
    n, split = report["n"], report["split"]
    images = f"all {n} images" if split == ALL else f"{split} split, {n} images"
    if report["source"]:
        images = f"{report['source']}: {images}"
    return images + (", training images included" if report["training_images"] else "")


def protocol_notes(report: dict) -> dict[str, str]:
    """Describe for each protocol the mapping of PLCC, RMSE and MAE, and what the figures may be compared with."""
    split = report["split"]
    # Papers on other data sets fit on the test labels.
    is_published = report.get("database", "UHD_IQA") == "UHD_IQA" and report["n"] == UHD_IQA_TEST_IMAGES
    caveat = {
        "test": "",
        "val": "; optimistic: epochs are selected on these images",
        "train": "; optimistic: the model was trained on these images",
        ALL: "",
    }[split]
    if report["training_images"]:
        caveat = "; optimistic: training images are included"
    comparable = "; comparable with the published tables" if split == "test" and is_published and not caveat else ""
    mapping = report["val_fitted"] and report["val_fitted"]["mapping"]
    if not report.get("is_training_known", True):
        caveat = ""  # released weights do not say on which of these images they were trained
    notes = {"raw": f"no mapping, raw scores{caveat or comparable}"}
    if mapping:
        own = mapping.startswith("fitted on validation")
        notes["val_fitted"] = f"mapping {mapping}{caveat or (comparable if own else '')}"
    return notes | {"test_fitted": f"mapping {report['test_fitted']['mapping']}; an upper bound, not a result"}


def measures_table(rows: dict[str, dict | None]) -> str:
    """Return a table of measures with their intervals, one line for each named report."""
    width = max(map(len, rows)) + 2
    lines = [" " * width + "".join(f"{name:<25}" for name in MEASURES).rstrip()]
    for name, measures in rows.items():
        if measures is None:
            lines.append(f"{name:<{width}}not available")
            continue
        cells = [
            f"{measures[key]:.4f} [{measures['ci95'][key][0]:.3f}, {measures['ci95'][key][1]:.3f}]" for key in MEASURES
        ]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:<25}" for cell in cells).rstrip())
    return "\n".join(lines)


def summary(report: dict) -> str:
    """Return the report of test.py as text for the terminal, with the data that each mapping was fitted on."""
    rows = {"raw": report["raw"], "val-fitted": report["val_fitted"], "test-fitted": report["test_fitted"]}
    for name, measures in (report["controls"] or {}).items():
        rows[f"control: {name.replace('_', ' ')}"] = measures
    notes, source = protocol_notes(report), report["predictions"] or report["checkpoint"]
    lines = [
        f"{heading(report)}, {source}; [95 % interval]",
        measures_table(rows),
        "SRCC and KRCC are of raw scores. PLCC, RMSE and MAE:",
        f"  raw          {notes['raw']}",
        f"  val-fitted   {notes.get('val_fitted', NO_MAPPING_OF_SOURCE if report['source'] else NO_MAPPING)}",
        f"  test-fitted  {notes['test_fitted']}",
        f"Intervals: {report['bootstrap']}.",
    ]
    if report["controls"]:
        lines.append("The mapping of the controls is fitted on the split's own labels, which favours them.")
    correlations = [report["raw"]["SRCC"]]
    if report["groups"]:
        groups = report["groups"]
        named = {f"{name} ({measures['n']})": measures for name, measures in groups["measures"].items()}
        lines += ["", f"Within each {groups['column']} (images); {groups['protocol']}", measures_table(named)]
        mean = ", ".join(f"{name} {value:.4f}" for name, value in groups["mean"].items())
        lines.append(f"mean over {len(named)} groups: {mean}")
        correlations += [measures["SRCC"] for measures in named.values()]
        if report["resample_by"] and report["resample_by"]["column"] == groups["column"]:
            lines.append("[nan, nan]: whole groups are resampled, and within one there is only one.")
    if not np.isfinite(correlations).all():
        lines.append("nan: correlations of constant values, or of fewer than two images, are undefined.")
    return "\n".join(lines)
