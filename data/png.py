"""Read the chunks of PNGs: the size and the orientation from the headers, and the picture from complete data.

Pillow does not notice missing rows, and refuses sound pictures with large metadata. So the chunks are checked here, and
Pillow is given only those that carry the picture.
"""

import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import BinaryIO

from PIL import Image, PngImagePlugin

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PICTURE = (b"IHDR", b"PLTE", b"IDAT")
_EXIF, _XMP, _EXIF_AS_TEXT = "exif", "XML:com.adobe.xmp", "Raw profile type exif"  # as in Pillow's `Image.info`
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_INDEXED = 3  # colour type
_BIT_DEPTH, _COLOUR_TYPE = 24, 25  # positions in the file
_INTERLACED = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_MAX_METADATA = 1 << 20  # bytes of a chunk that may hold the orientation; EXIF and XMP are a few kilobytes
_BLOCK = 1 << 20


def read_header(file: BinaryIO) -> tuple[int, int, Image.Exif]:
    """Return width, height and EXIF of a PNG without reading its pixels.

    Raises:
        ValueError: the file does not start with a sound header.
    """
    width, height, metadata = 0, 0, {}
    for index, (kind, offset, length) in enumerate(_chunks(file)):
        if index == 0:
            width, height, *_ = _parse_header(kind, file.read(length) if length == 13 else b"")
        elif kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt") and length <= _MAX_METADATA:
            file.seek(offset)
            data, checksum = file.read(length), file.read(4)
            if zlib.crc32(kind + data) == int.from_bytes(checksum, "big"):
                metadata |= _parse_metadata(kind, data)
    if not width:
        raise ValueError("the PNG has no header")
    carrier = Image.new("1", (1, 1))
    carrier.info = metadata
    try:
        return width, height, carrier.getexif()
    except Exception:  # a damaged EXIF block does not mean damaged pixels
        return width, height, Image.Exif()


def complete_picture(content: bytes) -> bytes:
    """Return a PNG of the chunks that carry the picture, after checking that all of it is there.

    Raises:
        ValueError: a chunk is damaged or cut short, there are fewer rows than the header says, or pixels have no colour
            in the palette.
    """
    view, pieces, data, header, colours = memoryview(content), [SIGNATURE], [], None, 0
    for kind, offset, length in _chunks(BytesIO(content)):
        if kind not in _PICTURE:
            continue
        end = offset + length
        if zlib.crc32(view[offset - 4 : end]) != int.from_bytes(view[end : end + 4], "big") or end + 4 > len(content):
            raise ValueError(f"the PNG is damaged or cut short in its chunk {kind.decode()}")
        if kind == b"IHDR":
            if header:
                raise ValueError("the PNG has two headers")
            header = _parse_header(kind, content[offset:end])
        elif kind == b"PLTE":
            colours = length // 3
        elif kind == b"IDAT":
            data.append(view[offset:end])
        pieces.append(view[offset - 8 : end + 4])
    if header is None:
        raise ValueError("the PNG has no header")
    check_deflated(data, _size_of_rows(*header))
    picture = b"".join([*pieces, b"\0\0\0\0IEND\xaeB`\x82"])
    if picture[_COLOUR_TYPE] == _INDEXED:
        _check_palette(picture, colours)
    return picture


def _check_palette(picture: bytes, colours: int) -> None:
    """Refuse an indexed picture without a palette, or with one that is too short for its pixels."""
    if colours == 0:
        raise ValueError("the PNG is damaged: its palette is missing")
    if colours < 1 << picture[_BIT_DEPTH]:
        with PngImagePlugin.PngImageFile(BytesIO(picture)) as indexed:  # not `Image.open`, which limits the size
            highest = indexed.getextrema()[1]
        if highest >= colours:
            raise ValueError(
                f"the PNG is damaged: its palette has {colours} colours, its pixels have up to {highest + 1}"
            )


def check_deflated(parts: Iterable[bytes | memoryview], expected: int) -> None:
    """Check that a zlib stream is sound, its checksum included, and holds at least `expected` bytes.

    Raises:
        ValueError: it is damaged, too short, or much longer than expected.
    """
    inflater, size = zlib.decompressobj(), 0
    try:
        for part in parts:
            while len(part) and size <= 2 * expected + _BLOCK and not inflater.eof:
                size += len(inflater.decompress(part, _BLOCK))
                part = inflater.unconsumed_tail
    except zlib.error as error:
        raise ValueError(f"the compressed data is damaged: {error}") from error
    if size < expected:
        raise ValueError(f"rows are missing: there are {size} bytes of {expected}")
    if size > expected and not inflater.eof:
        raise ValueError(f"the compressed data is damaged: there are more than {expected} bytes")


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, position and length of the chunks; the file stands at each chunk's data."""
    file.seek(len(SIGNATURE))
    while len(start := file.read(8)) == 8 and start[4:].isalpha():
        offset, length = file.tell(), int.from_bytes(start[:4], "big")
        yield start[4:], offset, length
        if start[4:] == b"IEND":
            return
        file.seek(offset + length + 4)


def _parse_header(kind: bytes, data: bytes) -> tuple[int, int, int, bool]:
    """Return width, height, bits per pixel and whether the rows are interlaced."""
    if kind != b"IHDR" or len(data) != 13 or data[9] not in _CHANNELS:
        raise ValueError("the PNG has no sound header")
    width, height = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big")
    return width, height, _CHANNELS[data[9]] * data[8], data[12] != 0


def _size_of_rows(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Return the number of bytes of all rows, each with its filter's byte."""
    size = 0
    for x, y, step_x, step_y in _INTERLACED if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if columns > 0 and rows > 0:
            size += rows * (1 + (columns * bits + 7) // 8)
    return size


def _parse_metadata(kind: bytes, data: bytes) -> dict[str, bytes | str]:
    """Return what may hold an orientation, in the form of Pillow's `Image.info`; empty for all else."""
    if kind == b"eXIf":
        return {_EXIF: b"Exif\0\0" + data}
    keyword, _, text = data.partition(b"\0")
    keyword = keyword.decode("latin-1")
    if keyword not in (_XMP, _EXIF_AS_TEXT):
        return {}
    is_compressed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    if kind == b"iTXt":  # compression flag and method, language, translated keyword
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif kind == b"zTXt":
        text = text[1:]
    if is_compressed:
        try:
            text = zlib.decompressobj().decompress(text, _MAX_METADATA)
        except zlib.error:
            return {}
    return {keyword: text.decode("latin-1")}
