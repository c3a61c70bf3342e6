"""Errors that end a run with one line: their exit codes differ from those of success and of a shell's signals."""

from utils.errors import (
    EXIT_FAILED_IMAGES,
    EXIT_INTERRUPTED,
    EXIT_UNEXPECTED,
    EXIT_UNUSABLE_INPUT,
    CheckpointError,
    RunError,
)


def test_exit_codes_differ():
    assert len({0, EXIT_FAILED_IMAGES, EXIT_UNUSABLE_INPUT, EXIT_UNEXPECTED, EXIT_INTERRUPTED}) == 5


def test_a_checkpoint_error_is_a_value_error_and_a_run_error_is_not():
    assert issubclass(CheckpointError, ValueError)
    assert not issubclass(RunError, ValueError)
