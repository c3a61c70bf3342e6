"""`pip install .` is answered in one line."""

import runpy
from pathlib import Path

import pytest


def test_installing_the_repository_says_how_it_is_used():
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(Path(__file__).parent.parent / "setup.py"), run_name="__main__")
    assert "pip install -r requirements.txt" in ended.value.code
    assert "\n" not in ended.value.code
