"""Errors that end a run with one line: their exit codes differ from those of success and of a shell's signals."""

from utils.errors import (
    EXIT_FAILED_IMAGES,
    EXIT_INTERRUPTED,
    EXIT_UNEXPECTED,
    EXIT_UNUSABLE_INPUT,
    CheckpointError,
    RunError,
    cause_and_remedy,
)


def test_exit_codes_differ():
    assert len({0, EXIT_FAILED_IMAGES, EXIT_UNUSABLE_INPUT, EXIT_UNEXPECTED, EXIT_INTERRUPTED}) == 5


def test_a_checkpoint_error_is_a_value_error_and_a_run_error_is_not():
    assert issubclass(CheckpointError, ValueError)
    assert not issubclass(RunError, ValueError)


def test_a_remedy_follows_the_cause_where_one_is_known():
    assert cause_and_remedy(OSError(28, "No space left on device")).startswith("No space left on device; make room")
    assert cause_and_remedy(OSError("strange")) == "strange"
