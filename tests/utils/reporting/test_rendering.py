"""Rendering: texts are escaped, JSON cannot leave its script, and missing values are errors."""

import json
import re

import jinja2
import pytest

from utils.reporting import rendering
from utils.reporting.rendering import page_json, render

EVIL = "</script><img src=x onerror=alert(1)>&'\""


@pytest.fixture
def template(tmp_path, monkeypatch):
    """Return a function that makes a template."""
    (tmp_path / "templates").mkdir()
    monkeypatch.setattr(rendering, "__file__", str(tmp_path / "rendering.py"))
    return lambda text: (tmp_path / "templates" / "page.html").write_text(text)


def test_texts_are_escaped_and_every_page_has_a_nonce_of_its_own(template):
    template("{{ nonce }} {{ name }}")
    pages = [render("page.html", name=EVIL) for _ in range(2)]
    assert "<" not in pages[0]
    assert pages[0].split()[0] != pages[1].split()[0]
    assert len(pages[0].split()[0]) >= 20


def test_a_value_that_is_missing_is_an_error(template):
    template("{{ absent }}")
    with pytest.raises(jinja2.UndefinedError):
        render("page.html")


def test_numbers_and_intervals_that_are_not_finite_are_dashes(template):
    template("{{ 1.23456 | number }} {{ nan | number(1) }} [{{ (1, 2) | interval }}] [{{ (nan, 2) | interval }}]")
    assert render("page.html", nan=float("nan")) == "1.235 \u2013 [1.000 to 2.000] []"


def test_json_in_a_page_is_read_back_and_cannot_end_its_script():
    text = page_json({"name": EVIL, "values": [1, 2]})
    assert json.loads(text) == {"name": EVIL, "values": [1, 2]}
    assert not re.search(r"[<>&']", text)
