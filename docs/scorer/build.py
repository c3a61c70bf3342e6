"""Build the page that scores photographs in the browser, and serve it on this computer alone.

    make scorer
    python docs/scorer/build.py --no_serve

The page is a folder of static files, docs/scorer/dist/, that works from any web server and under any path. Where the
server sends the two headers that `Handler` sends, the browser computes with several threads.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from data.files import write_json  # noqa: E402
from utils.checkpoint import OWN_MODEL, load_model  # noqa: E402
from utils.command_line import entry_point, integer  # noqa: E402
from utils.errors import RunError  # noqa: E402
from utils.export import onnx_graph  # noqa: E402
from utils.export.onnx_graph import export_onnx  # noqa: E402
from utils.loaded_model import LoadedModel  # noqa: E402

PAGE = ("index.html", "style.css", "app.js", "colours.js", "files.js", "worker.js")
# Of onnxruntime-web, and its names on the page: nginx sends .mjs as a type that browsers do not run.
RUNTIME = {
    "ort.wasm.min.mjs": "ort.wasm.min.js",
    "ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
SCALE = (0.0, 1.0)  # of BIQ2021's opinions, on which the model scores


def install_packages(folder: Path, *options: str) -> None:
    """Install the packages of a folder's package-lock.json with npm.

    Raises:
        RunError: npm is missing or fails.
    """
    if shutil.which("npm") is None:
        raise RunError("npm is missing (Debian: apt-get install npm)")
    command = ["npm", "ci", *options, "--no-audit", "--no-fund", "--ignore-scripts"]
    finished = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if finished.returncode:
        raise RunError(f"npm ci failed in {folder}: {finished.stderr.strip()}")


def build(dist: Path) -> None:
    """Write the page; packages are installed and the model is exported again only if what they come from is newer.

    Raises:
        RunError: npm is missing or fails.
    """
    if is_older(HERE / "node_modules" / ".package-lock.json", [HERE / "package-lock.json"]):
        install_packages(HERE, "--omit=dev")
    dist.mkdir(parents=True, exist_ok=True)
    for name in PAGE:
        shutil.copy(HERE / name, dist)
    for packaged, name in RUNTIME.items():
        shutil.copy(HERE / "node_modules" / "onnxruntime-web" / "dist" / packaged, dist / name)
    loaded, model = load_model(OWN_MODEL), dist / "model.onnx"
    if is_older(model, [OWN_MODEL, *Path(onnx_graph.__file__).parent.glob("*.py")]):
        export_onnx(loaded, model, half=True)
    write_json(dist / "model.json", describe(loaded))
    print(f"{dist}: {sum(path.stat().st_size for path in dist.iterdir()) / 1e6:.0f} MB")


def is_older(made: Path, sources: Iterable[Path]) -> bool:
    """Return whether a file is missing, or older than one of those that it is made from."""
    return not made.is_file() or made.stat().st_mtime < max(source.stat().st_mtime for source in sources)


def describe(loaded: LoadedModel) -> dict:
    """Return what the page has to know of a model."""
    spec = loaded.view_spec
    return {
        "scale": SCALE,
        "view_names": list(spec.views),
        "branch_means": loaded.branch_means,
        "n_fragment": spec.n_fragment,
        "mosaic": spec.n_fragment * spec.patch_size,
        "side": max(spec.resize, *spec.view_sizes.values()),  # to which a shorter side is enlarged
    }


class Handler(SimpleHTTPRequestHandler):
    """Serves files with the headers that let a page use several threads, and without caching."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }

    def end_headers(self) -> None:
        """Add the headers."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *message: object) -> None:
        """Print nothing."""


def serve(dist: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of the page on the loopback interface; port 0 takes a free one."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=dist))


@entry_point
def main(args: list[str] | None = None) -> int:
    """Build the page and serve it until Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dist", type=Path, default=HERE / "dist", metavar="DIR", help="the page's folder")
    parser.add_argument("--port", type=integer(0, 65535), default=8000, help="of the server (default: 8000)")
    parser.add_argument("--no_serve", action="store_true", help="only build")
    options = parser.parse_args(args)
    build(options.dist)
    if options.no_serve:
        return 0
    try:
        server = serve(options.dist, options.port)
    except OSError as error:
        raise RunError(f"port {options.port} cannot be used ({error}); choose another with --port") from error
    print(f"Open http://127.0.0.1:{server.server_port}/ (Ctrl-C stops the server)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
