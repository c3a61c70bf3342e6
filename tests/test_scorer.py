"""The page that scores photographs in the browser: the same scores as Python's, and nothing leaves it."""

import base64
import csv
import http.server
import json
import re
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from browser_pages import watch
from docs_scripts import DOCS, load_script
from PIL import Image

from data.synthetic import render_scene
from utils.checkpoint import load_model
from utils.export import onnx_graph

SCORER = DOCS / "scorer"
TOLERANCE = 2e-3
ORIENTATION, QUARTER_TURN = 274, 6
ROTATED = "turned <img src=x onerror=alert(1)>.jpg"


@pytest.fixture(scope="module")
def build():
    return load_script("scorer/build")


def test_the_page_has_all_its_parts_and_asks_nobody_else(build):
    for name in build.PAGE:
        text = (SCORER / name).read_text()
        assert "http:" not in text
        assert "https:" not in text
        for used in re.findall(r"""(?:from|src=|href=|URL\()\s*["']\.?/?([\w.-]+\.(?:m?js|css|onnx|json))["']""", text):
            assert used in (*build.PAGE, *build.RUNTIME.values(), "model.onnx", "model.json")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', (SCORER / "index.html").read_text()).group(1)
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy


def test_the_versions_of_its_packages_are_locked():
    wanted = json.loads((SCORER / "package.json").read_text())
    locked = json.loads((SCORER / "package-lock.json").read_text())["packages"]
    for name, version in (wanted["dependencies"] | wanted["devDependencies"]).items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert locked[f"node_modules/{name}"]["version"] == version
    assert all("integrity" in package for path, package in locked.items() if path)


def test_the_page_knows_the_model(build):
    loaded = load_model()
    described = build.describe(loaded)
    assert described["view_names"] == list(loaded.model.view_names)
    assert described["branch_means"] == loaded.branch_means
    assert described["mosaic"] == loaded.view_spec.view_sizes["distortion"]


def test_the_server_is_for_this_computer_alone_and_isolates_the_page(build, tmp_path):
    (tmp_path / "index.html").write_text("page")
    server = build.serve(tmp_path, 0)
    assert server.server_address[0] == "127.0.0.1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", "/")
    response = connection.getresponse()
    assert response.read() == b"page"
    assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """A photograph, one whose file says that it is turned, and one that is cut short."""
    folder = tmp_path_factory.mktemp("photographs")
    scene = render_scene(np.random.default_rng(5), 700, 1000)
    Image.fromarray(scene).save(folder / "plain.jpg", quality=92)
    exif = Image.Exif()
    exif[ORIENTATION] = QUARTER_TURN
    Image.fromarray(np.rot90(scene[:, :500])).save(folder / ROTATED, quality=92, exif=exif)
    (folder / "broken.jpg").write_bytes((folder / "plain.jpg").read_bytes()[:30_000])
    return folder


@pytest.fixture(scope="module")
def odd_photographs(photographs, tmp_path_factory) -> Path:
    """Photographs that browsers read otherwise than Python, or not, and a file that is none."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "below").mkdir()
    (folder / ".thumbnails").mkdir()
    (folder / "notes.txt").write_text("not a photograph")
    whole = (photographs / "plain.jpg").read_bytes()
    (folder / ".thumbnails" / "small.jpg").write_bytes(whole)
    (folder / "uiqa_report_0").mkdir()
    (folder / "uiqa_report_0" / "small.jpg").write_bytes(whole)
    Image.new("L", (9, 9)).save(folder / "moving.gif")
    for name in ("film behind.jpg", "below/film behind.jpg"):
        (folder / name).write_bytes(whole + bytes(200_000))
    scene = render_scene(np.random.default_rng(6), 300, 400)
    exif = Image.Exif()
    exif[ORIENTATION] = QUARTER_TURN
    Image.fromarray(scene).save(folder / "turned.webp", quality=90, exif=exif)
    Image.fromarray(np.dstack([scene, np.full(scene.shape[:2], 254, np.uint8)])).save(folder / "glass.png")
    Image.new("RGB", (70_000, 300)).save(folder / "long.png")
    Image.new("RGB", (20_000, 4)).save(folder / "strip.png")
    (folder / "cut.png").write_bytes((folder / "glass.png").read_bytes()[:-50])
    return folder


@pytest.fixture(scope="module")
def expected(photographs) -> dict:
    loaded = load_model()
    return {name: loaded.score(photographs / name) for name in ("plain.jpg", ROTATED)}


class PlainServer(http.server.SimpleHTTPRequestHandler):
    """Any static server: without the headers that allow threads, and with nginx's type of a module."""

    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {".mjs": "application/octet-stream"}

    def log_message(self, *message: object) -> None:
        """Print nothing."""


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
class TestInABrowser:
    """With Chromium and npm on the machine."""

    @pytest.fixture(scope="class")
    @classmethod
    def site(cls, build, npm, tmp_path_factory):
        """The built page, in a folder below the root of a server."""
        root = tmp_path_factory.mktemp("site")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnx_graph, "CHECKED_SIZES", ((300, 400),))
            build.build(root / "below" / "scorer")
        return root

    @pytest.fixture(
        params=[("isolated", "light", 1280), ("plain", "dark", 390)], ids=lambda given: f"{given[0]}-{given[1]}"
    )
    def opened(self, request, browser, build, site):
        """The page, loaded; afterwards there was no message on its console and no request since it was ready."""
        server_kind, scheme, width = request.param
        if server_kind == "isolated":
            server = build.serve(site, 0)
        else:  # any static server, without the headers that allow threads
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(PlainServer, directory=site))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        faults, requests = watch(page)
        page.goto(f"http://127.0.0.1:{server.server_port}/below/scorer/")
        page.locator("#state", has_text="Ready").wait_for(timeout=120_000)
        assert ("one thread" in page.inner_text("#state")) == (server_kind == "plain")
        requests.clear()
        yield page
        page.close()
        server.shutdown()
        server.server_close()
        assert faults == []
        assert [url for url in requests if not url.startswith(("blob:", "data:"))] == []

    @staticmethod
    def drop(page, folder: Path, count: str = "3 of 3 done, 1 failed") -> None:
        files = [
            {"name": path.name, "content": base64.b64encode(path.read_bytes()).decode()}
            for path in sorted(folder.iterdir())
        ]
        transfer = page.evaluate_handle(
            """files => {
                const transfer = new DataTransfer();
                for (const {name, content} of files) {
                    transfer.items.add(new File([Uint8Array.from(atob(content), c => c.charCodeAt(0))], name));
                }
                return transfer;
            }""",
            files,
        )
        page.dispatch_event("body", "drop", {"dataTransfer": transfer})
        page.locator("#count", has_text=count).wait_for(timeout=120_000)

    @staticmethod
    def csv_rows(page, folder: Path) -> list[dict]:
        with page.expect_download() as download:
            page.click("#csv")
        download.value.save_as(folder / "scores.csv")
        with (folder / "scores.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def test_dropped_photographs_get_pythons_scores(self, opened, photographs, expected, tmp_path):
        self.drop(opened, photographs)
        assert opened.locator("#failures div").all_inner_texts() == ["broken.jpg: the file is cut short"]
        rows = {row["image"]: row for row in self.csv_rows(opened, tmp_path)}
        assert rows["broken.jpg"]["error"] == "the file is cut short"
        for name, result in expected.items():
            assert float(rows[name]["score"]) == pytest.approx(result.score, abs=TOLERANCE)
            assert float(rows[name]["quality"]) == pytest.approx(result.quality, abs=TOLERANCE)
            for view, points in result.points.items():
                assert float(rows[name][f"points_{view}"]) == pytest.approx(points, abs=TOLERANCE)

    def test_cards_are_sorted_filtered_and_opened(self, opened, photographs, expected):
        expect = pytest.importorskip("playwright.sync_api").expect  # which waits until the page has followed
        self.drop(opened, photographs)
        names = opened.locator(".card .name")
        opened.select_option("#sort", "worst")
        worst_first = sorted(expected, key=lambda name: expected[name].quality)
        expect(names).to_have_text(worst_first)
        opened.fill("#search", "ONERROR")
        expect(names).to_have_text([ROTATED])  # markup in a name is text
        opened.fill("#search", "")
        expect(names).to_have_text(worst_first)
        opened.locator(".card").first.focus()
        opened.keyboard.press("Enter")
        opened.locator("#detail-views figure").nth(2).wait_for(timeout=60_000)
        assert opened.inner_text("#detail-name") == worst_first[0]
        maps = opened.locator("#detail-picture canvas")
        assert maps.is_visible()
        opened.keyboard.press("m")
        assert maps.count() == 0
        opened.keyboard.press("ArrowRight")
        assert opened.inner_text("#detail-name") == worst_first[1]
        opened.keyboard.press("Escape")
        assert not opened.locator("#detail").is_visible()

    @pytest.mark.parametrize("opened", [("isolated", "light", 1280)], indirect=True)
    def test_a_folder_gives_pythons_scores_or_says_why_not(self, opened, odd_photographs, tmp_path):
        opened.set_input_files("#folder", odd_photographs)
        count = opened.locator("#count", has_text="7 of 7 done, 4 failed, 2 other files ignored")
        count.wait_for(timeout=120_000)
        rows = {row["image"].partition("/")[2]: row for row in self.csv_rows(opened, tmp_path)}
        assert list(rows) == sorted(rows)
        loaded = load_model()
        for name in ("below/film behind.jpg", "film behind.jpg", "turned.webp"):
            quality = loaded.score(odd_photographs / name).quality
            assert float(rows[name]["quality"]) == pytest.approx(quality, abs=TOLERANCE)
        assert "transparent parts" in rows["glass.png"]["error"]
        assert rows["long.png"]["error"] == "70000 x 300 pixels: a side is too long for this browser"
        assert "20000 x 4 pixels: too narrow to be enlarged" in rows["strip.png"]["error"]
        assert rows["cut.png"]["error"] == "the file is cut short"

    @pytest.mark.parametrize("opened", [("isolated", "light", 1280)], indirect=True)
    def test_the_keyboard_stays_on_its_card_while_more_are_scored(self, opened, photographs, expected):
        expect = pytest.importorskip("playwright.sync_api").expect  # which waits until the page has followed
        self.drop(opened, photographs)
        opened.select_option("#sort", "worst")
        expect(opened.locator(".card .name")).to_have_text(sorted(expected, key=lambda name: expected[name].quality))
        opened.locator(".card").last.focus()
        focused = opened.evaluate("document.activeElement.ariaLabel")
        self.drop(opened, photographs, "6 of 6 done, 2 failed")
        assert opened.evaluate("document.activeElement.ariaLabel") == focused
        assert focused.endswith(opened.locator(".card b").nth(2).inner_text())  # another place, as there are two more

    @pytest.mark.parametrize("opened", [("plain", "dark", 390)], indirect=True)
    def test_a_press_while_photographs_finish_opens_the_card(self, opened, photographs, expected):
        self.drop(opened, photographs)
        card = opened.locator(".card").last
        card.hover()
        name = card.locator(".name").inner_text()
        opened.mouse.down()
        self.drop(opened, photographs, "6 of 6 done, 2 failed")
        opened.mouse.up()
        opened.locator("#detail").wait_for()
        assert opened.inner_text("#detail-name") == name

    def test_the_whole_picture_of_a_card_is_seen(self, opened, photographs):
        self.drop(opened, photographs)
        cut = opened.locator(".card .stack").evaluate_all(
            """frames => frames.filter(frame => {
                const [outer, inner] = [frame, frame.querySelector("img")].map(part => part.getBoundingClientRect());
                return inner.height === 0 || inner.bottom > outer.bottom + 1 || inner.right > outer.right + 1;
            }).length"""
        )
        assert cut == 0

    def test_a_turned_photograph_is_shown_upright(self, opened, photographs):
        self.drop(opened, photographs)
        size = opened.locator(f'.card[aria-label^="{ROTATED[:6]}"] img').evaluate(
            "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
        )
        assert size[0] < size[1]

    def test_it_fits_its_width_and_follows_the_scheme(self, opened, photographs):
        self.drop(opened, photographs)
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
        dark = opened.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
        brightness = opened.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
        assert (brightness < 60) == dark

    def test_clearing_leaves_nothing_and_more_can_be_added(self, opened, photographs):
        self.drop(opened, photographs)
        opened.click("#clear")
        opened.locator("#results").wait_for(state="hidden")
        self.drop(opened, photographs)
        assert opened.locator(".card").count() == 2


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_the_example_in_javascript_gives_pythons_score(javascript, photographs, expected):
    (example,) = re.findall(r"```js\n(.*?)```", (DOCS / "deployment.md").read_text(), flags=re.DOTALL)
    (javascript / "score.mjs").write_text(example)
    shutil.copy(javascript / "model.onnx", javascript / "lite.onnx")
    for name, result in expected.items():
        shutil.copy(photographs / name, javascript / "photo.jpg")
        command = ["node", "score.mjs"]
        printed = subprocess.run(command, cwd=javascript, check=True, capture_output=True, text=True).stdout
        assert float(printed) == pytest.approx(result.quality, abs=TOLERANCE)
