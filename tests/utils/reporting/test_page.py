"""The report: complete, self-contained, safe to open for any file name, and usable with a mouse."""

import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser_pages import wait_until, watch

import test as test_entry
from utils.metrics import MEASURES
from utils.reporting.measures import evaluation_report
from utils.reporting.page import write_html_report

pytestmark = pytest.mark.xdist_group("browser")  # on one process, or each would make the reports

EVIL = "<img src=x onerror=alert(1)>.jpg"
EVIL_GROUP = "</script><b>&"


@pytest.fixture(scope="module")
def labels(tiny_dataset, tmp_path_factory) -> Path:
    """The tiny data set's photographs three times over as a test split, one of them named like an HTML tag."""
    folder = tmp_path_factory.mktemp("report")
    rows = []
    for copy in range(3):
        for number, path in enumerate(sorted(tiny_dataset.rglob("*.jpg"))):
            name = EVIL if not rows else f"{copy}_{number}.jpg"
            shutil.copy(path, folder / name)
            group = EVIL_GROUP if number % 2 else "plain"
            mos = 3.0 if name == EVIL else 0.2 + 0.02 * number  # the largest error, so that it has a card
            rows.append({"image": name, "mos": mos, "split": "test", "kind": group})
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def report(trained, labels, tmp_path_factory) -> Path:
    """A report as test.py writes it."""
    logs = tmp_path_factory.mktemp("logs")
    data = ["--database=csv", f"--metadata={labels}", f"--database_dir={labels.parent}"]
    words = ["--checkpoint", str(trained.best), *data, f"--logdir={logs}", "--num_workers=0", "--device=cpu"]
    assert test_entry.main([*words, "--report", "--group_by=kind", "--controls"]) == 0
    return logs / "tiny" / "report_test.html"


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.inside: list[str] = []
        self.data: dict = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside.append(dict(attrs).get("id", tag))

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.inside.pop()

    def handle_data(self, text):
        if not self.inside:
            self.words.append(text)
        elif self.inside[-1] == "data":
            self.data = json.loads(text)


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(report.read_text(encoding="utf-8"))


def test_the_page_loads_nothing(page):
    links = [attributes[name] for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    assert links
    assert all(link.startswith("data:") for link in links)
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert "default-src 'none'" in policy
    assert "unsafe" not in re.search("script-src[^;]*", policy)[0]


def test_names_and_label_text_are_text(page, labels):
    assert EVIL in page.words
    assert any(EVIL_GROUP in words for words in page.words)
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert sum(tag == "b" for tag, _ in page.tags) == 5  # the tiles' figures alone
    assert EVIL in [image["name"] for image in page.data["images"]]


def test_every_photograph_is_in_the_table_with_its_thumbnail(page, labels):
    table = pd.read_csv(labels)
    assert [image["name"] for image in page.data["images"]] == table["image"].tolist()
    assert all(image["thumbnail"].startswith("data:image/jpeg") for image in page.data["images"])
    columns = page.data["columns"]
    assert columns[:3] == ["mos", "score", "quality"]
    first = dict(zip(columns, page.data["images"][0]["values"], strict=True))
    assert first["mos"] == pytest.approx(table["mos"][0])
    assert first["error"] == pytest.approx(first["quality"] - first["mos"], abs=1e-5)


def test_a_card_shows_the_numbers_of_its_own_photograph(report):
    """The numbers on a card stand in the order of its columns, points left out."""
    text = report.read_text(encoding="utf-8")
    data = Page(text).data
    cards = re.findall(r'<article class="panel card" data-row="(\d+)">\s*<header>(.*?)</header>', text, re.S)
    assert cards
    for row, head in cards:
        values = dict(zip(data["columns"], data["images"][int(row)]["values"], strict=True))
        assert f"<span>quality \N{MINUS SIGN} MOS {values['error']:.3f}</span>" in head
        assert f"<span>score {values['score']:.3f}</span>" in head


def test_the_page_says_what_the_result_depends_on(page):
    text = " ".join(page.words)
    for words in ("command", "commit", "torch", "fingerprint", "fitted on validation", "resamples", "Their places are"):
        assert words in text


def table_rows(text: str, start: str) -> dict[str, str]:
    """Return the rows of the first table behind a text, by their first cell; the row of headings comes first."""
    table = text[text.index(start) :].partition("</table>")[0]
    rows = re.findall(r"<tr><t[hd]>(.*?)</t[hd]>(.*?)</tr>", table, re.S)
    assert len({first for first, _ in rows}) == len(rows)
    return dict(rows)


def test_controls_are_no_protocols(report):
    text = report.read_text(encoding="utf-8")
    protocols, controls = table_rows(text, "<h2>Measures by protocol"), table_rows(text, "<h2>Controls</h2>")
    assert list(controls) == ["control", "untrained model", "file size as the score"]
    assert next(iter(protocols)) == "protocol"
    assert len(protocols) == 4
    assert not controls.keys() & protocols.keys()
    assert all(row.count("<td>") == len(MEASURES) for row in [*controls.values()][1:])
    assert "The mapping of the controls is fitted on the split's own labels" in text


def test_without_controls_there_is_no_table_of_them(trained, report, tmp_path):
    predictions = report.parent / "predictions_test.csv"
    words = ["--predictions", str(predictions), "--report", f"--logdir={tmp_path}", "--run=again"]
    assert test_entry.main(words) == 0
    text = (tmp_path / "again" / "report_test.html").read_text(encoding="utf-8")
    assert "<h2>Controls</h2>" not in text
    assert "mapping of the controls" not in text


def test_figures_for_a_publication_stand_beside_it(report):
    for ending, begins in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
        assert (report.parent / f"scatter_test.{ending}").read_bytes().startswith(begins)


@pytest.mark.parametrize("with_model", [True, False])
def test_a_report_is_made_of_predictions_without_scoring_again(with_model, trained, report, labels, tmp_path, capsys):
    predictions = report.parent / "predictions_test.csv"
    words = ["--predictions", str(predictions), "--report", f"--logdir={tmp_path}", "--group_by=kind", "--run=again"]
    if with_model:
        data = ["--database=csv", f"--metadata={labels}", f"--database_dir={labels.parent}"]
        words += ["--checkpoint", str(trained.best), *data, "--num_workers=0", "--device=cpu"]
    assert test_entry.main(words) == 0
    page = Page((tmp_path / "again" / "report_test.html").read_text(encoding="utf-8"))
    assert len(page.data["images"]) == len(pd.read_csv(predictions))
    pictures = [attributes for tag, attributes in page.tags if tag == "img" and attributes.get("class") == "map"]
    assert bool(pictures) == with_model
    assert not list(tmp_path.rglob("test_test.json"))


def test_nine_hundred_photographs_make_a_page_of_less_than_40_mb(tmp_path):
    generator = np.random.default_rng(0)
    mos = generator.uniform(0.2, 0.9, 900)
    scores = mos + generator.normal(0, 0.1, 900)
    table = pd.DataFrame({"image": [f"{i}.jpg" for i in range(900)], "mos": mos, "score": scores, "quality": np.nan})
    report = evaluation_report(table, "test", "")
    report |= dict.fromkeys(("controls", "checkpoint", "labels", "split_rule", "notes")) | {
        "failures": [{"image": "a.jpg", "error": "a.jpg: <truncated>"}]
    }
    thumbnail = "data:image/jpeg;base64," + "A" * 9000  # 160 pixels of noise take 6.6 kB
    write_html_report(
        tmp_path / "r.html", report, table, [thumbnail] * 900, {"best": [1], "worst": []}, None, {"a": "b"}
    )
    assert os.path.getsize(tmp_path / "r.html") < 16e6  # forty cards of 0.4 MB are to come
    assert "a.jpg: &lt;truncated&gt;" in (tmp_path / "r.html").read_text(encoding="utf-8")


def headline(path: Path) -> list[str]:
    """Return the large figures at the top of a page."""
    return re.findall(r'<div class="panel tile">.*?<b>(.*?)</b>', path.read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize(("mapped", "protocol"), [(True, "val_fitted"), (False, "raw")])
def test_the_headline_is_never_fitted_on_the_test_labels(mapped, protocol, tmp_path):
    generator = np.random.default_rng(0)
    mos = generator.uniform(0.2, 0.9, 40)
    scores = 3 * mos + generator.normal(0, 0.1, 40)
    table = pd.DataFrame({"image": [f"{i}.jpg" for i in range(40)], "mos": mos, "score": scores})
    table["quality"] = scores / 3.1 if mapped else np.nan
    report = evaluation_report(table, "test", "fitted on validation")
    report |= dict.fromkeys(("controls", "checkpoint", "labels", "split_rule", "failures", "notes"))
    write_html_report(tmp_path / "r.html", report, table, [None] * 40, {}, None, {})
    assert headline(tmp_path / "r.html") == [f"{report[protocol][name]:.3f}" for name in MEASURES]
    text = " ".join(Page((tmp_path / "r.html").read_text(encoding="utf-8")).words)
    assert "an upper bound, not a result" in text


def test_a_report_on_a_data_set_has_its_name_and_no_curve_through_a_part_of_its_images(tmp_path):
    mos = np.random.default_rng(0).uniform(0.2, 0.9, 40)
    table = pd.DataFrame({"image": [f"{i}.jpg" for i in range(40)], "mos": mos, "score": mos, "quality": mos})
    table.loc[0, "quality"] = np.nan
    report = evaluation_report(table, "test", "") | {"source": "BIQ2021"}
    report |= dict.fromkeys(("controls", "checkpoint", "labels", "split_rule", "failures", "notes"))
    write_html_report(tmp_path / "r.html", report, table, [None] * 40, {}, None, {})
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<h1>BIQ2021: test split, 40 images</h1>" in page
    assert re.search(r'"curve": null', page)


@pytest.mark.parametrize("is_grouped", [True, False])
def test_the_table_has_a_column_of_groups_only_if_there_are_groups(is_grouped, tmp_path):
    mos = np.linspace(0.2, 0.9, 20)
    table = pd.DataFrame({"image": [f"{i}.jpg" for i in range(20)], "mos": mos, "score": mos, "quality": np.nan})
    table["camera"] = ["0001", "NA"] * 10
    report = evaluation_report(table, "test", "", "camera" if is_grouped else None)
    report |= dict.fromkeys(("controls", "checkpoint", "labels", "split_rule", "failures")) | {"notes": ["<b>note</b>"]}
    write_html_report(tmp_path / "r.html", report, table, [None] * 20, {}, None, {})
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    page = Page(text)
    assert ('<button type="button">camera</button>' in text) == is_grouped
    assert '<button type="button">group</button>' not in text
    assert page.data["group"] == ("camera" if is_grouped else None)
    assert [image["group"] for image in page.data["images"]][:2] == (["0001", "NA"] if is_grouped else [None, None])
    assert "Note: <b>note</b>" in page.words


@pytest.mark.slow
class TestInABrowser:
    """With Chromium on the machine: no error, no request, and every tool does what it says."""

    @pytest.fixture(
        params=[("light", 1280), ("dark", 1280), ("light", 390)], ids=lambda given: f"{given[0]}-{given[1]}"
    )
    def opened(self, request, browser, report):
        scheme, width = request.param
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        faults, requests = watch(page)
        page.goto(report.as_uri())
        page.wait_for_selector("#scatter .points path")
        yield page
        page.close()
        assert faults == []
        assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]

    def test_a_point_shows_its_name_and_opens_its_card(self, opened):
        point = opened.locator("#scatter .points path").nth(5)
        point.scroll_into_view_if_needed()
        box = point.bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        opened.mouse.move(*middle)
        tip = opened.locator("#tip")
        tip.wait_for(state="visible")
        name = tip.locator("strong").inner_text()
        assert tip.locator("img").get_attribute("src").startswith("data:image/jpeg")
        opened.mouse.click(*middle)
        assert opened.locator("#dialog strong").first.inner_text() == name
        opened.locator("#dialog .close").click()
        assert not opened.locator("#dialog").is_visible()

    def test_the_tool_bar_is_shown_on_hover_and_covers_neither_legend_nor_points(self, opened):
        bar, legend = opened.locator("#scatter .modebar"), opened.locator("#scatter .legend .bg").first
        opacity = "+getComputedStyle(document.querySelector('#scatter .modebar-group')).opacity"
        opened.mouse.move(0, 0)
        wait_until(opened, f"{opacity} === 0")
        opened.locator("#scatter").hover()
        wait_until(opened, f"{opacity} > 0.5")
        box = bar.bounding_box()
        bottom = box["y"] + box["height"]
        assert bottom <= legend.bounding_box()["y"]
        tops = "points => points.map(point => point.getBoundingClientRect().top)"
        assert bottom <= min(opened.locator("#scatter .points path").evaluate_all(tops)) + 1

    def test_the_table_sorts_and_searches(self, opened):
        def column(number: int) -> list[str]:
            return opened.locator(f"#table tbody td:nth-child({number})").all_inner_texts()

        for expected in (sorted, lambda values: sorted(values, reverse=True)):
            opened.locator("#table th button", has_text="MOS").first.click()
            values = [float(text) for text in column(2)]
            assert values == expected(values)
        everything = len(values)
        opened.locator("#search").fill("ONERROR")
        assert column(1) == [EVIL]
        assert opened.locator("#count").inner_text() == f"1 of {everything}"
        opened.locator("#table tbody button").click()
        assert opened.locator("#dialog strong").first.inner_text() == EVIL

    def test_the_page_fits_its_width_and_follows_the_scheme(self, opened):
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
        dark = opened.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
        brightness = opened.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
        assert (brightness < 60) == dark
        opened.set_viewport_size({"width": 360, "height": 800})
        wait_until(opened, "document.documentElement.scrollWidth <= innerWidth")  # the plots follow

    def test_maps_can_be_hidden(self, opened):
        quality_map = opened.locator("img.map").first
        assert quality_map.is_visible()
        opened.locator("#maps").uncheck()
        assert not quality_map.is_visible()
