"""Errors that end a run with one line and exit code 2, the exit codes, and what helps against the system's errors."""

import errno

from data.files import one_line

EXIT_FAILED_IMAGES = 1  # the work was done, but some images could not be used
EXIT_UNUSABLE_INPUT = 2  # argparse's own code for a wrong command line
EXIT_UNEXPECTED = 3  # a fault of this software; its traceback is printed
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as in shells; 143 after SIGTERM

REMEDIES = {
    errno.ENOSPC: "make room on the disk, or write to another one",
    errno.EDQUOT: "delete some of your files, or write to another disk",
    errno.EACCES: "change its permissions, or give another path",
    errno.EPERM: "change its permissions, or give another path",
    errno.EROFS: "its disk is mounted read-only; give another path",
    errno.ENAMETOOLONG: "give a shorter name",
}


class RunError(RuntimeError):
    """The run cannot continue; the message gives the cause and the remedy."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used or written; the message names the file, the cause and the remedy."""


def cause_and_remedy(error: OSError) -> str:
    """Return why the system refused to read or write a file and, where it is known, what helps."""
    remedy = REMEDIES.get(error.errno)
    return one_line(error) + (f"; {remedy}" if remedy else "")
