"""The report of an evaluation as one HTML file that opens offline."""

import math
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from data.decode import DEFAULT_MAX_PIXELS
from data.files import write_text
from utils.loaded_model import LoadedModel
from utils.metrics import MEASURES
from utils.reporting.figures import draw_scatter
from utils.reporting.gallery import SECTIONS, Gallery, make_gallery, select_rows, thumbnails
from utils.reporting.maps import CAPTION
from utils.reporting.measures import heading, is_mapped, protocol_notes
from utils.reporting.rendering import render
from utils.reporting.scoring import ScoredSplit

# Numeric columns of the page's table and their headings; points_<view> are added to these.
HEADINGS = {
    "mos": "MOS",
    "score": "score",
    "quality": "quality",
    "error": "quality \N{MINUS SIGN} MOS",
    "draw_sd": "s.d. of draws",
    "sampling_error": "sampling error",
}


def write_report(
    report: dict,
    scored: ScoredSplit,
    loaded: LoadedModel | None,
    score: Callable,
    options: Mapping[str, object],
    folder: Path,
) -> Path:
    """Write the report of test.py: the HTML page, and the scatter plot as PDF and PNG.

    Args:
        report: of test.py.
        scored: the predictions that were measured, and where their photographs are.
        loaded: the model, on the device; without one the gallery has no views and maps.
        score: `utils.inference.score_photographs` with device, batch size and workers filled in.
        options: of the command line, by name.
        folder: of the results.

    Returns:
        The page's path.
    """
    table, split = scored.table.reset_index(drop=True), report["split"]
    paths = [scored.paths.get(image) for image in table["image"]]
    sections = select_rows(table)
    selected = {row: paths[row] for rows in sections.values() for row in rows if paths[row] is not None}
    gallery = None
    if loaded and selected and "patches" not in loaded.view_spec.views:  # a photograph has too many patches to show
        gallery = make_gallery(selected, loaded, report["fragment_draws"], score)
    max_pixels = loaded.view_spec.max_pixels if loaded else options["max_pixels"] or DEFAULT_MAX_PIXELS
    details = {
        **report["environment"],
        "options": ", ".join(f"{name}={value}" for name, value in options.items() if value is not None),
        "data": f"{report['n']} images; fingerprint of names and opinions {report['fingerprint']}",
    }
    name = f"{split}_{file_stem(report['source'])}" if report["source"] else split
    page = folder / f"report_{name}.html"
    write_html_report(page, report, table, thumbnails(paths, max_pixels), sections, gallery, details)
    mapping = report["val_fitted"]["mapping"] if report["val_fitted"] else ""
    draw_scatter(table, mapping, [folder / f"scatter_{name}.{suffix}" for suffix in ("pdf", "png")])
    return page


def file_stem(name: str) -> str:
    """Return a name from a label file in a form that is safe in the name of a file."""
    stem = re.sub(r"[^\w.-]+", "_", name)[:80]
    return stem if stem == name else f"{stem}_{zlib.crc32(name.encode()):08x}"  # other names may have the same stem


def write_html_report(
    path: str | os.PathLike,
    report: dict,
    table: pd.DataFrame,
    thumbnails: Sequence[str | None],
    sections: dict[str, list[int]],
    gallery: Gallery | None,
    details: dict[str, str],
) -> None:
    """Write the report as one HTML file, atomically.

    Names and label texts are escaped by the template, and a content security policy prevents the page from loading
    anything or running any script but its own.

    Args:
        path: of the HTML file.
        report: of `utils.reporting.measures.evaluation_report`, with the keys that test.py adds.
        table: one row per image: image, mos, score, quality and, if known, more columns of HEADINGS, points_<view>, and
            the column of the groups.
        thumbnails: a data URI, or None, for each row.
        sections: for each key of `utils.reporting.gallery.SECTIONS` row numbers of the table.
        gallery: cards for these rows; None without a model or photographs.
        details: what the result depends on, by name: command, options, versions.
    """
    if is_mapped(table):
        table = table.assign(error=table["quality"] - table["mos"])
    columns = [name for name in table if (name in HEADINGS or name.startswith("points_")) and table[name].notna().any()]
    group_column = report["groups"] and report["groups"]["column"]
    groups = table[group_column] if group_column else [None] * len(table)
    images = {
        "name": table["image"],
        "group": [None if pd.isna(group) else str(group) for group in groups],
        "values": [_finite(values) for values in table[columns].to_numpy(float)],
        "thumbnail": thumbnails,
    }
    page = render(
        "report.html",
        plotly=Markup(get_plotlyjs().replace("</script", r"<\/script")),
        report=report,
        heading=heading(report),
        group_column=group_column,
        measures=MEASURES,
        protocols=protocol_notes(report),
        headline="val_fitted" if report["val_fitted"] else "raw",
        columns=columns,
        headings={name: HEADINGS.get(name, f"points: {name.removeprefix('points_')}") for name in columns},
        images=[dict(zip(images, row, strict=True)) for row in zip(*images.values(), strict=True)],
        curve=_curve(table),
        sections=[(*SECTIONS[key], rows) for key, rows in sections.items() if rows],
        gallery=gallery,
        map_caption=CAPTION,
        details=details,
    )
    write_text(path, page)


def _curve(table: pd.DataFrame) -> list[list[float]] | None:
    """Return the mapping as two lists, scores in ascending order and their quality; None unless every score has one."""
    if not is_mapped(table):
        return None
    mapped = table[["score", "quality"]].sort_values("score").drop_duplicates()
    return [mapped["score"].tolist(), mapped["quality"].tolist()]


def _finite(values: np.ndarray) -> list[float | None]:
    """Return numbers for JSON, which has no NaN."""
    return [round(value, 6) if math.isfinite(value) else None for value in values.tolist()]
