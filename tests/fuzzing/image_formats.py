"""Damage to pictures by what their formats say."""

import contextlib
import re
import struct
import zlib
from collections.abc import Iterable

import numpy as np

from fuzzing.mutations import BLIND, extreme_bytes, overwrite, pick, rearrange


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


def mutate_avif(generator: np.random.Generator, content: bytes) -> bytes:
    """Change a box's size, or a number inside the description of the picture."""
    boxes = [
        match.start() for match in re.finditer(rb"ftyp|meta|iloc|iinf|iprp|ipco|ispe|pixi|av1C|colr|mdat", content)
    ]
    at = pick(generator, boxes or [4]) + pick(generator, (-4, 4, 8, 12))
    return content[: max(0, at)] + extreme_bytes(generator, 4, "big") + content[max(0, at) + 4 :]


INFORMED = {
    "JPEG": mutate_jpeg,
    "PNG": mutate_png,
    "TIFF": mutate_tiff,
    "WEBP": mutate_webp,
    "BMP": mutate_bmp,
    "AVIF": mutate_avif,
}
