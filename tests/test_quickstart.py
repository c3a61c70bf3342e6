"""docs/quickstart.ipynb runs from its first cell to its last, and what it says of the command line holds."""

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from docs_scripts import DOCS, parse_command
from nbclient import NotebookClient

NOTEBOOK = DOCS / "quickstart.ipynb"
CELLS_MAY_TAKE = 900  # s
SHORTER = {"--scenes 40": "--scenes 8", "train.py": "train.py --num_epochs 2", "--draws 16": "--draws 2"}


@pytest.fixture(scope="module")
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def sources(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def test_it_is_valid_and_was_run_in_order(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert "Traceback" not in NOTEBOOK.read_text()


def test_its_outputs_are_small_and_name_no_folder_of_whoever_ran_it(notebook):
    assert NOTEBOOK.stat().st_size < 1_000_000
    assert not re.search(r"/(home|root|work|Users)/", NOTEBOOK.read_text())


def test_its_command_lines_and_links_exist(notebook):
    lines = re.sub(r"\\\n", " ", "\n".join(sources(notebook, "code")))
    found = re.findall(r"python ((?:train|test|prepare)\.py[^|\n]*)", lines)
    assert len(found) == 4
    for command in found:
        parse_command(command)
    for target in re.findall(r"\]\(([^)]+)\)", "\n".join(sources(notebook, "markdown"))):
        assert (DOCS / target).is_file(), target


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


@pytest.mark.slow
def test_it_runs(notebook, tmp_path):
    clone = tmp_path / "UIQA"  # what a reader has: the files of the repository, and nothing that was made in it
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=DOCS.parent,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in listed.strip("\0").split("\0"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DOCS.parent / name, clone / name)
    before = files_of(clone)
    fresh = nbformat.read(NOTEBOOK, as_version=4)
    for cell in fresh.cells:
        for longer, shorter in SHORTER.items():
            cell.source = cell.source.replace(longer, shorter)
    NotebookClient(fresh, timeout=CELLS_MAY_TAKE, resources={"metadata": {"path": str(clone / "docs")}}).execute()
    outputs = [output for cell in fresh.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "4 of 4 images scored by ckpts/lite.safetensors" in printed
    assert re.search(r"^val-fitted +-?\d\.\d{4}", printed, re.MULTILINE)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2  # the map and the plot
    assert files_of(clone) == before  # a notebook that is only tried leaves a clone as it was
