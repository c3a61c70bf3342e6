"""A small data set and the command that packs it."""

import shutil
from pathlib import Path

import pytest

import prepare

CUT = ["--n_fragment=2", "--resize=72", "--crop_size=64", "--salient_patch_dimension=64"]


@pytest.fixture
def images(tiny_dataset, tmp_path) -> Path:
    """A copy of the tiny data set that a test may damage."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "images"))


@pytest.fixture
def command(images, tmp_path):
    def make(*more: str) -> list[str]:
        return ["pack", f"--database_dir={images}", f"--out={tmp_path}/pack", *CUT, "--num_workers=0", *more]

    return make


@pytest.fixture
def reference(command, tmp_path) -> dict[str, bytes]:
    """The files of a pack made without interruption."""
    assert prepare.main(command(f"--out={tmp_path}/reference")) == 0
    return {path.name: path.read_bytes() for path in (tmp_path / "reference").iterdir()}
