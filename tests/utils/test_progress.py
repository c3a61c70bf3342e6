"""What a person sees while work goes on."""

import sys
import time

import pytest

from utils.progress import PRINTED_FAILURES, Failures, Tally, print_failures, progress_bar, say


class Terminal:
    """A standard error that says it is a terminal."""

    def __init__(self):
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("label", "shown"), [("scoring", True), (None, False)])
def test_a_labelled_bar_shows_on_a_terminal(label, shown, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar(3, label) as bar:
        bar.update(3)
    assert ("scoring" in sys.stderr.text) is shown


def test_no_bar_shows_in_a_log(capsys):
    with progress_bar(3, "scoring") as bar:
        bar.update(3)
        say("a line")
    captured = capsys.readouterr()
    assert captured.out == "a line\n"
    assert captured.err == ""


def test_a_tally_counts_images_and_waiting_by_the_clock():
    tally = Tally()
    time.sleep(0.2)
    for loss in (1.0, 3.0):
        tally.add(images=10, waited=0.05)
        tally.add_losses({"loss": loss})
    assert tally.averages == {"loss": 2.0}
    assert tally.images_per_s <= 20 / 0.2
    assert 0 < tally.data_wait <= 0.1 / 0.2
    assert "images/s | data wait" in tally.summary()


def test_a_stopped_tally_stands_still():
    tally = Tally()
    tally.add(images=1, waited=0.0)
    tally.stop()
    before = tally.seconds
    time.sleep(0.05)
    assert tally.seconds == before


def test_what_is_said_cannot_command_the_terminal(capsys):
    say("a\x1b[2Jb\nc")
    assert capsys.readouterr().out == "a\\x1b[2Jb\nc\n"


def test_many_failures_are_a_few_lines_and_a_count(capsys):
    print_failures([f"{number}\n.jpg: empty" for number in range(20_000)], "all are in scores.csv")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == r"failed: 0\n.jpg: empty"
    assert len(lines) == PRINTED_FAILURES + 1
    assert lines[-1] == f"and {20_000 - PRINTED_FAILURES} more failures: all are in scores.csv"
    print_failures(["a"] * PRINTED_FAILURES, "")
    assert len(capsys.readouterr().err.splitlines()) == PRINTED_FAILURES


def test_failures_are_printed_as_they_happen_and_all_are_counted(capsys):
    failures = Failures()
    failures.add("a\n.jpg: empty")
    assert capsys.readouterr().err == "failed: a\\n.jpg: empty\n"
    failures.print_rest("all are in scores.csv")
    assert capsys.readouterr().err == ""
    for _ in range(PRINTED_FAILURES + 1):
        failures.add("b.jpg: empty")
    failures.print_rest("all are in scores.csv")
    assert failures.count == PRINTED_FAILURES + 2
    assert capsys.readouterr().err.endswith("and 2 more failures: all are in scores.csv\n")
