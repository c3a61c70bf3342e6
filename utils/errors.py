"""Errors that end a run with one line and exit code 2, and the exit codes."""

EXIT_FAILED_IMAGES = 1  # the work was done, but some images could not be used
EXIT_UNUSABLE_INPUT = 2  # argparse's own code for a wrong command line
EXIT_UNEXPECTED = 3  # a fault of this software; its traceback is printed
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as in shells; 143 after SIGTERM


class RunError(RuntimeError):
    """The run cannot continue; the message gives the cause and the remedy."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used or written; the message names the file, the cause and the remedy."""
