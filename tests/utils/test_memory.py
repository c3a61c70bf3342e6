"""Freed memory stays with the process, unless its user has decided otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import resource, sys
import torch
from utils.memory import keep_freed_memory
print(keep_freed_memory())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(20_000_000)  # 80 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(), faults()
print(faults())
"""


def run(**environment: str) -> tuple[str, int]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    words = [sys.executable, "-c", CODE]
    root = Path(__file__).parents[2]
    output = subprocess.run(words, capture_output=True, text=True, check=True, cwd=root, env=kept | environment).stdout
    answer, faults = output.split()
    return answer, int(faults)


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", ()), reason="glibc only")
def test_arrays_reuse_the_pages_of_freed_ones():
    answer, faults = run()
    assert answer == "True"
    assert faults < 2_000  # 100,000 pages of 4 KB otherwise


def test_settings_of_the_user_have_precedence():
    assert run(MALLOC_ARENA_MAX="8")[0] == "False"
