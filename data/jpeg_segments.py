"""What a JPEG's marker segments say: its frame, its scans, and where their data is."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

# Encoders write about ten scans into a progressive JPEG. Decoding each one touches the whole picture, so a file with
# thousands of tiny scans would take minutes.
_MAX_SCANS = 200

# The second bytes of markers. Frames: baseline, extended, lossless and their arithmetic-coded kin; progressive.
SEQUENTIAL, ARITHMETIC = (0xC0, 0xC1, 0xC9), (0xC9, 0xCA, 0xCB)
LOSSLESS, _PROGRESSIVE = (0xC3, 0xCB), (0xC2, 0xCA)
FRAMES = (*SEQUENTIAL, *LOSSLESS, *_PROGRESSIVE)
HUFFMAN, _END, SCAN, _QUANTIZATION = 0xC4, 0xD9, 0xDA, 0xDB

_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # starts a segment; never occurs inside a scan
RESTART = re.compile(rb"\xff[\xd0-\xd7]")


@dataclass
class Frame:
    """What the segments say about the picture: its coding (the marker's second byte), components and scans."""

    coding: int = 0
    components: bytes = b""
    scans: list[tuple[bytes, int, int, int]] = field(default_factory=list)  # components, first and last, bit position
    data: int = 0  # where the first scan's data starts


def segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the code of each marker segment and the bounds of its payload, up to the end of the image."""
    position = 0
    while marker := _MARKER.search(content, position):
        start = marker.end() + 2
        yield marker[0][1], start, marker.end() + int.from_bytes(content[marker.end() : start], "big")
        if marker[0][1] == _END:
            return
        position = max(start, marker.end() + int.from_bytes(content[marker.end() : start], "big"))


def scan_data(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield the bounds of each scan's compressed data."""
    start = None
    for code, payload, end in segments(content):
        if start is not None:
            yield start, payload - 4
        start = end if code == SCAN else None
    if start is not None:
        yield start, len(content)


def read_frame(content: bytes) -> Frame:
    """Read the segments up to the first scan that has every component, or all.

    Raises:
        ValueError: a quantization table has zeros.
    """
    frame = Frame()
    for code, start, end in segments(content):
        if code in FRAMES:
            frame.coding, frame.components = code, content[start + 6 : end : 3]
        elif code == _QUANTIZATION:
            _check_quantization(content[start:end])
        elif code == SCAN:
            count = content[start] if start < len(content) else 0
            components = content[start + 1 : start + 1 + 2 * count : 2]
            frame.data = frame.data or end
            first, last, bits = (content[start + 1 + 2 * count : start + 4 + 2 * count] + bytes(3))[:3]
            if frame.coding not in _PROGRESSIVE and not frame.scans and set(components) == set(frame.components):
                return frame  # the first scan has every component, as in most photographs: nothing more is read
            frame.scans.append((components, first, last, bits & 15))
    return frame


def _check_quantization(tables: bytes) -> None:
    position = 0
    while position < len(tables):
        size = 128 if tables[position] >> 4 else 64
        table = np.frombuffer(
            tables[position + 1 : position + 1 + size].ljust(size, b"\1"), ">u2" if size > 64 else "u1"
        )
        if not table.all():
            raise ValueError("the JPEG is damaged: its quantization table has zeros")
        position += 1 + size


def check_scans(frame: Frame) -> None:
    """Refuse a JPEG with too many scans to decode, or without those that complete the picture."""
    if len(frame.scans) > _MAX_SCANS:
        raise ValueError(f"the JPEG has {len(frame.scans)} scans; at most {_MAX_SCANS} are decoded")
    if frame.coding in _PROGRESSIVE:
        missing_bits = {component: np.full(64, 16) for component in frame.components}
        for components, first, last, bits in frame.scans:
            for component in components:
                missing_bits.get(component, np.zeros(64))[first : last + 1] = bits
        if any(bits.any() for bits in missing_bits.values()):
            raise ValueError("the JPEG is cut short: scans are missing")
    elif frame.scans and not set(frame.components) <= set(b"".join(components for components, *_ in frame.scans)):
        raise ValueError("the JPEG is cut short: components are missing")
