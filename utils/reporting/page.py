"""The report of an evaluation as one HTML file that opens offline."""

import math
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from data.files import replace_file
from utils.metrics import MEASURES
from utils.reporting.gallery import SECTIONS, Gallery
from utils.reporting.maps import CAPTION
from utils.reporting.measures import protocol_words

# columns of numbers, and what stands above them; beside these, points_<view>
HEADS = {
    "mos": "MOS",
    "score": "score",
    "quality": "quality",
    "error": "quality \N{MINUS SIGN} MOS",
    "draw_sd": "s.d. of draws",
    "sampling_error": "sampling error",
}


def write_html_report(
    path: str | os.PathLike,
    report: dict,
    table: pd.DataFrame,
    thumbnails: Sequence[str | None],
    sections: dict[str, list[int]],
    gallery: Gallery | None,
    facts: dict[str, str],
) -> None:
    """Write the report; the file is the old one or the whole new one.

    Names and label texts are escaped by the template, and a content security policy lets the page load nothing and run
    no script but its own.

    Args:
        path: of the HTML file.
        report: of `utils.reporting.measures.evaluation_report`, with `groups`, `failures` and `checkpoint` added.
        table: a row an image: image, mos, score, quality and, where known, more columns of HEADS, points_<view>, group.
        thumbnails: a data URI, or None, for each row.
        sections: for each key of `utils.reporting.gallery.SECTIONS` row numbers of the table.
        gallery: cards for these rows; None without a model or photographs.
        facts: what the result depends on, by name: command, options, versions.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["interval"] = _interval
    numbers = [name for name in table if name in HEADS or name.startswith("points_")]
    columns = [name for name in numbers if table[name].notna().any()]
    headline = "val_fitted" if report["val_fitted"] else "test_fitted"
    images = [
        {
            "name": row["image"],
            "group": None if pd.isna(row.get("group")) else str(row["group"]),
            "values": [_plain(row[name]) for name in columns],
            "thumb": thumbnail,
        }
        for row, thumbnail in zip(table.to_dict("records"), thumbnails, strict=True)
    ]
    page = environment.get_template("report.html").render(
        nonce=secrets.token_urlsafe(16),
        plotly=Markup(get_plotlyjs().replace("</script", r"<\/script")),
        report=report,
        measures=MEASURES,
        protocols=protocol_words(report),
        headline=headline,
        columns=columns,
        heads={name: _head(name) for name in columns},
        images=images,
        curve=_curve(table),
        sections=[(*SECTIONS[key], rows) for key, rows in sections.items() if rows],
        gallery=gallery,
        map_caption=CAPTION,
        facts=facts,
    )
    with replace_file(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")


def _curve(table: pd.DataFrame) -> list[list[float]] | None:
    """Return the mapping as points (scores, quality) in the order of the scores; None without one."""
    mapped = table[["score", "quality"]].dropna().sort_values("score").drop_duplicates()
    return None if mapped.empty else [mapped["score"].tolist(), mapped["quality"].tolist()]


def _head(column: str) -> str:
    return HEADS.get(column) or f"points: {column.removeprefix('points_')}"


def _plain(value: object) -> float | None:
    """Return a number that JSON has."""
    number = float(value)
    return round(number, 6) if math.isfinite(number) else None


def _number(value: float | None, digits: int = 3) -> str:
    return "\N{EN DASH}" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def _interval(limits: Sequence[float]) -> str:
    return f"{_number(limits[0])} to {_number(limits[1])}" if np.isfinite(limits).all() else ""
