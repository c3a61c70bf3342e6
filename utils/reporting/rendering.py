"""HTML pages from templates: what every report shares."""

import secrets
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup


def render(template: str, /, **values: object) -> str:
    """Return a page from a template, with values and a fresh `nonce` for its content security policy.

    Texts are escaped, and an undefined value is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "interval": _interval}
    return environment.get_template(template).render(nonce=secrets.token_urlsafe(16), **values)


def page_json(content: object) -> Markup:
    """Return JSON without spaces that is safe inside a <script> element."""
    return htmlsafe_json_dumps(content, separators=(",", ":"))


def _number(value: float | None, digits: int = 3) -> str:
    return "\N{EN DASH}" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def _interval(limits: Sequence[float]) -> str:
    return f"{_number(limits[0])} to {_number(limits[1])}" if np.isfinite(limits).all() else ""
