"""A first signal is recorded, a second one ends the process, and data workers leave both to their parent."""

import os
import signal
import time

import pytest

from utils.training.signals import interruptions, leave_signals_to_the_parent


def test_a_second_signal_leaves_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

    def interrupt_twice() -> None:
        with interruptions() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
            assert interruption.signal == signal.SIGINT
            assert interruption.exit_code == 130
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_workers_leave_ctrl_c_to_their_parent():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        leave_signals_to_the_parent(0)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
