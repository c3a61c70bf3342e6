"""torch.hub: the model loads and scores in a process that knows nothing of this project."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hubconf
from utils.checkpoint import load_model

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "torch",
    "torchvision",
    "timm",
    "pandas",
    "numpy",
    "PIL",
    "scipy",
    "ptflops",
    "simplejpeg",
    "safetensors",
} | {*("yaml", "tqdm", "matplotlib", "plotly", "jinja2", "tensorboard", "onnxruntime", "ray")}
SCRIPT = """
import json, sys
import torch
assert "utils" not in sys.modules
root, checkpoint, photo = sys.argv[1:]
model = torch.hub.load(root, "uiqa", checkpoint=checkpoint, source="local")
assert root not in sys.path
alone, (listed, broken) = model.score(photo), model.score([photo, b""], maps=True)
imported = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({"scores": [alone.score, listed.score], "error": broken.error, "imported": imported}))
"""


@pytest.fixture(scope="module")
def output(exported, tmp_path_factory) -> dict:
    """What the script prints in another working directory, and the photograph's path."""
    folder = tmp_path_factory.mktemp("elsewhere")
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    Image.fromarray(noise).save(folder / "photo.png")
    words = [sys.executable, "-c", SCRIPT, str(ROOT), str(exported.checkpoint), "photo.png"]
    finished = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1]) | {"photo": folder / "photo.png"}


def test_the_model_scores_after_hub_has_left_the_import_path(output, exported):
    expected = load_model(exported.checkpoint).score(output["photo"]).score
    assert output["scores"] == pytest.approx([expected] * 2, abs=1e-5)
    assert "empty" in output["error"]


def test_hub_has_one_entry_point():
    assert [name for name, value in vars(hubconf).items() if callable(value) and not name.startswith("_")] == ["uiqa"]


def test_the_dependencies_are_the_packages_that_scoring_imports(output):
    assert set(output["imported"]) & PACKAGES - {"yaml"} == set(hubconf.dependencies)
