"""Hostile files: each ends in a result or in one clear error, within seconds, in bounded memory, and runs nothing."""

import subprocess
import sys

import pytest
from fuzzing import runner
from fuzzing.mutations import MARKER, ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and memory are read as Linux has them")

# How far reading may raise a process's memory, MB: the Swin-T that bare weights are tried on takes 110.
MEMORY_MB = 400


def check(tallies: dict[str, runner.Tally]) -> None:
    """Print the counts, and check that every file ended as it must."""
    for kind, tally in tallies.items():
        print(f"\n{kind}: {tally}", end="")
    for tally in tallies.values():
        assert not tally.unexpected, "\n".join([f"{len(tally.unexpected)} files:", *tally.unexpected[:20]])
        assert (tally.crashes, tally.hangs) == (0, 0)
        assert tally.results + tally.errors == tally.files
        assert min(tally.results, tally.errors) > 0  # files of which all are refused at once would try little
        assert tally.growth_mb < MEMORY_MB


def test_some_hostile_files_of_every_kind_end_in_a_result_or_one_clear_error():
    check(
        runner.run(
            {
                "images": range(200),
                "labels": range(0, 300, 3),
                "configs": range(0, 240, 3),
                "checkpoints": range(1, 330, 9),
            }
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "files"), [("images", 3600), ("checkpoints", 330), ("labels", 400), ("configs", 300)])
def test_hostile_files_end_in_a_result_or_one_clear_error(kind, files):
    check(runner.run({kind: range(files)}))


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_number_names_the_same_file_in_every_process(kind, tmp_path):
    kept = []
    for name in ("one", "other"):
        command = [sys.executable, "-m", "fuzzing", kind, "123", tmp_path / name]
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT / "tests", env={})
        kept.append((tmp_path / name).read_bytes())
    assert kept[0] == kept[1]


MISDEEDS = {
    "raise KeyError('k')": "KeyError: 'k'",
    "raise SystemExit(0)": "SystemExit: 0",
    "import os; os.system('true')": "ran code: os.system",
    "import subprocess; subprocess.run('true')": "ran code: subprocess.Popen",
    "open('x', 'w')": "ran code: open",
    "import socket; socket.create_connection(('127.0.0.1', 9))": "ran code: socket",
    "import ctypes; ctypes.CDLL(None).creat(bytes(marker), 0o600)": "the marker was made",
    "bytes(3 << 30)": "MemoryError",
    "import ctypes; ctypes.string_at(0)": "crashes: SIGSEGV",
    "import os; os._exit(3)": "crashes: exit code 3",
    "import time; time.sleep(60)": "hangs: it was stopped",
    "while True: pass": "hangs: it was stopped",
}


def test_what_no_file_may_do_is_noticed_and_the_next_file_is_read(tmp_path, monkeypatch):
    """The runner is tried on a child in which every other file does one of the MISDEEDS."""
    script = tmp_path / "child.py"
    script.write_text(
        f"""
import sys
from pathlib import Path
from fuzzing import runner

class Target:
    def __init__(self, folder):
        self.marker = folder / {MARKER!r}

    def prepare(self, number):
        def attempt():
            if number % 2 == 1:
                exec({list(MISDEEDS)!r}[number // 2], {{"marker": self.marker}})
            elif number == 2:
                b"x" * (100 << 20)
            return "result"
        return attempt

runner.KINDS["images"] = Target
runner.serve(Path(sys.argv[1]), sys.argv[2:])
"""
    )
    monkeypatch.setattr(runner.Child, "PROGRAM", (str(script),))
    tally = runner.run({"images": range(2 * len(MISDEEDS))}, seconds=1)["images"]
    assert (tally.results, len(tally.unexpected)) == (len(MISDEEDS), len(MISDEEDS))
    assert (tally.crashes, tally.hangs) == (2, 2)
    assert 90 < tally.growth_mb < 120
    for index, (said, cause) in enumerate(zip(tally.unexpected, MISDEEDS.values(), strict=True)):
        assert said.startswith(f"images {2 * index + 1}")
        assert cause in said
