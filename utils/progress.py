"""What a person sees while work goes on: bars on terminals, lines in logs."""

import sys
import time

from tqdm import tqdm


def progress_bar(total: int, label: str | None, unit: str = "image") -> tqdm:
    """Return a progress bar on standard error that shows only on a terminal, and only if it has a label."""
    return tqdm(total=total, desc=label, unit=unit, file=sys.stderr, disable=label is None or not sys.stderr.isatty())


def say(line: str) -> None:
    """Print a line at once, above a progress bar if there is one."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


class Tally:
    """Steps, loss, images and time spent waiting for data since it was made."""

    def __init__(self):
        self.began = time.perf_counter()
        self.steps, self.total, self.images, self.waited = 0, 0.0, 0, 0.0

    def add(self, loss: float, images: int, waited: float) -> None:
        self.steps += 1
        self.total += loss
        self.images += images
        self.waited += waited

    @property
    def loss(self) -> float:
        return self.total / self.steps

    @property
    def images_per_s(self) -> float:
        return self.images / (time.perf_counter() - self.began)

    @property
    def data_wait(self) -> float:
        return min(1.0, self.waited / (time.perf_counter() - self.began))

    def words(self) -> str:
        return f"{self.images_per_s:.1f} images/s | data wait {self.data_wait:.0%}"
