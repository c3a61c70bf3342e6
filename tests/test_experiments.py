"""docs/experiments.py: its commands parse, and its tables have means and ranges."""

import pandas as pd
import pytest
from docs_scripts import load_script, parse_command

from utils.errors import RunError


@pytest.fixture(scope="module")
def experiments():
    return load_script("experiments")


def test_every_command_parses_and_every_row_has_its_own_run(experiments):
    runs = []
    for rows in experiments.TABLES.values():
        for row in rows:
            runs.append(row.run_name(0))
            for command in experiments.commands(row, 2, "experiments").values():
                parse_command(command)
    assert len(set(runs)) == len(runs)


def test_a_teacher_comes_before_the_rows_that_learn_from_it(experiments):
    for rows in experiments.TABLES.values():
        names = [row.name for row in rows]
        for index, row in enumerate(rows):
            assert row.teacher is None or row.teacher in names[:index]


def test_the_table_has_means_and_ranges(experiments):
    results = pd.DataFrame(
        {
            "row": ["one", "one", "other", "other"],
            "options": ["", "", "--shared_trunk", "--shared_trunk"],
            "SRCC": [0.5, 0.7, 0.1, 0.2],
            "PLCC": [0.4, 0.6, 0.1, 0.1],
            "epochs": [3, 5, 2, 2],
            "gmacs": [1.5, 1.5, 0.25, 0.25],
            "seconds_to_reach": [20.0, float("nan"), float("nan"), float("nan")],
        }
    )
    lines = experiments.markdown(results).splitlines()
    assert lines[2].startswith("| one |  | 0.600 (0.500 to 0.700) | 0.500 | 1.50 | 4 | 20 (20 to 20), 1 of 2 never |")
    assert lines[3].startswith("| other | `--shared_trunk` | 0.150 (0.100 to 0.200) | 0.100 | 0.25 | 2 | never |")


def test_a_command_that_fails_is_reported_with_its_last_lines(experiments):
    with pytest.raises(RunError, match="no such thing"):
        experiments.run("-c 'raise SystemExit(\"no such thing\")'")
    assert experiments.run("-c 'print(7)'") == "7\n"


def test_a_command_that_takes_long_is_stopped(experiments):
    loop = "import signal, time; signal.signal(15, lambda *_: exit(143)); print(1, flush=True); time.sleep(60)"
    assert experiments.run(f"-c '{loop}'", seconds=2) == "1\n"
