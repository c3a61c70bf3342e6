"""What several test files share: a tiny data set, a photograph, a trained run."""

import contextlib
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from docs_scripts import load_script
from PIL import Image

import export
import train
from data.synthetic import make_synthetic_dataset
from data.views import ViewSpec
from models import build_model
from utils.calibration import Calibration
from utils.checkpoint import load_model
from utils.errors import RunError
from utils.export import onnx_graph
from utils.reporting import measures
from utils.weights_file import write_weights_file


@pytest.fixture(autouse=True)
def same_threads():
    """Give back the number of threads that a test changed: the order of a sum's terms depends on it."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def few_resamples():
    """Reports take their intervals from a tenth of the resamples: the tests compare no digit of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "RESAMPLES", 100)
        yield


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> Path:
    """Four scenes of 320 x 240, in UHD-IQA's layout: 12 training, 6 validation and 6 test images."""
    folder = tmp_path_factory.mktemp("tiny")
    make_synthetic_dataset(folder, scenes=4, seed=3, workers=1, height=240, width=320)
    return folder


@pytest.fixture(scope="session")
def tiny_model_options() -> list[str]:
    """Options of a three-branch model that trains in a second on 64-pixel views."""
    return [
        "--backbone=timm:test_resnet",
        "--init=scratch",
        "--n_fragment=2",
        "--resize=72",
        "--crop_size=64",
        "--salient_patch_dimension=64",
        "--mos_scale=standardise",
        "--batch_size=4",
        "--lr=0.001",
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of exported models on one process of pytest-xdist: another would export them again."""
    for item in items:
        if {"exported", "exported_whole"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("exported"))


@dataclass(frozen=True)
class TrainedRun:
    """A finished run of train.py and where it left things."""

    dataset: Path
    snapshots: Path
    logs: Path
    output: str

    @property
    def best(self) -> Path:
        return self.snapshots / "best.pth"


@pytest.fixture(scope="session")
def trained(tiny_dataset, tiny_model_options, tmp_path_factory) -> TrainedRun:
    """Two epochs on the tiny data set."""
    folder = tmp_path_factory.mktemp("trained")
    places = [f"--database_dir={tiny_dataset}", f"--snapshot={folder}/ckpts", f"--logdir={folder}/logs", "--run=tiny"]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = train.main([*tiny_model_options, *places, "--num_epochs=2", "--num_workers=0", "--device=cpu"])
    assert code == 0
    return TrainedRun(tiny_dataset, folder / "ckpts/tiny", folder / "logs/tiny", output.getvalue())


@pytest.fixture
def photograph() -> np.ndarray:
    """A (270, 480, 3) uint8 picture with structure at every scale."""
    generator = np.random.default_rng(11)
    coarse = generator.integers(40, 216, (9, 16, 3)).repeat(30, axis=0).repeat(30, axis=1)
    return (coarse + generator.normal(0, 12, coarse.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def uhd_iqa_dir() -> Path:
    """The folder with UHD-IQA's real label files; tests that want it are skipped without it."""
    if "UHD_IQA_DIR" not in os.environ:
        pytest.skip("set UHD_IQA_DIR to a folder with UHD-IQA's label files")
    return Path(os.environ["UHD_IQA_DIR"])


@dataclass(frozen=True)
class ExportedModel:
    """A checkpoint, and what export.py made of it and printed."""

    checkpoint: Path
    onnx: Path
    output: str


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> ExportedModel:
    """A three-branch model with random weights on 64-pixel views, as a checkpoint and as ONNX."""
    torch.manual_seed(5)
    spec = ViewSpec(resize=72, crop_size=64, n_fragment=2, salient_patch_dimension=64)
    model = build_model("UIQA", backbone="timm:test_resnet", view_sizes=spec.view_sizes)
    content = {
        "model": {"name": "UIQA", "backbone": "timm:test_resnet"},
        "state_dict": model.state_dict(),
        "normalisation": model.normalisation,
        "view_spec": spec.to_dict(),
        "mos_scale": {"mean": 0.7, "sd": 0.5},
        "calibration": Calibration((0.9, 0.2, 0.5, 0.1), "validation").to_dict(),
        "branch_means": {"aesthetic": 0.1, "distortion": -0.2, "salient": 0.3},
        "options": {"run": "tiny", "lr": 1e-3},
    }
    folder = tmp_path_factory.mktemp("exported")
    write_weights_file(folder / "tiny.pth", content)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = export.main([str(folder / "tiny.pth"), "--format=onnx", "--input=views"])
    assert code == 0, output.getvalue()
    return ExportedModel(folder / "tiny.pth", folder / "tiny.onnx", output.getvalue())


@pytest.fixture(scope="session")
def exported_whole(exported, tmp_path_factory) -> Path:
    """The same model as an ONNX file that reads photographs, checked on three sizes instead of twelve."""
    out = tmp_path_factory.mktemp("whole") / "whole.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graph, "CHECKED_SIZES", ((20, 20), (64, 90), (300, 200)))
        assert export.main([str(exported.checkpoint), "--format=onnx", f"--out={out}"]) == 0
    return out


@pytest.fixture
def command(tiny_dataset, tiny_model_options, tmp_path):
    """Return a function that makes the command line of a tiny training in a fresh folder."""

    def make(run: str, *more: str, folder=tiny_dataset) -> list[str]:
        places = [
            f"--database_dir={folder}",
            f"--snapshot={tmp_path}/ckpts",
            f"--logdir={tmp_path}/logs",
            f"--run={run}",
        ]
        return [*tiny_model_options, *places, "--num_epochs=1", "--num_workers=0", "--device=cpu", *more]

    return make


@pytest.fixture
def photographs(tmp_path, photograph):
    folder = tmp_path / "photographs"
    (folder / "below").mkdir(parents=True)
    for number, name in enumerate(["10.png", "2.png", "below/3.jpg"]):
        Image.fromarray(np.roll(photograph, 40 * number, axis=1)).save(folder / name)
    (folder / "notes.txt").write_text("no photograph")
    return folder


@pytest.fixture(scope="session")
def browser():
    """Chromium, driven by playwright; tests are skipped on a machine without it."""
    try:
        with load_script("runtimes").launched_browser() as browser:
            yield browser
    except RunError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def npm() -> str:
    """npm; tests are skipped on a machine without it."""
    path = shutil.which("npm")
    if path is None:
        pytest.skip("no npm on this machine (Debian: apt-get install npm)")
    return path


@pytest.fixture(scope="session")
def javascript(npm, tmp_path_factory) -> Path:
    """A folder with npm's packages and `model.onnx`, the model of the repository, checked on one size only."""
    folder = tmp_path_factory.mktemp("javascript")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graph, "CHECKED_SIZES", ((300, 400),))
        load_script("runtimes").prepare(folder, load_model())
    return folder
