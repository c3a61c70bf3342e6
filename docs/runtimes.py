"""Score twelve photographs in four ways, and time each: PyTorch, and onnxruntime in Python, in Node and in Chromium.

    python docs/runtimes.py

The model of the repository is exported with `--half`, and reads decoded photographs of 20 x 20 to 6000 x 4000 pixels.
It needs requirements-dev.txt, npm and Chromium. The runtimes take turns, and every time is the median of their rounds.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "docs" / "scorer"))

from build import HERE as SCORER  # noqa: E402
from build import install_packages, serve  # noqa: E402

from utils.checkpoint import OWN_MODEL, load_model  # noqa: E402
from utils.command_line import entry_point, integer  # noqa: E402
from utils.errors import RunError  # noqa: E402
from utils.export.onnx_graph import CHECKED_SIZES, cut_photographs, export_onnx  # noqa: E402
from utils.export.onnx_runtime import open_session  # noqa: E402
from utils.loaded_model import LoadedModel  # noqa: E402

Results = list[dict]  # name, score, quality and seconds of each photograph
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
IN_NODE = """
import * as ort from "onnxruntime-node";
import {readFile} from "node:fs/promises";
import {scoreAll} from "./runtimes.mjs";
const photographs = JSON.parse(await readFile("photographs.json", "utf8"));
console.log(JSON.stringify(await scoreAll(ort, photographs, async name => new Uint8Array(await readFile(name)))));
"""
IN_BROWSER = """async () => {
    const ort = await import("/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs");
    const {scoreAll} = await import("/runtimes.mjs");
    ort.env.wasm.numThreads = crossOriginIsolated ? navigator.hardwareConcurrency : 1;
    const read = async name => new Uint8Array(await (await fetch("/" + name)).arrayBuffer());
    return scoreAll(ort, await (await fetch("/photographs.json")).json(), read);
}"""


@contextmanager
def launched_browser() -> Iterator:
    """Launch Chromium, driven by playwright, and close it.

    Raises:
        RunError: one of them is missing.
    """
    try:
        from playwright.sync_api import sync_playwright  # not needed for the other functions
    except ImportError as error:
        raise RunError("playwright is missing: pip install -r requirements-dev.txt") from error
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if binary is None:
        raise RunError("Chromium is missing (Debian: apt-get install chromium)")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield browser
        browser.close()


def write_photographs(folder: Path, sizes: tuple[tuple[int, int], ...]) -> dict[str, np.ndarray]:
    """Write decoded photographs, cut out of one rendered scene, and their list; return them by file name."""
    photographs = {"{1}x{0}.rgb".format(*photograph.shape): photograph for photograph in cut_photographs(sizes)}
    for name, photograph in photographs.items():
        photograph.tofile(folder / name)
    listed = [{"name": name, "height": p.shape[0], "width": p.shape[1]} for name, p in photographs.items()]
    (folder / "photographs.json").write_text(json.dumps(listed))
    return photographs


def timed(photographs: dict[str, np.ndarray], score: Callable[[np.ndarray], tuple[float, float]]) -> Results:
    """Return what a function makes of photographs, called twice on each; the second call is timed."""
    results = []
    for name, photograph in photographs.items():
        score(photograph)
        began = time.perf_counter()
        values = score(photograph)
        seconds = time.perf_counter() - began
        results.append({"name": name, "score": values[0], "quality": values[1], "seconds": seconds})
    return results


def in_torch(photographs: dict[str, np.ndarray], loaded: LoadedModel) -> Results:
    """Score with PyTorch, as predict.py does."""

    def score(photograph: np.ndarray) -> tuple[float, float]:
        result = loaded.score(photograph)
        return result.score, result.quality

    return timed(photographs, score)


def in_python(photographs: dict[str, np.ndarray], folder: Path) -> Results:
    """Score with onnxruntime in Python."""
    session = open_session(folder / "model.onnx")

    def score(photograph: np.ndarray) -> tuple[float, float]:
        score, quality = session.run(["score", "quality"], {"photograph": photograph})
        return score[0], quality[0]

    return timed(photographs, score)


def in_node(folder: Path) -> Results:
    """Score with onnxruntime-node."""
    command = ["node", "--input-type=module", "--eval", IN_NODE]
    return json.loads(subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout)


def in_browser(browser, folder: Path) -> Results:
    """Score with onnxruntime-web in a browser of playwright's; the folder's server lets it use several threads."""
    server = serve(folder, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page()
    try:
        page.goto(f"http://127.0.0.1:{server.server_port}/photographs.json")
        return page.evaluate(IN_BROWSER)
    finally:
        page.close()
        server.shutdown()
        server.server_close()


def prepare(folder: Path, loaded: LoadedModel) -> None:
    """Put npm's packages, runtimes.mjs and the exported model into a folder.

    Raises:
        RunError: npm is missing or fails.
    """
    for name in ("package.json", "package-lock.json", "runtimes.mjs"):
        shutil.copy(SCORER / name, folder)
    install_packages(folder)
    export_onnx(loaded, folder / "model.onnx", half=True)


def compare(
    browser, folder: Path, loaded: LoadedModel, sizes: tuple[tuple[int, int], ...], rounds: int
) -> dict[str, list[Results]]:
    """Return what each runtime makes of each photograph, in each of some rounds, in a prepared folder."""
    photographs = write_photographs(folder, sizes)
    runtimes = {
        "PyTorch": lambda: in_torch(photographs, loaded),
        "Python": lambda: in_python(photographs, folder),
        "Node": lambda: in_node(folder),
        "Chromium": lambda: in_browser(browser, folder),
    }
    results = {name: [] for name in runtimes}
    for _ in range(rounds):
        for name, runtime in runtimes.items():
            results[name].append(runtime())
    return results


def largest_difference(results: list[Results], expected: list[Results]) -> float:
    """Return the largest difference of score or quality of any photograph, in any round."""
    pairs = [
        (mine[name], theirs[name])
        for round_, first in zip(results, expected, strict=True)
        for mine, theirs in zip(round_, first, strict=True)
        for name in ("score", "quality")
    ]
    return float(np.abs(np.diff(pairs, axis=1)).max())


def table_of(results: dict[str, list[Results]]) -> str:
    """Return a Markdown table: the score and the time of each photograph, and how much the scores differ."""

    def milliseconds(name: str, position: int) -> float:
        return 1000 * statistics.median(round_[position]["seconds"] for round_ in results[name])

    names = list(results)
    lines = [
        "| pixels | quality | " + " | ".join(f"{name}, ms" for name in names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for position, photograph in enumerate(results["PyTorch"][0]):
        times = " | ".join(f"{milliseconds(name, position):.0f}" for name in names)
        size = photograph["name"].removesuffix(".rgb").replace("x", " x ")
        lines.append(f"| {size} | {photograph['quality']:.3f} | {times} |")
    differences = [f"{largest_difference(results[name], results['PyTorch']):.1g}" for name in names[1:]]
    lines.append("| largest difference of score or quality | | | " + " | ".join(differences) + " |")
    return "\n".join(lines)


@entry_point
def main(args: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--rounds", type=integer(1), default=3, metavar="N", help="of which times are the medians (default: 3)"
    )
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as name, launched_browser() as browser:
        folder, loaded = Path(name), load_model(OWN_MODEL)
        prepare(folder, loaded)
        print(table_of(compare(browser, folder, loaded, CHECKED_SIZES, options.rounds)))
        print(f"\nmodel.onnx: {(folder / 'model.onnx').stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
