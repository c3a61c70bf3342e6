"""WebP, AVIF and HEIC: files of chunks, which Pillow's plugins read whole even for the size of the picture."""

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO

from PIL import features

_AVIF = {b"avif", b"avis"}
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_WEBP_METADATA = (b"EXIF", b"XMP ")
_WEBP_HEADER = 64  # bytes of a chunk of pixels that hold its size


def plugins(start: bytes) -> tuple[str, ...]:
    """Return the names of Pillow's plugins for an AVIF or HEIC file that starts so; empty for any other file.

    Raises:
        ValueError: the plugin is not installed.
    """
    if start[4:8] != b"ftyp":
        return ()
    size = max(16, int.from_bytes(start[:4], "big"))
    brands = {start[8:12], *(start[at : at + 4] for at in range(16, min(size, len(start)) - 3, 4))}
    if brands & _AVIF:
        if not features.check("avif"):
            raise ValueError("an AVIF photograph, and this Pillow was built without AVIF: pip install --upgrade pillow")
        return ("AVIF",)
    if brands & _HEIF:
        try:
            import pillow_heif
        except ImportError as error:
            raise ValueError("a HEIC photograph; install pillow-heif to read it: pip install pillow-heif") from error
        pillow_heif.register_heif_opener()
        return ("HEIF",)
    return ()


def is_container(start: bytes) -> bool:
    """Say whether a file that starts so consists of chunks as WebP, AVIF and HEIC do."""
    return start[4:8] == b"ftyp" or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


def webp_canvas(start: bytes) -> tuple[int, int]:
    """Return (width, height) of a WebP that starts so, (0, 0) for any other file; Pillow allocates it on opening."""
    if start[:4] != b"RIFF" or start[8:12] != b"WEBP" or len(start) < 30:
        return 0, 0
    if start[12:16] == b"VP8X":
        return int.from_bytes(start[24:27], "little") + 1, int.from_bytes(start[27:30], "little") + 1
    if start[12:16] == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(start[26:28], "little") & 0x3FFF, int.from_bytes(start[28:30], "little") & 0x3FFF


def check_complete(content: bytes) -> None:
    """Check that the chunks that hold the picture are as long as they say.

    Raises:
        ValueError: the file is cut short.
    """
    if content[:4] == b"RIFF":
        needed = 8 + int.from_bytes(content[4:8], "little")
    else:
        needed = max((end for kind, _, end in _boxes(BytesIO(content)) if kind in (b"meta", b"mdat")), default=0)
    if needed > len(content):
        raise ValueError(f"the file is cut short: {len(content)} bytes of {needed}")


def without_pixels(file: BinaryIO) -> BytesIO:
    """Return a copy of a file with zeros for its pixels, without reading these."""
    file.seek(0)
    start = file.read(12)
    copy = bytearray(file.seek(0, 2))
    copy[:12] = start
    for kind, offset, end in _chunks(file) if start[:4] == b"RIFF" else _boxes(file):
        if start[:4] == b"RIFF":
            kept = end if kind in (*_WEBP_METADATA, b"ANMF") else min(end, offset + _WEBP_HEADER)
        else:
            kept = min(end, offset + 16) if kind == b"mdat" else end
        file.seek(offset)
        data = file.read(min(kept, len(copy)) - offset)  # a damaged length may be 4 GB, which `read` would allocate
        copy[offset : offset + len(data)] = data
    return BytesIO(copy)


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of a WebP's chunks."""
    position = file.seek(12)
    while len(start := file.read(8)) == 8:
        end = position + 8 + int.from_bytes(start[4:], "little")
        yield start[:4], position, end
        position = file.seek(end + end % 2)


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of the boxes of an ISO media file."""
    total = file.seek(0, 2)
    position = file.seek(0)
    while len(start := file.read(16)) >= 8:
        size, kind = struct.unpack(">I4s", start[:8])
        if size == 1:
            size = int.from_bytes(start[8:], "big")
        end = position + size if size else total
        if end < position + 8:
            return
        yield kind, position, end
        position = file.seek(end)
