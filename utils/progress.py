"""Progress bars on terminals, lines in logs."""

import sys
import time
from collections.abc import Iterable

from tqdm import tqdm

from data.files import printable, printable_lines
from utils.distributed import rank

PRINTED_FAILURES = 10  # of a folder full of broken files; the results list all


def progress_bar(total: int, label: str | None, unit: str = "image") -> tqdm:
    """Return a progress bar on standard error, shown only on a terminal and only if it has a label."""
    return tqdm(total=total, desc=label, unit=unit, file=sys.stderr, disable=label is None or not sys.stderr.isatty())


def escape_what_stdout_cannot_show() -> None:
    """Print letters that the encoding of standard output lacks as escapes, as Python does on standard error."""
    if getattr(sys.stdout, "errors", None) == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def say(line: str) -> None:
    """Print a line immediately, above a progress bar if there is one; only rank 0 prints."""
    if rank() > 0:
        return
    tqdm.write(printable_lines(line), file=sys.stdout)
    sys.stdout.flush()


class Failures:
    """Prints the first failures on standard error as they happen, above a progress bar, and counts all."""

    def __init__(self):
        self.count = 0

    def add(self, message: str) -> None:
        """Count a failure, and print it if it is one of the first."""
        self.count += 1
        if self.count <= PRINTED_FAILURES:
            tqdm.write(f"failed: {printable(message)}", file=sys.stderr)

    def print_rest(self, where: str) -> None:
        """Print how many more there were, if any, and where they are listed."""
        if self.count > PRINTED_FAILURES:
            print(f"and {self.count - PRINTED_FAILURES} more failures: {where}", file=sys.stderr)


def print_failures(messages: Iterable[str], where: str) -> None:
    """Print the first failures on standard error and, if there are more, how many and where they are listed."""
    failures = Failures()
    for message in messages:
        failures.add(message)
    failures.print_rest(where)


class Tally:
    """Counts steps, images, losses and the time spent waiting for data since it was created."""

    def __init__(self):
        self.began = time.perf_counter()
        self.stopped: float | None = None
        self.steps, self.images, self.waited = 0, 0, 0.0
        self.totals: dict[str, float] = {}

    def add(self, images: int, waited: float) -> None:
        """Count a step: its images, and the seconds it waited for them."""
        self.steps += 1
        self.images += images
        self.waited += waited

    def add_losses(self, losses: dict[str, float]) -> None:
        """Add the losses of a step."""
        for name, value in losses.items():
            self.totals[name] = self.totals.get(name, 0.0) + value

    def stop(self) -> None:
        """Stop the clock."""
        self.stopped = time.perf_counter()

    @property
    def averages(self) -> dict[str, float]:
        """The mean losses per step."""
        return {name: total / self.steps for name, total in self.totals.items()}

    @property
    def seconds(self) -> float:
        return (self.stopped or time.perf_counter()) - self.began

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds

    @property
    def data_wait(self) -> float:
        return min(1.0, self.waited / self.seconds)

    def summary(self) -> str:
        return f"{self.images_per_s:.1f} images/s | data wait {self.data_wait:.0%}"
