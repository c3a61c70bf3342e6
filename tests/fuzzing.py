"""Hostile files, made from numbers, and a runner that survives what they do.

A file is named by its kind and a number: the first numbers of a kind are attacks made by hand, the others mutations of
sound files, drawn from `numpy.random.default_rng` with that number. The files are read in a child process, one after
another, under a limit on time that the parent keeps and one on memory that the kernel keeps; a child that dies or hangs
is replaced. A file that came to an unexpected end is read again, in the foreground and with its traceback, by

    python tests/fuzzing.py KIND NUMBER [FILE to keep it in]
"""

import base64
import contextlib
import functools
import io
import itertools
import json
import math
import os
import pickle
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
MAX_PIXELS = 1_000_000
HEADROOM = 2 << 30  # bytes of address space that a child may take on top of its libraries'
MARKER = "code was run"  # this file appears in the folder of a child if an attack has succeeded
MEBIBYTE = 1 << 20

# What reading a file must never do; Python reports each to an audit hook before it is done.
FORBIDDEN = {
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.system",
    "pty.spawn",
    "shutil.rmtree",
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
}
EXTREMES = (0, 1, 2, 127, 128, 255, 32_767, 32_768, 65_535, 2**31 - 1, 2**31, 2**32 - 1)


class UnexpectedError(Exception):
    """A hostile file led neither to a sound result nor to one clear error."""


@dataclass
class Tally:
    """How the files of a batch ended.

    Attributes:
        files: how many were read.
        results, errors: how many ended in a sound result, and in one clear error.
        unexpected: kind, number, cause of those that ended otherwise.
        crashes, hangs: how many of these killed their child, or had to be stopped.
        slowest_s: the longest that one file took.
        growth_mb: the most that one child's resident memory grew by.
    """

    files: int = 0
    results: int = 0
    errors: int = 0
    unexpected: list[str] = field(default_factory=list)
    crashes: int = 0
    hangs: int = 0
    slowest_s: float = 0.0
    growth_mb: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.files} files: {self.results} results, {self.errors} errors, {len(self.unexpected)} unexpected, "
            f"{self.crashes} crashes, {self.hangs} hangs; the slowest took {self.slowest_s:.1f} s, "
            f"memory grew by {self.growth_mb:.0f} MB"
        )


# --- What is common to all kinds


def pick(generator: np.random.Generator, choices):
    """Return one of the choices; numpy's own `choice` would turn them into an array."""
    return choices[int(generator.integers(len(choices)))]


def place(generator: np.random.Generator, content: bytes) -> int:
    """Return a position, every third time near the beginning, where headers are, and sometimes near the end."""
    near = {0: 64, 1: 256, 2: 1024}.get(int(generator.integers(6)), len(content))
    position = int(generator.integers(max(1, min(near, len(content)))))
    return max(0, len(content) - 1 - position) if generator.random() < 0.15 else position


def flip_bits(generator: np.random.Generator, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(int(generator.integers(1, 17))):
        damaged[place(generator, content)] ^= 1 << int(generator.integers(8))
    return bytes(damaged)


def overwrite(generator: np.random.Generator, content: bytes) -> bytes:
    at = place(generator, content)
    new = generator.bytes(int(generator.integers(1, 33)))
    return content[:at] + new + content[at + len(new) :]


def overwrite_with_an_extreme(generator: np.random.Generator, content: bytes) -> bytes:
    at = place(generator, content)
    new = extreme_bytes(generator, pick(generator, (1, 2, 4)))
    return content[:at] + new + content[at + len(new) :]


def truncate(generator: np.random.Generator, content: bytes) -> bytes:
    return content[: 1 + place(generator, content)]


def delete(generator: np.random.Generator, content: bytes) -> bytes:
    at = place(generator, content)
    return content[:at] + content[at + int(generator.integers(1, 257)) :] or b"\0"


def duplicate(generator: np.random.Generator, content: bytes) -> bytes:
    at = place(generator, content)
    return content[:at] + content[at : at + int(generator.integers(1, 513))] * 2 + content[at:]


def insert(generator: np.random.Generator, content: bytes) -> bytes:
    at = place(generator, content)
    return content[:at] + generator.bytes(int(generator.integers(1, 257))) + content[at:]


def blank(generator: np.random.Generator, content: bytes) -> bytes:
    at = place(generator, content)
    gap = min(int(generator.integers(1, 513)), len(content) - at)
    return content[:at] + bytes([pick(generator, (0, 0xFF))]) * gap + content[at + gap :]


BLIND = (flip_bits, overwrite, overwrite_with_an_extreme, truncate, delete, duplicate, insert, blank)


def extreme_bytes(generator: np.random.Generator, size: int, order: str | None = None) -> bytes:
    """Return a number that a careless reader would trip over, in `size` bytes."""
    return (pick(generator, EXTREMES) % 256**size).to_bytes(size, order or pick(generator, ("little", "big")))


def rearrange(generator: np.random.Generator, parts: list) -> list:
    """Delete, double, move or swap parts of a file."""
    parts = list(parts)
    one, other = (int(generator.integers(len(parts))) for _ in range(2))
    action = int(generator.integers(4))
    if action == 0:
        del parts[one]
    elif action == 1:
        parts.insert(other, parts[one])
    elif action == 2:
        parts[one], parts[other] = parts[other], parts[one]
    else:
        parts[other:other] = [parts[one]] * int(generator.integers(2, 200))
    return parts


# --- Images


def jpeg_parts(content: bytes) -> list[bytes]:
    """Return a JPEG cut before every marker segment and every scan."""
    parts, at = [content[:2]], 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
        end = at + 2 + max(2, int.from_bytes(content[at + 2 : at + 4], "big"))
        parts.append(content[at:end])
        at = end
    return parts + [part for part in re.split(rb"(?=\xff[\xc4\xda])", content[at:]) if part]


def mutate_jpeg(generator: np.random.Generator, content: bytes) -> bytes:
    parts = jpeg_parts(content)
    action = int(generator.integers(4))
    if action == 0:
        return b"".join(rearrange(generator, parts))
    frames = [index for index, part in enumerate(parts) if re.match(rb"\xff[\xc0-\xc2]", part)]
    index = pick(generator, frames) if action == 1 and frames else int(generator.integers(len(parts)))
    part = parts[index]
    if action == 1 and len(part) > 10:  # the frame: precision, height, width, components
        at = int(generator.integers(4, 10))
        part = part[:at] + extreme_bytes(generator, pick(generator, (1, 2)), "big") + part[at + 1 :]
        part = part[:5] + extreme_bytes(generator, 2, "big") + part[7:] if generator.random() < 0.3 else part
    elif action == 2:
        part = part[:2] + extreme_bytes(generator, 2, "big") + part[4:]  # the segment's length
    else:
        part = pick(generator, BLIND)(generator, part) if part else part
    return b"".join([*parts[:index], part, *parts[index + 1 :]])


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return type and data of the chunks of a sound PNG."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def mutate_png(generator: np.random.Generator, content: bytes) -> bytes:
    """Change chunks and mend their checksums, so that the change gets further than the checksum."""
    chunks = png_chunks(content)
    action = int(generator.integers(6)) if chunks else 5
    index = int(generator.integers(max(1, len(chunks))))
    if action == 0:
        return png_of(rearrange(generator, chunks))
    if action == 1:  # the header: width, height, depth, colour type, interlacing
        kind, data = chunks[0]
        at = int(generator.integers(13))
        size = 4 if at in (0, 4) else 1
        chunks[0] = kind, data[:at] + extreme_bytes(generator, size, "big") + data[at + size :]
    elif action == 2:
        kind, data = chunks[index]
        chunks[index] = kind, pick(generator, BLIND)(generator, data) if data else generator.bytes(9)
    elif action == 3:  # sound compression of unsound rows
        rows = b"".join(data for kind, data in chunks if kind == b"IDAT")
        with contextlib.suppress(zlib.error):
            rows = zlib.compress(pick(generator, BLIND)(generator, zlib.decompress(rows)))
        chunks = [chunk for chunk in chunks if chunk[0] not in (b"IDAT", b"IEND")] + [(b"IDAT", rows), (b"IEND", b"")]
    elif action == 4:
        names = (b"PLTE", b"tRNS", b"iCCP", b"gAMA", b"cHRM", b"pHYs", b"eXIf", b"iTXt", b"zTXt", b"acTL", b"fcTL")
        chunks.insert(index, (pick(generator, names), generator.bytes(int(generator.integers(0, 65)))))
    damaged = png_of(chunks)
    if action == 5 and len(damaged) > 12:  # a length that the data does not have
        starts = [match.start() - 4 for match in re.finditer(rb"IHDR|IDAT|PLTE|tEXt|eXIf|IEND", damaged)]
        at = pick(generator, starts or [8])
        damaged = damaged[:at] + extreme_bytes(generator, 4, "big") + damaged[at + 4 :]
    return damaged


def mutate_tiff(generator: np.random.Generator, content: bytes) -> bytes:
    """Change a field of the first directory: tag, type, count or value."""
    order = "little" if content[:2] == b"II" else "big"
    start = int.from_bytes(content[4:8], order)
    entries = int.from_bytes(content[start : start + 2], order)
    if not 0 < entries < 100:
        return overwrite(generator, content)
    entry = start + 2 + 12 * int(generator.integers(entries + 1))  # the last is the next directory's place
    offset, size = pick(generator, ((0, 2), (2, 2), (4, 4), (8, 2), (8, 4), (8, 4)))
    at = entry + offset
    new = extreme_bytes(generator, size, order) if generator.random() < 0.7 else generator.bytes(size)
    return content[:at] + new + content[at + size :]


def mutate_webp(generator: np.random.Generator, content: bytes) -> bytes:
    """Change a chunk's length or first bytes, where a picture's sides are, or the order of the chunks."""
    parts, at = [], 12
    while at + 8 <= len(content):
        length = int.from_bytes(content[at + 4 : at + 8], "little")
        parts.append(content[at : at + 8 + length + length % 2])
        at += 8 + length + length % 2
    if not parts:
        return overwrite(generator, content)
    if generator.random() < 0.3:
        parts = rearrange(generator, parts)
    else:
        index = int(generator.integers(len(parts)))
        position, size = pick(generator, ((4, 4), (8, 4), (12, 3), (15, 3), (14, 2), (16, 2)))
        part = parts[index]
        parts[index] = part[:position] + extreme_bytes(generator, 4, "little")[:size] + part[position + size :]
    body = b"".join(parts)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def mutate_bmp(generator: np.random.Generator, content: bytes) -> bytes:
    """Change a field of the header: place of the pixels, sides, depth, compression, number of colours."""
    at, size = pick(generator, ((10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4)))
    return content[:at] + extreme_bytes(generator, size, "little") + content[at + size :]


INFORMED = {"JPEG": mutate_jpeg, "PNG": mutate_png, "TIFF": mutate_tiff, "WEBP": mutate_webp, "BMP": mutate_bmp}


def scene(width: int, height: int, seed: int) -> np.ndarray:
    """Return (height, width, 3) uint8 with smooth and noisy parts."""
    generator = np.random.default_rng(seed)
    pixels = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    pixels[height // 2 :] = generator.integers(0, 256, (height - height // 2, width, 3))
    return pixels.astype(np.uint8)


def sound_images() -> dict[str, list[bytes]]:
    """Return small pictures of every format in the modes that photographs and scans come in."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    picture = Image.fromarray(scene(150, 100, 0))
    small = Image.fromarray(scene(61, 67, 1))
    grey16 = Image.fromarray(scene(80, 60, 2)[..., 0].astype(np.uint16) * 257)
    translucent = small.copy()
    translucent.putalpha(small.convert("L"))
    large = Image.fromarray(scene(300, 200, 3))

    def encode(image: Image.Image, format_name: str, **options) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format_name, **options)
        return buffer.getvalue()

    return {
        "JPEG": [
            encode(picture, "JPEG", quality=90, subsampling="4:2:0", exif=exif),
            encode(small, "JPEG", quality=70, subsampling="4:4:4", optimize=True),
            encode(large, "JPEG", quality=60, progressive=True),
            encode(small.convert("L"), "JPEG", quality=80),
            encode(small.convert("L"), "JPEG", quality=80, progressive=True),
            encode(small.convert("CMYK"), "JPEG", quality=80),
            encode(picture, "JPEG", quality=50, subsampling="4:2:2", restart_marker_blocks=4, icc_profile=b"p" * 300),
            encode(small, "MPO", quality=80, save_all=True, append_images=[small]),
        ],
        "PNG": [
            encode(picture, "PNG", exif=exif),
            encode(grey16, "PNG"),
            encode(small.quantize(200), "PNG", transparency=3),
            encode(small.quantize(4), "PNG", bits=2),
            encode(small.convert("1"), "PNG"),
            encode(translucent, "PNG", icc_profile=b"p" * 300),
            encode(translucent.convert("LA"), "PNG"),
            encode(small, "PNG", save_all=True, append_images=[small.rotate(90)]),
            encode(large, "PNG", compress_level=1),
        ],
        "WEBP": [
            encode(small, "WEBP", quality=60),
            encode(picture, "WEBP", lossless=True, exif=exif),
            encode(translucent, "WEBP", quality=50),
            encode(small, "WEBP", save_all=True, append_images=[small.rotate(90)]),
        ],
        "TIFF": [
            encode(picture, "TIFF", exif=exif),
            encode(small, "TIFF", compression="tiff_lzw"),
            encode(small, "TIFF", compression="tiff_adobe_deflate", tiffinfo={317: 2}),
            encode(small, "TIFF", compression="jpeg"),
            encode(small.convert("1"), "TIFF", compression="group4"),
            encode(grey16, "TIFF", compression="packbits"),
            encode(small.convert("CMYK"), "TIFF", save_all=True, append_images=[small.convert("CMYK")]),
        ],
        "BMP": [
            encode(small, "BMP"),
            encode(small.convert("L"), "BMP"),
            encode(small.quantize(16), "BMP"),
            encode(small.convert("1"), "BMP"),
        ],
    }


def hostile_images(sound: dict[str, list[bytes]]) -> list[tuple[str, bytes]]:
    """Return attacks that chance would hardly find: bombs, contradictions, and formats in which files are programs."""
    jpeg, progressive, png = sound["JPEG"][0], sound["JPEG"][2], sound["PNG"][0]
    huge = struct.pack(">HH", 65_500, 65_500)
    parts = jpeg_parts(jpeg)
    frame = next(index for index, part in enumerate(parts) if part[:2] == b"\xff\xc0")
    huge_frame = parts[frame][:5] + huge + parts[frame][9:]
    scans = jpeg_parts(progressive)
    header = next(index for index, part in enumerate(scans) if part[:2] == b"\xff\xc2")
    large = scans.copy()
    large[header] = large[header][:5] + struct.pack(">HH", 990, 990) + large[header][9:]
    last_scan = [part for part in scans if part[:2] == b"\xff\xda"][-1].removesuffix(b"\xff\xd9")[:30]
    chunks = png_chunks(png)
    compress = zlib.compressobj(9)
    zeros = b"".join(compress.compress(bytes(MEBIBYTE)) for _ in range(200)) + compress.flush()
    plain = {kind: data for kind, data in chunks if kind in (b"IHDR", b"IDAT", b"IEND")}

    def with_sides(width: int, height: int) -> tuple[bytes, bytes]:
        return b"IHDR", struct.pack(">II", width, height) + plain[b"IHDR"][8:]

    def with_chunk(kind: bytes, data: bytes) -> bytes:
        return png_of([chunks[0], (kind, data), *chunks[1:]])

    eps = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 60\n%%EndComments\n"
        + f"({MARKER}) (w) file closefile\nshowpage\n%%EOF\n".encode()
    )
    tiff = sound["TIFF"][0]
    start = int.from_bytes(tiff[4:8], "little")
    entries = int.from_bytes(tiff[start : start + 2], "little")
    after = start + 2 + 12 * entries
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + b"\xff\xff\0" * 2
    animation = canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6) + sound["WEBP"][0][12:]
    return [
        ("empty", b""),
        ("PostScript, which a program would have to run", eps),
        ("PostScript in a DOS envelope", b"\xc5\xd0\xd3\xc6" + struct.pack("<IIIIIIH", 30, len(eps), *[0] * 5) + eps),
        ("a portable pixmap of text", b"P3 900 900 255 " + b"1 " * 1000),
        (
            "a GIF of huge sides",
            b"GIF89a\xff\xff\xff\xff\xf0\0\0" + bytes(6) + b"," + bytes(4) + b"\xff\xff\xff\xff\0\2",
        ),
        ("a JPEG whose second frame is huge", b"".join([*parts[: frame + 1], huge_frame, *parts[frame + 1 :]])),
        ("a JPEG whose first frame is huge", b"".join([*parts[:frame], huge_frame, *parts[frame:]])),
        ("a JPEG whose frame is huge", b"".join([*parts[:frame], huge_frame, *parts[frame + 1 :]])),
        ("a JPEG of sixty thousand scans", b"".join([*large[:-1], last_scan * 60_000, b"\xff\xd9"])),
        ("a JPEG of 200,000 comments", b"".join([parts[0], b"\xff\xfe\0\2" * 200_000, *parts[1:]])),
        ("a JPEG of bytes between markers", parts[0] + b"\xff" * 500_000 + b"".join(parts[1:])),
        ("a PNG of the largest sides", png_of([with_sides(2**31 - 1, 2**31 - 1), *chunks[1:]])),
        ("a PNG of sides 2**16", png_of([with_sides(2**16, 2**16), *chunks[1:]])),
        ("a PNG line", png_of([with_sides(MAX_PIXELS, 1), *chunks[1:]])),
        ("a PNG whose second header is huge", png_of([chunks[0], with_sides(60_000, 60_000), *chunks[1:]])),
        ("a PNG whose later header is huge", png_of([*chunks[:-1], with_sides(60_000, 60_000), chunks[-1]])),
        ("a PNG of too many rows", png_of([chunks[0], (b"IDAT", zeros), chunks[-1]])),
        ("a PNG with a profile that swells", with_chunk(b"iCCP", b"p\0\0" + zeros)),
        ("a PNG with a text that swells", with_chunk(b"zTXt", b"t\0\0" + zeros)),
        ("a PNG with an international text that swells", with_chunk(b"iTXt", b"t\0\1\0\0\0" + zeros)),
        ("a PNG of ten thousand texts", png_of([chunks[0], *[(b"tEXt", b"k\0v")] * 10_000, *chunks[1:]])),
        ("a TIFF whose directories form a ring", tiff[:after] + struct.pack("<I", start) + tiff[after + 4 :]),
        ("a WebP of the largest canvas", b"RIFF" + struct.pack("<I", 4 + len(animation)) + b"WEBP" + animation),
    ]


class Images:
    """`decode_rgb` of every file; `image_size` and `decode_thumbnail` of some."""

    FORMATS = ("JPEG", "PNG", "JPEG", "PNG", "WEBP", "JPEG", "PNG", "TIFF", "JPEG", "PNG", "BMP")

    def __init__(self, folder: Path):
        from data.decode import ImageError, decode_rgb, decode_thumbnail, image_size

        self.refusal, self.decode, self.thumbnail, self.size = ImageError, decode_rgb, decode_thumbnail, image_size
        self.folder = folder
        self.sound = sound_images()
        self.hostile = hostile_images(self.sound)

    def content(self, number: int) -> bytes:
        """Return the file of a number."""
        if number < len(self.hostile):
            return self.hostile[number][1]
        generator = np.random.default_rng([1, number])
        format_name = self.FORMATS[number % len(self.FORMATS)]
        content = pick(generator, self.sound[format_name])
        for _ in range(int(generator.integers(1, 4))):
            mutation = INFORMED[format_name] if generator.random() < 0.6 else pick(generator, BLIND)
            content = mutation(generator, content) or b"\0"
        return content

    def prepare(self, number: int) -> Callable[[], str]:
        content = self.content(number)
        path = self.folder / "photo.jpg"
        path.write_bytes(content)

        def attempt() -> str:
            shape = self._decoded(content)
            if number % 4 == 0 or number < len(self.hostile):
                self._check_size(path, shape)
            if number % 8 == 1 or number < len(self.hostile):
                self._check_thumbnail(path)
            return "error" if shape is None else "result"

        return attempt

    def _decoded(self, content: bytes) -> tuple[int, int] | None:
        try:
            pixels = self.decode(content, max_pixels=MAX_PIXELS)
        except self.refusal as error:
            check_message(error, f"<{len(content)} bytes>: ")
            return None
        sound = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
        if not sound or pixels.ndim != 3 or pixels.shape[2] != 3 or not 0 < pixels[..., 0].size <= MAX_PIXELS:
            raise UnexpectedError(f"decoded to {type(pixels)} {getattr(pixels, 'shape', '')}")
        return pixels.shape[:2]

    def _check_size(self, path: Path, shape: tuple[int, int] | None) -> None:
        """The size in the header is that of the pixels, wherever both can be had."""
        try:
            size = self.size(path, max_pixels=MAX_PIXELS)
        except self.refusal as error:
            check_message(error, f"{path}: ")
            size = None
        if shape is not None and size != shape:
            raise UnexpectedError(f"image_size says {size}, decode_rgb {shape}")

    def _check_thumbnail(self, path: Path) -> None:
        try:
            pixels = self.thumbnail(path, 40, max_pixels=MAX_PIXELS)
        except self.refusal as error:
            check_message(error, f"{path}: ")
            return
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or max(pixels.shape[:2]) > 40:
            raise UnexpectedError(f"a thumbnail of {pixels.dtype} {pixels.shape}")


# --- Checkpoints


class _Call:
    """Pickles to a call, which a careless reader makes while it reads."""

    def __init__(self, function: Callable, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def malicious_objects(marker: Path) -> dict[str, object]:
    """Return objects whose unpickling would make the marker."""
    import torch

    return {
        "open": _Call(open, str(marker), "w"),
        "os.system": _Call(os.system, f"touch '{marker}'"),
        "exec": _Call(exec, f"open({str(marker)!r}, 'w').close()"),
        "eval": _Call(eval, f"open({str(marker)!r}, 'w')"),
        "getattr": _Call(getattr, _Call(Path, str(marker)), "touch"),
        "functools.partial": _Call(map, _Call(functools.partial, open, str(marker), "w"), ()),
        "torch.save": _Call(torch.save, {}, str(marker)),
        "numpy": _Call(np.save, str(marker), 0),
    }


def nested(levels: int, kind: type = list):
    """Return containers of two to each level: a few hundred bytes in a pickle, and 2**levels when written out."""
    bomb = kind("x")
    for _ in range(levels):
        bomb = kind((bomb, bomb))
    return bomb


class _Disguised:
    """Pickles to a dict in which a value hides one of dict's own methods; such attributes travel in a pickle."""

    def __init__(self, content: dict, hidden: str):
        self.content, self.hidden = content, hidden

    def __reduce__(self):
        return OrderedDict, (), {self.hidden: 5}, None, iter(self.content.items())


class Checkpoints:
    """`load_model` of every file, and a score of what it has loaded."""

    KINDS = (
        "ours",
        "content",
        "pickle",
        "content",
        "legacy",
        "bare",
        "safetensors",
        "content",
        "pickle",
        "calibration",
    )

    def __init__(self, folder: Path):
        import torch
        from safetensors.torch import save

        from data.decode import ImageError
        from data.views import ViewSpec, make_views
        from models import build_model
        from utils.calibration import Calibration
        from utils.checkpoint import CheckpointError, load_model, save_checkpoint

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.refusal, self.too_long, self.load, self.views = CheckpointError, ImageError, load_model, make_views
        self.folder, self.save = folder, save_checkpoint
        spec = ViewSpec(resize=72, crop_size=64, views=("aesthetic",))
        self.model = build_model("SwinT", backbone="timm:test_resnet", view_sizes=spec.view_sizes).eval()
        self.fields = {
            "model": {"name": "SwinT", "backbone": "timm:test_resnet"},
            "state_dict": self.model.state_dict(),
            "view_spec": spec.to_dict(),
            "mos_scale": {"mean": 0.5, "sd": 0.1},
            "calibration": Calibration((0.9, 0.2, 0.5, 0.1), "validation").to_dict(),
            "branch_means": {"aesthetic": 0.1},
            "metrics": {"SRCC": 0.5},
            "options": {"run": "r", "lr": 1e-3, "metadata": None},
            "epoch": 3,
        }
        self.save(folder / "sound.pth", self.fields)
        state = self.fields["state_dict"]
        np.save(folder / "sound.npy", [0.9, 0.2, 0.5, 0.1])
        head = {f"quality.{name}": value for name, value in self.model.quality.state_dict().items()}
        self.sound = {
            "ours": (folder / "sound.pth").read_bytes(),
            "bare": self._saved(head),
            "legacy": self._saved(head, _use_new_zipfile_serialization=False),
            "safetensors": save({name: value.contiguous() for name, value in state.items()}),
            "calibration": (folder / "sound.npy").read_bytes(),
        }
        self.hostile = [*self._malicious(), *self._bombs()]

    @staticmethod
    def _saved(content, **options) -> bytes:
        import torch

        buffer = io.BytesIO()
        torch.save(content, buffer, **options)
        return buffer.getvalue()

    def _malicious(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield the malicious objects, each in every place in which a reader might unpickle it."""
        for name, attack in malicious_objects(self.folder / MARKER).items():
            bare, within = pickle.dumps(attack), {"state_dict": attack, "format": "uiqa-checkpoint", "version": 1}
            yield f"{name} in a pickle", "c.pth", bare
            yield f"{name} in an old pickle", "c.pth", pickle.dumps(attack, 0)
            yield f"{name} in a zip of torch's", "c.pth", self._saved(attack)
            yield f"{name} among a checkpoint's entries", "c.pth", self._saved({**self.fields, "options": attack})
            yield f"{name} as its weights", "c.pth", self._saved(within)
            yield f"{name} in torch's older format", "c.pth", self._saved(within, _use_new_zipfile_serialization=False)
            yield f"{name} called safetensors", "c.safetensors", bare
            header = (
                b"\x93NUMPY\1\0" + struct.pack("<H", 54) + b"{'descr': '|O', 'fortran_order': False, 'shape': (4,)}"
            )
            yield f"{name} in a calibration", "c.npy", header + bare

    def _bombs(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield small files that ask for much: memory, time, or a wrong kind of value."""
        import torch

        changed = functools.partial(self._with, self.fields)
        sides = {"crop_size": 10**6, "resize": 10**6}
        huge = {"view_spec": self.fields["view_spec"] | sides}
        yield "a view of 10**12 pixels", "c.pth", self._saved(self._ours(huge))
        sides = {"crop_size": 20_000, "resize": 20_000}
        yield "a view of 4 * 10**8 pixels", "c.pth", self._saved(self._ours({"view_spec": huge["view_spec"] | sides}))
        for backbone in ("timm:vit_giant_patch14_224", "timm:convnext_xxlarge", "timm:resnet18.no_such_tag", "swin_b"):
            yield backbone, "c.pth", self._saved(changed(("model", "backbone"), backbone))
        for backbone in ("timm:hf-hub:someone/something", "timm:local-dir:/tmp", "timm:"):
            yield backbone, "c.pth", self._saved(changed(("model", "backbone"), backbone))
        yield "weights from elsewhere", "c.pth", self._saved(changed(("model", "pretrained"), True))
        for path in (
            ("view_spec", "saliency"),
            ("model", "name"),
            ("model", "backbone"),
            ("branch_means", "aesthetic"),
        ):
            yield f"a nest for {path}", "c.pth", self._saved(changed(path, nested(40)))
            yield f"a nest of tuples for {path}", "c.pth", self._saved(changed(path, nested(40, tuple)))
        yield "views in a nest", "c.pth", self._saved(changed(("view_spec", "views"), (nested(40, tuple),)))
        yield "a nest for a checkpoint", "c.pth", self._saved(nested(40))
        for key in ("get", "items", "keys", "copy", "values"):
            yield f"a dict without {key}", "c.pth", self._saved(_Disguised(self._ours({}), key))
            disguised = _Disguised(self.fields["state_dict"], key)
            yield f"weights without {key}", "c.pth", self._saved(self._ours({"state_dict": disguised}))
            yield f"bare weights without {key}", "c.pth", self._saved(_Disguised(self.fields["state_dict"], key))
        entries = dict(_entries(self._saved({"x": torch.zeros(1000)})))
        [pickled] = (name for name in entries if name.endswith("data.pkl"))
        count = 400 * MEBIBYTE // 4
        entries[pickled] = entries[pickled].replace(b"M\xe8\x03", b"J" + struct.pack("<i", count))
        yield "weights of 400 MB that are not there", "c.pth", _zip_of(entries.items())
        yield "weights that swell to 400 MB", "c.pth", _zip_of(entries.items(), swollen="archive/data/0")
        yield "a zip with an entry that swells", "c.pth", _zip_of(_entries(self._saved({"x": 0})), swollen="archive/y")
        wide = {"state_dict": self.fields["state_dict"] | {"quality.0.weight": torch.zeros(1).expand(10**6, 10**6)}}
        yield "weights of 10**12 numbers", "c.pth", self._saved(self._ours(wide))
        for deep in (b"(" * 10**6, b"]" * 10**6 + b"a" * (10**6 - 1) + b"."):
            yield "a deep pickle", "c.pth", b"\x80\x02" + deep
        for size in (2**63, 2**40, 10**9):
            yield f"a header of {size} bytes", "c.safetensors", struct.pack("<Q", size) + b"{}"
        wide = b'{"x": {"dtype": "F32", "shape": [1000000, 1000000], "data_offsets": [0, 4]}}'
        yield "a shape beyond the data", "c.safetensors", struct.pack("<Q", len(wide)) + wide + bytes(4)
        for shape in ("(4000000000,)", "(1000000000000,)", "(-4,)", "()"):
            header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode() + b"\n"
            yield f"a calibration of {shape}", "c.npy", b"\x93NUMPY\1\0" + struct.pack("<H", 118) + header + bytes(32)

    def _ours(self, changes: dict) -> dict:
        return {"format": "uiqa-checkpoint", "version": 1, **self.fields, **changes}

    def _with(self, fields: dict, path: tuple[str, ...], value) -> dict:
        """Return a checkpoint's content with one value, two levels down, replaced."""
        outer, inner = path
        return self._ours({outer: {**fields[outer], inner: value}})

    def file(self, number: int) -> tuple[str, bytes]:
        """Return the name and the content of a number's file."""
        if number < len(self.hostile):
            return self.hostile[number][1:]
        generator = np.random.default_rng([2, number])
        kind = self.KINDS[number % len(self.KINDS)]
        if kind == "content":
            return "c.pth", self._saved(self._mutated_content(generator))
        if kind == "pickle":
            return "c.pth", _with_mutated_pickle(generator, self.sound[pick(generator, ("ours", "bare"))])
        content = self.sound[kind]
        if kind == "safetensors" and generator.random() < 0.7:
            length = 8 + int.from_bytes(content[:8], "little")
            content = pick(generator, (_mutate_text, *BLIND))(generator, content[:length]) + content[length:]
        else:
            for _ in range(int(generator.integers(1, 4))):
                content = pick(generator, BLIND)(generator, content)
        return {"calibration": "c.npy", "safetensors": "c.safetensors"}.get(kind, "c.pth"), content

    def _mutated_content(self, generator: np.random.Generator) -> dict:
        """Return a checkpoint's content with one to three values replaced or left out."""
        import torch

        values = (
            *(None, True, -1, 0, 2**31, 10**400, 0.5, math.nan, math.inf, "", "x", "0", b"\0", [], {}, (), [1, 2]),
            *(torch.zeros(2), torch.zeros(0), torch.zeros((), dtype=torch.int64), torch.zeros(2, 2).to_sparse()),
            *(
                torch.zeros(2, dtype=torch.complex64),
                torch.empty(2, device="meta"),
                torch.device("cuda"),
                torch.Size([1]),
            ),
            *({"name": "UIQA"}, {1: 2}, ["aesthetic", "aesthetic"], ["distortion"], "swin_t", "x" * 100_000, 1e308),
        )
        content = self._ours({})
        for _ in range(int(generator.integers(1, 4))):
            outer = pick(generator, sorted(content))
            value = content[outer]
            if isinstance(value, dict) and value and generator.random() < 0.8:
                inner = pick(generator, list(value))
                changed = {**value, inner: pick(generator, values)}
                if generator.random() < 0.15:
                    del changed[inner]
                content[outer] = changed
            elif outer != "format" and generator.random() < 0.8:
                content[outer] = pick(generator, values)
            else:
                del content[outer]
        return content

    def prepare(self, number: int) -> Callable[[], str]:
        name, content = self.file(number)
        path = self.folder / name
        path.write_bytes(content)
        of_calibration = name.endswith(".npy")

        def attempt() -> str:
            try:
                loaded = self.load(self.folder / "sound.pth", path) if of_calibration else self.load(path)
            except self.refusal as error:
                check_message(error, f"{path}: ")
                return "error"
            except ValueError as error:
                if not of_calibration:
                    raise
                check_message(error, f"{path}: ")
                return "error"
            self._check_score(loaded)
            return "result"

        return attempt

    def _check_score(self, loaded) -> None:
        """What has been loaded can score a photograph, or says why it cannot."""
        import torch

        try:
            views = self.views(scene(90, 80, 0), loaded.view_spec, loaded.view_spec.evaluation_generator())
        except self.too_long:
            return
        with torch.inference_mode():
            score = loaded.model(**{name: view[None] for name, view in views.items()})
        if score.shape != (1, 1):
            raise UnexpectedError(f"a score of shape {tuple(score.shape)}")
        if loaded.calibration is not None:
            with np.errstate(all="ignore"):
                loaded.calibration(np.array([0.5]))


def _zip_of(entries: Iterable[tuple[str, bytes]], swollen: str | None = None) -> bytes:
    """Return a zip as torch writes it; or one of compressed entries, of which one swells to 400 MB when it is read."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if swollen else 0) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice, which may be meant
        for name, data in entries:
            if name != swollen:
                archive.writestr(name, data)
        if swollen:
            with archive.open(swollen, "w") as entry:
                for _ in range(400):
                    entry.write(bytes(MEBIBYTE))
    return buffer.getvalue()


def _entries(archive: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return [(name, opened.read(name)) for name in opened.namelist()]


def _with_mutated_pickle(generator: np.random.Generator, archive: bytes) -> bytes:
    """Return a checkpoint whose checksums hold and whose pickle is damaged, or whose entries are rearranged."""
    entries = _entries(archive)
    if generator.random() < 0.2:
        entries = rearrange(generator, entries)
    else:
        at = next(index for index, (name, _) in enumerate(entries) if name.endswith("data.pkl"))
        name, data = entries[at]
        for _ in range(int(generator.integers(1, 4))):
            data = pick(generator, (*BLIND, _mutate_text))(generator, data)
        entries[at] = name, data
    return _zip_of(entries)


def _mutate_text(generator: np.random.Generator, content: bytes) -> bytes:
    """Replace a number or a word, of several places one."""
    found = list(re.finditer(rb"[0-9]+|[A-Za-z_]{2,}", content)) or [re.match(b"", content)]
    one, other = pick(generator, found), pick(generator, found)
    new = pick(generator, (other[0], b"-1", b"0", b"99999999999999999999", b"1e999", b"null", b"", b"F64", b"[]"))
    return content[: one.start()] + new + content[one.end() :]


# --- Label files


LABEL_VALUES = (
    *(
        "",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "-1",
        "0",
        "True",
        "NULL",
        "0x10",
        "1,5",
        '"',
        '"""',
        "'",
        ";",
        "\t",
        "\0",
        "\r",
    ),
    *(
        "9" * 5000,
        "x" * 200_000,
        "../../../etc/passwd",
        "/etc/passwd",
        "a/" + "x" * 5000,
        "a\0b.jpg",
        "a/b\0.jpg",
        "é",
        "\u202e",
    ),
    *(
        "\ufeff",
        "\u2028",
        "=1+1",
        "training",
        "VALIDATION ",
        "test",
        "elsewhere",
        "0.jpg",
        "1.5",
        "1.0",
        "[]",
        "\x1b[31m",
    ),
)


def _tables() -> dict[str, list[str]]:
    """Return the lines of a sound label file of every kind; the images are called as `Labels` has made them."""
    sets = ["training"] * 6 + ["validation"] * 3 + ["test"] * 3
    uhd = [f"{index}.jpg,u{index % 3},{0.4 + index / 50},{sets[index]}" for index in range(12)]
    votes = " ".join(["7"] * 10)
    return {
        "UHD_IQA": ["image_name,user_name,quality_mos,set", *uhd],
        "AVA csv": [
            "image_num," + ",".join(f"vote_{rating}" for rating in range(1, 11)),
            *[f"{index}," + votes.replace(" ", ",") for index in range(12)],
        ],
        "AVA": [f"{index + 1} {index} {votes} 1 2 3" for index in range(12)],
        "csv": ["image,mos,split,owner", *[f"{index}.jpg,{index},{sets[index]},o{index % 4}" for index in range(12)]],
    }


class Labels:
    """`load_table` of every file."""

    def __init__(self, folder: Path):
        from data.tables import LabelTable, TableError, load_table

        self.refusal, self.table, self.load = TableError, LabelTable, load_table
        self.folder = folder / "images"
        self.folder.mkdir()
        for index in range(12):
            (self.folder / f"{index}.jpg").touch()
        self.sound = _tables()
        self.hostile = list(self._hostile())

    def _hostile(self) -> Iterator[tuple[str, str, bytes]]:
        for kind, lines in self.sound.items():
            text = "\n".join(lines)
            separator = " " if kind == "AVA" else ","
            doubled = [separator.join([line, *line.split(separator)[-2:]]) for line in lines]
            yield "nothing", kind, b""
            yield "the header alone", kind, lines[0].encode()
            yield "no opinion", kind, (lines[0] + "\n").encode() * 5
            yield "nothing but NULs", kind, bytes(5000)
            yield "NULs between rows", kind, text.replace("\n", "\n\0").encode()
            yield "columns there twice", kind, "\n".join(doubled).encode()
            yield "more fields than the header has", kind, "\n".join([lines[0], *doubled[1:]]).encode()
            yield (
                "rows that end in a separator",
                kind,
                "\n".join([lines[0], *[line + separator for line in lines[1:]]]).encode(),
            )
            yield "UTF-16", kind, text.encode("utf-16")
            yield "Latin-1", kind, text.replace("0", "é").encode("latin-1")
            yield "a field without end", kind, (text + '\n"' + "x" * 2_000_000).encode()
            yield "a field of two million letters", kind, (text + "\n" + separator.join(["x" * 2_000_000] * 4)).encode()
            yield "a thousand thousand separators", kind, (separator * 1_000_000).encode()
            yield "a row of a million fields", kind, (lines[0] + "\n" + separator.join("1" * 1_000_000)).encode()
            yield "a column of ten thousand names", kind, (separator.join(map(str, range(10_000))) + "\n1").encode()
            yield (
                "a name that no folder can hold",
                kind,
                (text + "\n" + lines[-1].replace("11", "a/" + "x" * 5000)).encode(),
            )
            yield "a zip", kind, b"PK\3\4" + text.encode()
            for opinion in ("inf", "nan", "1e999", "1" * 400):
                yield f"opinions of {opinion[:9]}", kind, re.sub(r"\b(0\.\d+|7)\b", opinion, text).encode()

    def file(self, number: int) -> tuple[str, bytes]:
        """Return the kind and the content of a number's file."""
        if number < len(self.hostile):
            return self.hostile[number][1:]
        generator = np.random.default_rng([3, number])
        kind = pick(generator, tuple(self.sound))
        separator = " " if kind == "AVA" else ","
        rows = [line.split(separator) for line in self.sound[kind]]
        for _ in range(int(generator.integers(1, 4))):
            rows = _mutate_rows(generator, rows)
        content = pick(generator, ("\n", "\n", "\n", "\r\n", "\r")).join(separator.join(row) for row in rows)
        content = content.encode(pick(generator, ("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-7")), "surrogatepass")
        return kind, pick(generator, BLIND)(generator, content) if generator.random() < 0.3 else content

    def prepare(self, number: int) -> Callable[[], str]:
        kind, content = self.file(number)
        path = self.folder / "labels.csv"
        path.write_bytes(content)
        options = {
            "splits": ("train", "val", "test") if number % 4 == 0 and "AVA" not in kind else ("train", "val"),
            "skip_missing": number % 3 == 0,
            "split_by": {1: "owner", 3: "user_name"}.get(number % 5),
            "random_seed": number,
        }

        def attempt() -> str:
            try:
                table = self.load(kind.split()[0], self.folder, metadata=path, **options)
            except self.refusal as error:
                check_message(error, f"{path}: ", anywhere=True)
                return "error"
            frame = table.frame
            if not isinstance(table, self.table) or not {"image", "mos", "split", "path"} <= set(frame):
                raise UnexpectedError(f"{type(table)} without its columns")
            asked = frame[frame["split"].isin(options["splits"])]
            if not np.isfinite(frame["mos"]).all() or frame["image"].duplicated().any() or asked["path"].isna().any():
                raise UnexpectedError("a table with opinions that are no numbers, double images or none")
            if (
                not frame.index.is_unique
                or frame.index.dtype.kind != "i"
                or not set(frame["split"]) <= {"train", "val", "test"}
            ):
                raise UnexpectedError("a table with rows of the same number, or of no split")
            if any(table.split(split).empty for split in options["splits"]):
                raise UnexpectedError("a table with an empty split")
            return "result"

        return attempt


def _mutate_rows(generator: np.random.Generator, rows: list[list[str]]) -> list[list[str]]:
    """Change a field, or delete, double and move rows or columns."""
    rows = [list(row) for row in rows if row] or [["x"]]
    action = int(generator.integers(6))
    row = pick(generator, rows)
    column = int(generator.integers(len(row)))
    if action <= 1:
        row[column] = pick(generator, LABEL_VALUES)
    elif action == 2:
        row[column:column] = [pick(generator, LABEL_VALUES) for _ in range(int(generator.integers(1, 4)))]
    elif action == 3:
        rows = rearrange(generator, rows)
    elif action == 4:
        for one in rows:
            one.append(one[column % len(one)])
    else:
        for one in rows:
            if len(one) > column:
                del one[column]
    return rows


# --- Configs


CONFIG_VALUES = (
    *(
        "",
        "nan",
        "inf",
        "-1",
        "0",
        "1e999",
        "9" * 5000,
        "yes",
        "off",
        "null",
        "~",
        "~:",
        "[1, 2]",
        "{a: 1}",
        "|",
        ">",
        "- a",
    ),
    *(
        "&a [*a]",
        "&a 3",
        "*a",
        "*nothing",
        "!!python/object/apply:os.system ['x']",
        "!!binary x",
        "!!int x",
        "!x y",
        "? a",
    ),
    *(
        "'",
        '"',
        '"\\x00"',
        '"a\\nb"',
        '"\\u2028"',
        '"\\ud800"',
        "\t",
        "%",
        "@",
        "`",
        "\x00",
        "\x1b[31m",
        "é" * 9,
        "x" * 50_000,
    ),
)


class Configs:
    """`parse_options` of every YAML file, with the parser of train.py."""

    def __init__(self, folder: Path):
        from utils.command_line import parse_options
        from utils.options import train_parser

        self.parse, self.parser = parse_options, train_parser
        self.folder = folder
        self.sound = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "configs").glob("*.yaml"))]
        self.names = sorted(action.dest for action in train_parser()._actions)
        self.hostile = list(self._hostile())

    def _hostile(self) -> Iterator[tuple[str, bytes]]:
        laughs = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
        yield "a billion laughs", "\n".join(laughs).encode()
        yield "a billion laughs as a key", "\n".join([*laughs, "? *a39\n: x"]).encode()
        yield (
            "a billion laughs of mappings",
            "\n".join(
                ["a0: &a0 {x: x}"] + [f"a{n}: &a{n} {{p: *a{n - 1}, q: *a{n - 1}}}" for n in range(1, 40)]
            ).encode(),
        )
        yield (
            "a billion laughs merged",
            "\n".join(
                ["a0: &a0 {x: x}"] + [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)]
            ).encode(),
        )
        yield "an anchor within itself", b"&a [*a]"
        yield "an anchor that is its own key", b"&a {*a : x}"
        for depth in (500, 20_000):
            yield f"{depth} brackets", b"lr: " + b"[" * depth
            yield f"{depth} closed brackets", b"lr: " + b"[" * depth + b"]" * depth
            yield f"{depth} braces", b"lr: " + b"{a: " * depth
            yield f"{depth} sequences", b"- " * depth + b"x"
        yield "steps of a thousand lines", "\n".join(" " * n + "a:" for n in range(1000)).encode()
        yield "NUL", b"lr: 1\0"
        yield "nothing but NULs", bytes(1000)
        yield "UTF-16", "lr: 0.5\n".encode("utf-16")
        yield "UTF-32", "lr: 0.5\n".encode("utf-32")
        yield "Latin-1", "run: é\n".encode("latin-1")
        yield "a mark of byte order", b"\xef\xbb\xbflr: 0.5\n"
        yield "a lone surrogate", b"run: \xed\xa0\x80\n"
        yield "two documents", b"lr: 0.5\n---\nlr: 0.5\n"
        yield "a call", b"!!python/object/apply:os.system ['touch x']\n"
        yield "a call as a value", b"run: !!python/object/apply:os.system ['touch x']\n"
        yield "lines in a key", b'"lr\\nof": 1\n'
        yield "lines in a value", b'model: "UIQA\\nSwinT"\nlearning: "a\\nb"\n'
        yield "lines of other kinds in a value", b'learning: "a\\rb\\Lc\\Pd\\Ne\\x0bf"\n'
        yield "an empty key", b'"": x\n'
        yield "the help", b"help: \n"
        yield "the help as a flag", b'"help": "True"\n'
        yield "another config", b"config: other.yaml\n"
        yield "another config, hidden", b'"config=other.yaml": x\n'
        yield "ten thousand keys", b"".join(b"k%d: v\n" % n for n in range(2_000))
        yield "a key there twice", b"lr: 1\nlr: 2\n"
        yield "a long value", b"model: " + b"x" * 1_000_000
        yield "a number of many digits", b"batch_size: " + b"9" * 10_000

    def content(self, number: int) -> bytes:
        """Return the file of a number."""
        if number < len(self.hostile):
            return self.hostile[number][1]
        generator = np.random.default_rng([4, number])
        lines = pick(generator, self.sound).split("\n")
        for _ in range(int(generator.integers(1, 5))):
            lines = self._mutated(generator, lines) or [""]
        content = "\n".join(lines).encode(pick(generator, ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16")))
        return pick(generator, BLIND)(generator, content) if content and generator.random() < 0.4 else content

    def _mutated(self, generator: np.random.Generator, lines: list[str]) -> list[str]:
        lines = list(lines)
        at = int(generator.integers(len(lines)))
        value = pick(generator, CONFIG_VALUES)
        action = int(generator.integers(5))
        if action == 0:
            lines[at] = re.sub(r": .*", lambda _: f": {value}", lines[at])
        elif action == 1:
            lines.insert(at, f"{pick(generator, self.names)}: {value}")
        elif action == 2:
            lines.insert(at, f"{value}: {pick(generator, CONFIG_VALUES)}")
        elif action == 3:
            lines[at] = " " * int(generator.integers(1, 9)) + lines[at]
        else:
            lines = rearrange(generator, lines)
        return lines

    def prepare(self, number: int) -> Callable[[], str]:
        path = self.folder / "run.yaml"
        path.write_bytes(self.content(number))

        def attempt() -> str:
            parser, printed = self.parser(), io.StringIO()
            try:
                with contextlib.redirect_stderr(printed):
                    options = self.parse(parser, ["--config", str(path)])
            except SystemExit as stop:
                said = printed.getvalue()
                if stop.code != 2 or len(said.splitlines()) != 1 or not said.endswith("\n") or len(said) > 3000:
                    raise UnexpectedError(f"exit code {stop.code}, {len(said)} letters said: {said[:500]!r}") from None
                if str(path) not in said:
                    raise UnexpectedError(f"the file is not named: {said[:500]!r}") from None
                return "error"
            if not set(self.names) - {"help"} <= set(vars(options)):
                raise UnexpectedError("options are missing")
            return "result"

        return attempt


KINDS = {"images": Images, "checkpoints": Checkpoints, "labels": Labels, "configs": Configs}


def check_message(error: Exception, start: str, anywhere: bool = False) -> None:
    """Check that an error says in one line of reasonable length which file is meant."""
    message = str(error)
    named = start.removesuffix(": ") in message if anywhere else message.startswith(start)
    if not named or message == start or len(message.splitlines()) != 1 or len(message) > 3000:
        raise UnexpectedError(f"{len(message)} letters, no clear message: {message[:500]!r}") from error
    cause = error
    while cause:
        if isinstance(cause, MemoryError) or "allocate memory" in str(cause):
            raise UnexpectedError(
                f"it was the kernel that kept it from taking more memory: {message[:500]!r}"
            ) from error
        cause = cause.__cause__ or cause.__context__


# --- Running


_seen: list[str] | None = None  # forbidden events while a file is read, None in between


def _watch(event: str, arguments: tuple) -> None:
    """Audit hook: keep a hostile file from what it must not do, and remember that it tried."""
    if _seen is None:
        return
    writes = event == "open" and arguments[0] != os.devnull and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event in FORBIDDEN or writes:
        _seen.append(f"{event} {arguments!r}"[:300])
        raise PermissionError(f"{event} while a hostile file is read")


def outcome(target, number: int, folder: Path) -> str:
    """Read one file; return "result" or "error".

    Raises:
        UnexpectedError: it ended in anything else, or did what no file may do.
    """
    global _seen
    attempt = target.prepare(number)
    _seen = []
    try:
        ended = attempt()
    except UnexpectedError:
        raise
    except BaseException as error:
        raise UnexpectedError(f"{type(error).__name__}: {str(error)[:500]}") from error
    finally:
        seen, _seen = _seen, None
        if (folder / MARKER).exists():
            (folder / MARKER).unlink()
            seen.append("the marker was made")
        if seen:
            raise UnexpectedError(f"it ran code: {'; '.join(seen)}")
    return ended


def peak_memory() -> int:
    """Return the largest resident memory of this process, bytes; `getrusage` would begin with its parent's."""
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak[1]) * 1024


def serve(folder: Path, kinds: Iterable[str]) -> None:
    """Be a child: read a kind and a number a line, answer with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    warnings.simplefilter("ignore")
    targets = {}
    for kind in kinds:
        (folder / kind).mkdir()
        targets[kind] = KINDS[kind](folder / kind)
    with Path("/proc/self/statm").open() as sizes:
        taken = int(sizes.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + HEADROOM,) * 2)
    sys.addaudithook(_watch)
    print(json.dumps({"memory": peak_memory()}), file=answers, flush=True)
    for line in sys.stdin:
        kind, number = line.split()
        start = time.perf_counter()
        try:
            answer = {"outcome": outcome(targets[kind], int(number), folder / kind)}
        except UnexpectedError as error:
            answer = {"outcome": "unexpected", "cause": str(error)}
        answer |= {"memory": peak_memory(), "seconds": time.perf_counter() - start}
        print(json.dumps(answer), file=answers, flush=True)


class Child:
    """A process that reads hostile files of some kinds, on one core and within its share of memory."""

    STARTS_WITHIN_S = 120  # a child imports torch, on a machine that may be busy

    def __init__(self, kinds: Iterable[str]):
        self.folder = tempfile.TemporaryDirectory(prefix="fuzz-")
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the child lives
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", __file__, "serve", self.folder.name, *kinds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            env=environment,
        )
        answer = self._answer(self.STARTS_WITHIN_S)
        if not answer:
            raise RuntimeError(f"no child for {', '.join(kinds)}: {self.end(died=answer is not None)}")
        self.memory_at_start = answer["memory"]

    def _answer(self, seconds: float) -> dict | None:
        """Return the next answer; an empty one if the child has died, None if it does not come in time."""
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else {}

    def ask(self, kind: str, number: int, seconds: float) -> dict | None:
        """Have a file read; see `_answer`."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{kind} {number}\n".encode())
            self.process.stdin.flush()
        return self._answer(seconds)

    def end(self, died: bool = False) -> str:
        """Stop the process unless it has died; return how it ended and the last that it said."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if not died:
            self.process.kill()
        code = self.process.wait()
        self.process.stdout.close()
        self.said.seek(0)
        last = self.said.read().decode(errors="replace").strip().splitlines()[-25:]
        self.said.close()
        self.folder.cleanup()
        how = "it was stopped" if not died else signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"{how}; {' | '.join(last)[:1500]}"


def run(numbers: dict[str, Iterable[int]], seconds: float = 10.0) -> dict[str, Tally]:
    """Have the files of some numbers read.

    Args:
        numbers: of the files, for each kind.
        seconds: after which a file counts as one that hangs.

    Returns:
        For each kind how its files ended.
    """
    tallies, child = {kind: Tally() for kind in numbers}, None
    for kind, number in itertools.chain(*(zip(itertools.repeat(kind), numbers[kind]) for kind in numbers)):
        tally, child = tallies[kind], child or Child(tuple(numbers))
        answer = child.ask(kind, number, seconds)
        tally.files += 1
        if not answer:
            tally.hangs += answer is None
            tally.crashes += answer is not None
            word = "hangs" if answer is None else "crashes"
            tally.unexpected.append(f"{kind} {number} {word}: {child.end(died=answer is not None)}")
            child = None
            continue
        tally.results += answer["outcome"] == "result"
        tally.errors += answer["outcome"] == "error"
        if answer["outcome"] == "unexpected":
            tally.unexpected.append(f"{kind} {number}: {answer['cause']}")
        tally.slowest_s = max(tally.slowest_s, answer["seconds"])
        tally.growth_mb = max(tally.growth_mb, (answer["memory"] - child.memory_at_start) / MEBIBYTE)
    if child:
        child.end()
    return tallies


def reproduce(kind: str, number: int, keep: Path | None = None) -> None:
    """Read one file in this process, and print what becomes of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = KINDS[kind](folder)
        if number < len(target.hostile):
            print(target.hostile[number][0])
        content = target.content(number) if hasattr(target, "content") else target.file(number)[1]
        print(len(content), "bytes,", base64.b85encode(content[:60]).decode())
        if keep:
            keep.write_bytes(content)
        sys.addaudithook(_watch)
        start = time.perf_counter()
        before = peak_memory()
        try:
            print(outcome(target, number, folder))
        except UnexpectedError:
            traceback.print_exc()
        grown = (peak_memory() - before) / MEBIBYTE
        print(f"{time.perf_counter() - start:.2f} s, memory grew by {grown:.0f} MB")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]), sys.argv[3:])
    else:
        reproduce(sys.argv[1], int(sys.argv[2]), *map(Path, sys.argv[3:4]))
