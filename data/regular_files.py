"""Read files whole, but only those that end and fit into memory."""

import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

# A pixel takes at most 8 bytes (16-bit RGBA); twice that leaves room for further pages.
_BYTES_PER_PIXEL, _BYTES_OF_METADATA = 16, 256 << 20


def check_file(path: str | os.PathLike, max_pixels: int) -> None:
    """Check, without opening it, that a file can be read whole: a FIFO waits, a device may never end.

    Raises:
        ValueError: it is not a regular file, or larger than an image of `max_pixels` pixels can be.
        OSError: there is no such file.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a special file")
        raise ValueError(f"{kind}, not a regular file; give the path of a photograph")
    limit = _BYTES_OF_METADATA + _BYTES_PER_PIXEL * max_pixels
    if status.st_size > limit:
        raise ValueError(
            f"{status.st_size} bytes are more than the {limit} that an image of --max_pixels {max_pixels} may have; "
            "raise it to use this image"
        )


def read_file(path: str | os.PathLike, max_pixels: int) -> bytes:
    """Return a file's content, after `check_file`."""
    check_file(path, max_pixels)
    return Path(path).read_bytes()
