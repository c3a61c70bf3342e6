"""Decode JPEGs whose data is complete; refuse the others.

libjpeg survives damage: it warns, fills what is missing with grey, and returns. So every warning is an error here,
unless its cause is found to be harmless. Some losses raise no warning and are looked for separately: missing scans,
zeros in quantization tables, runs of one byte, and arithmetic-coded data that ends early.
"""

import re
from collections.abc import Callable
from io import BytesIO

import numpy as np
import simplejpeg
from PIL import Image

from data.jpeg_runs import find_runs, scans_with_runs
from data.jpeg_segments import (
    ARITHMETIC,
    RESTART,
    SCAN,
    SEQUENTIAL,
    check_scans,
    read_frame,
    scan_data,
    segments,
)

_JFIF, _ADOBE, _APPLICATION, _COMMENT = 0xE0, 0xEE, 0xE0, 0xFE  # second bytes of markers; sixteen of applications
_END_MARKER = b"\xff\xd9"
_JFIF_SEGMENT = b"\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0"

# Warnings about segments that do not carry the picture, and about values that every decoder overrides.
_HEADER_WARNING = re.compile(
    "Unknown Adobe color transform|unknown JFIF revision|Invalid SOS parameters|bad ICC marker|"
    "extraneous bytes before marker 0x(c[0-9a-f]|d[a-e]|e|fe)"
)
_JUNK_AT_THE_END = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


def decode(content: bytes, min_size: tuple[int, int] = (0, 0)) -> np.ndarray | None:
    """Decode a complete 8-bit grey or YCbCr JPEG; check one of another colour space, and leave it to Pillow.

    Args:
        content: the file.
        min_size: (height, width); the picture is decoded at the smallest scale (1/8 to 1) that reaches both. (0, 0) is
            full size.

    Returns:
        (H, W, 3) uint8; None for RGB, CMYK and YCCK, and for what simplejpeg cannot decode.

    Raises:
        ValueError: the data is damaged or incomplete, or has more scans than a sound file would have.
    """
    frame = read_frame(content)
    check_scans(frame)
    if frame.coding in ARITHMETIC:
        _check_ends(content, _grey_by_simplejpeg)
    for _ in range(4):  # a mended file may show one more harmless oddity, but not many
        try:
            pixels = _decode_strictly(content, min_size)
        except ValueError as error:
            content = _mend(content, str(error))
            continue
        if find_runs(content, frame.data):
            for end in scans_with_runs(content):
                _check_last_byte(content, end)
        return pixels
    raise ValueError("the JPEG is damaged in several places")


def _check_ends(content: bytes, read_pixels: Callable[[bytes], np.ndarray]) -> None:
    """Refuse a JPEG whose scans or restart intervals end early, without relying on the decoder's warnings.

    A decoder that lacks data goes on with the bytes behind it, so other bytes there change the picture. Complete
    arithmetic-coded data may still rely on a few zeros, because encoders leave out those at the end.
    """
    filler = bytes(4) + b"\x55" * 60
    pieces, position = [], 0
    for start, end in scan_data(content):
        for stop in [*(marker.start() for marker in RESTART.finditer(content, start, end)), end]:
            pieces += [content[position:stop], filler]
            position = stop
    pieces.append(content[position:])
    if not np.array_equal(read_pixels(content), read_pixels(b"".join(pieces))):
        raise ValueError("the JPEG is cut short: its data ends early")


def _check_no_data_is_left(content: bytes, read_pixels: Callable[[bytes], np.ndarray]) -> None:
    """Refuse a JPEG whose last bytes of data do not matter, so that its decoder must have lost its place before."""
    *_, (start, end) = scan_data(content)
    if np.array_equal(read_pixels(content), read_pixels(content[: max(start, end - 16)] + content[end:])):
        raise ValueError("the JPEG is damaged: data is left when the picture is complete")


def _grey_by_simplejpeg(content: bytes) -> np.ndarray:
    return simplejpeg.decode_jpeg(content, "gray", strict=False)


def _pixels_by_pillow(content: bytes) -> np.ndarray:
    with Image.open(BytesIO(content), formats=("JPEG",)) as opened:
        return np.asarray(opened)


def _check_last_byte(content: bytes, end: int) -> None:
    """Refuse a JPEG that is complete without a scan's last byte: libjpeg does not warn of less than eight left."""
    try:
        _decode_strictly(content[: end - 1] + content[end:], (1, 1))
    except ValueError:
        return
    raise ValueError("the JPEG is damaged: data is left when the picture is complete")


def _decode_strictly(content: bytes, min_size: tuple[int, int]) -> np.ndarray | None:
    """Decode, with libjpeg's warnings as ValueErrors; see `decode`."""
    try:
        colorspace = simplejpeg.decode_jpeg_header(content)[2]
    except (KeyError, ValueError) as error:
        if isinstance(error, ValueError) and "subsampling" not in str(error):
            raise
        _check_ends(content, _pixels_by_pillow)  # sampling factors that simplejpeg does not know
        _check_no_data_is_left(content, _pixels_by_pillow)
        return None
    if colorspace in ("Gray", "YCbCr"):
        return simplejpeg.decode_jpeg(content, "rgb", min_height=min_size[0], min_width=min_size[1])
    simplejpeg.decode_jpeg(content, "CMYK" if colorspace in ("CMYK", "YCCK") else "rgb", min_height=1, min_width=1)
    return None


def _mend(content: bytes, warning: str) -> bytes:
    """Return the content without the cause of a warning.

    Raises:
        ValueError: the cause is damage, or cannot be distinguished from it.
    """
    mended = None
    if _HEADER_WARNING.search(warning):
        mended = _with_plain_headers(content)
    elif junk := _JUNK_AT_THE_END.search(warning):
        mended = _without_padding(content, int(junk[1]))
    elif "instead of RST" in warning:
        mended = _with_restart_numbers(content)
    if mended is None or mended == content:
        raise ValueError(warning if warning.startswith("the JPEG") else f"the JPEG is damaged: {warning}")
    return mended


def _with_plain_headers(content: bytes) -> bytes:
    """Drop metadata and the junk behind it, and set the values that decoders override to what they take them for."""
    frame = read_frame(content)
    components = len(frame.components)
    pieces, parts = [b"\xff\xd8"], list(segments(content))
    for index, (code, start, end) in enumerate(parts):
        stop = parts[index + 1][1] - 4 if index + 1 < len(parts) else len(content)
        piece = content[start - 4 : stop]
        if code == SCAN and frame.coding in SEQUENTIAL:
            piece = content[start - 4 : end - 3] + b"\x00\x3f\x00" + content[end:stop]
        if code == _JFIF and piece[4:8] == b"JFIF":
            piece = _JFIF_SEGMENT
        elif code == _ADOBE and piece[4:9] == b"Adobe":
            transform = piece[15] if piece[15] in (0, components // 2) else components // 2  # 1: YCbCr, 2: YCCK
            piece = piece[:15] + bytes([transform]) + content[start + 12 : end]
        elif code & 0xF0 == _APPLICATION or code == _COMMENT:
            continue
        pieces.append(piece)
    return b"".join(pieces)


def _without_padding(content: bytes, junk: int) -> bytes | None:
    """Return the content without what stands between its data and its end marker, or None if that may be data.

    The same warning follows from damage: a decoder that loses its place may complete the picture too early, and what is
    left is picture. So what is left must be text or nearly constant, unlike compressed data and unlike what precedes.
    """
    *_, (start, end) = scan_data(content)
    # libjpeg does not count the eight bytes that it has read ahead, sixteen if each is followed by a stuffed zero.
    too_short, long_enough = max(start, end - junk - 17), end - junk
    while long_enough - too_short > 1:
        middle = (too_short + long_enough) // 2
        try:
            _decode_strictly(content[:middle] + _END_MARKER, (1, 1))
            long_enough = middle
        except ValueError:
            too_short = middle
    padding = content[long_enough:end]
    values = set(padding)
    is_data = max(values) > 127 and len(values) > max(1, len(padding) // 16)
    continues = sum(byte in values for byte in content[long_enough - 4 : long_enough]) > 1
    return None if is_data or continues else content[:long_enough] + content[end:]


def _with_restart_numbers(content: bytes) -> bytes | None:
    """Return the content with its one misnumbered restart marker corrected; None if more than one is wrong."""
    wrong = []
    for start, end in scan_data(content):
        for index, marker in enumerate(RESTART.finditer(content, start, end)):
            if marker[0][1] != 0xD0 + index % 8:
                wrong.append((marker.start() + 1, 0xD0 + index % 8))
    if len(wrong) != 1:
        return None
    position, code = wrong[0]
    return content[:position] + bytes([code]) + content[position + 1 :]
