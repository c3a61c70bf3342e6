"""SIGINT and SIGTERM: the training saves at the next step instead of dying."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """Whether the training was asked to stop.

    Attributes:
        signal: number of the signal, 0 if there was none.
    """

    def __init__(self):
        self.signal = 0

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as in shells."""
        return 128 + self.signal


@contextmanager
def interruptions() -> Iterator[Interruption]:
    """Record the first SIGINT or SIGTERM; a second one ends the process at once."""
    interruption = Interruption()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore_handlers() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def record(number: int, frame: object) -> None:
        interruption.signal = number
        restore_handlers()

    try:
        for number in handlers:
            signal.signal(number, record)
        yield interruption
    finally:
        restore_handlers()


def leave_signals_to_the_parent(worker: int) -> None:
    """Make a data worker ignore Ctrl-C, which a terminal sends to all processes, and die of its parent's SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
