"""How this process keeps the memory that it frees."""

import ctypes
import os
import sys

# Of glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD = 64 << 20  # bytes by which the heap grows at least


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next array, and return whether it does.

    By default glibc maps arrays of more than 32 MB anew each time and returns the end of its heap to the system. The
    next layer's activations then lie in fresh pages, which the system clears and maps one by one: on a CPU up to half
    of the time of light trunks. Peak memory grows by a few per cent. Nothing changes if the environment has a MALLOC_*
    variable, or without glibc.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    return all(mallopt(*setting) for setting in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD)))
