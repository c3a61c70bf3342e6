"""Find the full-resolution page of a TIFF, and check that its data is there, which Pillow and libtiff do not."""

import contextlib
import struct
import zlib
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from data import jpeg, png

_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_SIZES, _PLANES, _TILE_WIDTH, _TILE_HEIGHT = 273, 277, 278, 279, 284, 322, 323
_ORIENTATION, _TILES, _TILE_SIZES, _SUB_PAGES, _SAMPLE_FORMAT, _JPEG_TABLES = 274, 324, 325, 330, 339, 347
_UNCOMPRESSED, _OLD_JPEG, _JPEG, _DEFLATE = 1, 6, 7, (8, 32946)
_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # the integers among the types of fields
_PREVIEW, _PARTS = 1, 1 | 4 | 8  # bits of the subfile type: preview; or mask or depth map
_MAX_PAGES = 1000
_HEADER_SIZE = 8  # bytes at the file's start
_BLANK_RATIO = 10  # by which data of blank strips is smaller than their pixels, at least
_ROLE_AND_SIZE = (_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _ORIENTATION, _SUB_PAGES)
_UNREADABLE = (struct.error, OverflowError, ValueError)  # from a damaged list of pages


class Page(NamedTuple):
    """Where a page's directory is, and the size of its pixels before the EXIF orientation is applied."""

    position: int
    width: int
    height: int
    orientation: int


def is_tiff(content: bytes) -> bool:
    """Say whether a file starts as TIFFs and BigTIFFs do."""
    return content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def full_page(file: BinaryIO) -> Page | None:
    """Find the page that is the photograph, if that is not the first.

    The first page of raw files, and of some scans, is a preview or a mask. The photograph is the next page that is
    neither, or hangs below the first page.

    Returns:
        The page; None if it is the first one.

    Raises:
        ValueError: there is no page, or only previews, or it is a Canon raw file, whose full picture no page holds.
    """
    start = _read(file, 0, 16)
    if start[:4] == b"II*\0" and start[8:10] == b"CR":
        raise ValueError("a Canon raw file: convert it to a TIFF or a JPEG")
    pages = _read_pages(file, start)
    if not pages or not _area(pages[0]):
        raise ValueError("the TIFF is damaged or cut short: its first page cannot be read")
    first, *others = pages
    if _is_photograph(first):
        hidden = [page for page in others if page["below"] and _is_photograph(page) and _area(page) > _area(first)]
        full = max(hidden, key=_area, default=first)
    else:
        full = next(filter(_is_photograph, others), None) or _largest_preview(first, others)
        if full is None:
            raise ValueError("only a preview or a mask of the photograph is in the TIFF")
    if full is first:
        return None
    return Page(full["position"], full[_WIDTH], full[_HEIGHT], full.get(_ORIENTATION, 1))


def with_first_page(content: bytes, position: int) -> bytes:
    """Return a TIFF whose first page is the one at a position."""
    order = "<" if content[:2] == b"II" else ">"
    if b"+" in content[:4]:
        return content[:8] + struct.pack(order + "Q", position) + content[16:]
    return content[:4] + struct.pack(order + "I", position) + content[8:]


def check_page(opened: Image.Image, content: bytes) -> None:
    """Check that a page can be read right, and that each of its strips or tiles is there.

    Args:
        opened: the page, by Pillow's TIFF plugin.
        content: the file.

    Raises:
        ValueError: strips are missing or damaged, or the page is of a kind that Pillow reads wrongly.
    """
    tags = opened.tag_v2
    bits, compression = np.atleast_1d(tags.get(_BITS, 1)), tags.get(_COMPRESSION, _UNCOMPRESSED)
    planar = tags.get(_PLANES, 1) == 2 and tags.get(_SAMPLES, 1) > 1
    if planar and bits.max() > 8 and compression == _UNCOMPRESSED:
        raise ValueError("an uncompressed TIFF of 16 bits with separate planes: save it compressed, or interleaved")
    if compression == _OLD_JPEG:
        raise ValueError("a TIFF with old-style JPEG compression: save it with another compression")
    if bits.max() <= 16 and 2 in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)):
        raise ValueError("signed pixels have no known white level; convert to unsigned ones first")
    positions, sizes, expected = _blocks(tags, int(bits[0]) if planar else _bits_per_pixel(tags, bits), planar, content)
    if compression == _UNCOMPRESSED and (sizes < expected).any():
        raise ValueError(f"the TIFF is damaged: its strip {np.argmax(sizes < expected)} lacks rows")
    if compression not in (_JPEG, *_DEFLATE):
        return
    blocks = zip(positions.tolist(), sizes.tolist(), expected.tolist(), strict=True)
    for index, (position, size, pixels) in enumerate(blocks):
        block = content[position : position + size]
        if compression == _JPEG:
            block = _with_tables(block, tags.get(_JPEG_TABLES))
            jpeg.decode(block, (1, 1))
            if not planar:  # separate planes of chroma may be subsampled
                _check_frame(block, index, tags)
        else:
            png.check_deflated([block], pixels)


def is_white_zero(opened: Image.Image) -> bool:
    """Say whether 0 is white in a page that Pillow does not invert itself: one of 16 bits."""
    return opened.format == "TIFF" and opened.mode.startswith("I;16") and opened.tag_v2.get(_PHOTOMETRIC) == 0


def _read_pages(file: BinaryIO, start: bytes) -> list[dict]:
    """Return the pages in a row, then those below the first, as far as they can be read.

    Each is a dictionary of its tags, "position" and "below".
    """
    order = "<" if start[:2] == b"II" else ">"
    is_big = b"+" in start[:4]
    pages, known = [], set()
    with contextlib.suppress(*_UNREADABLE):
        position = struct.unpack_from(order + ("Q" if is_big else "I"), start, 8 if is_big else 4)[0]
        while position and position not in known and len(pages) < _MAX_PAGES:
            known.add(position)
            page, position = _read_page(file, position, order, is_big)
            pages.append(page | {"below": False})
    with contextlib.suppress(*_UNREADABLE):
        for position in pages[0].get(_SUB_PAGES, ()) if pages else ():
            page, _ = _read_page(file, position, order, is_big)
            pages.append(page | {"below": True})
    return pages


def _read_page(file: BinaryIO, position: int, order: str, is_big: bool) -> tuple[dict, int]:
    """Return the tags that describe a page's role and size, and the position of the next page."""
    counter, entry, inline = ("Q", "HHQ8s", 8) if is_big else ("H", "HHI4s", 4)
    start = position + struct.calcsize(counter)
    entries = struct.unpack(order + counter, _read(file, position, start - position))[0]
    size = struct.calcsize("<" + entry)
    table = _read(file, start, size * min(entries, 1 << 16))
    page = {"position": position}
    for tag, kind, count, value in struct.iter_unpack(order + entry, table):
        if tag not in _ROLE_AND_SIZE or kind not in _TYPES or not 0 < count <= _MAX_PAGES:
            continue
        values = f"{order}{count}{_TYPES[kind]}"
        if struct.calcsize(values) > inline:
            value = _read(file, struct.unpack(order + ("Q" if is_big else "I"), value)[0], struct.calcsize(values))
        numbers = struct.unpack_from(values, value)
        page[tag] = numbers if tag == _SUB_PAGES else numbers[0]
    following = _read(file, start + len(table), inline).ljust(inline, b"\0")
    return page, struct.unpack(order + ("Q" if is_big else "I"), following)[0]


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _is_photograph(page: dict) -> bool:
    is_part = page.get(_SUBFILE, 0) & _PARTS or page.get(_OLD_SUBFILE) == 2
    return not is_part and _WIDTH in page and _HEIGHT in page


def _largest_preview(first: dict, others: list[dict]) -> dict | None:
    """Return the page of which the first is a preview, if a writer has marked that as a preview as well."""
    previews = [page for page in (first, *others) if page.get(_SUBFILE) == _PREVIEW]
    largest = max(previews, key=_area, default=None)
    return largest if largest and _area(largest) > _area(first) else None


def _area(page: dict) -> int:
    return page.get(_WIDTH, 0) * page.get(_HEIGHT, 0)


def _bits_per_pixel(tags: dict, bits: np.ndarray) -> int:
    samples = tags.get(_SAMPLES, 1)
    return int(bits[:samples].sum()) if len(bits) > 1 else int(bits[0]) * samples


def _blocks(tags: dict, bits: int, planar: bool, content: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return position, size and expected size when decoded of the strips or tiles, in bytes."""
    width, height = tags[_WIDTH], tags[_HEIGHT]
    columns, rows = _block_shape(tags)
    listed = (_TILES, _TILE_SIZES) if _TILES in tags else (_STRIPS, _STRIP_SIZES)
    positions, sizes = tags[listed[0]], tags.get(listed[1])
    down, across = -(-height // rows), -(-width // columns)
    needed = down * across * (tags.get(_SAMPLES, 1) if planar else 1)
    positions = np.atleast_1d(np.array(positions, np.int64))[:needed]
    if sizes is None and needed == 1:
        sizes = len(content) - positions  # optional in old files
    sizes = np.atleast_1d(np.array([] if sizes is None else sizes, np.int64))[:needed]
    if min(len(positions), len(sizes)) < needed:
        raise ValueError(f"the TIFF is damaged: it lists {min(len(positions), len(sizes))} of {needed} strips or tiles")
    if (sizes <= 0).any() or (positions + sizes > len(content)).any():
        raise ValueError("the TIFF is cut short: strips or tiles are missing")
    expected = np.full(needed, rows * ((columns * bits + 7) // 8))
    if _TILES not in tags:
        expected[down - 1 :: down] = (height - (down - 1) * rows) * ((columns * bits + 7) // 8)
    _check_positions(positions, sizes, expected, content)
    if tags.get(_PHOTOMETRIC) == 6 and tags.get(_COMPRESSION, _UNCOMPRESSED) != _UNCOMPRESSED:
        expected[:] = 0  # the chroma of YCbCr is subsampled
    return positions, sizes, expected


def _block_shape(tags: dict) -> tuple[int, int]:
    """Return the columns and rows of a strip or tile."""
    if _TILES in tags:
        return tags[_TILE_WIDTH], tags[_TILE_HEIGHT]
    return tags[_WIDTH], min(tags.get(_ROWS_PER_STRIP, tags[_HEIGHT]), tags[_HEIGHT])


def _check_positions(positions: np.ndarray, sizes: np.ndarray, expected: np.ndarray, content: bytes) -> None:
    """Refuse strips or tiles that lie in the file's header, or share their data though they are not blank.

    Some writers store one blank tile for all.
    """
    if (positions < _HEADER_SIZE).any():
        raise ValueError(
            f"the TIFF is damaged: its strip or tile {np.argmax(positions < _HEADER_SIZE)} has no position"
        )
    firsts, counts = np.unique(positions, return_index=True, return_counts=True)[1:]
    for first in firsts[counts > 1].tolist():
        block = content[positions[first] : positions[first] + sizes[first]]
        if len(zlib.compress(block, 1)) * _BLANK_RATIO > expected[first]:
            raise ValueError(f"the TIFF is damaged: another strip or tile has the data of number {first}")


def _check_frame(block: bytes, index: int, tags: dict) -> None:
    """Refuse a JPEG strip or tile that does not cover its part of the page."""
    columns, rows = _block_shape(tags)
    down, across = divmod(index, -(-tags[_WIDTH] // columns))
    needed = min(columns, tags[_WIDTH] - across * columns), min(rows, tags[_HEIGHT] - down * rows)
    with Image.open(BytesIO(block), formats=("JPEG",)) as opened:
        if opened.width < needed[0] or opened.height < needed[1]:
            raise ValueError(
                f"the TIFF is damaged: its strip or tile {index} has {opened.width} x {opened.height} pixels "
                f"in place of {needed[0]} x {needed[1]}"
            )


def _with_tables(block: bytes, tables: bytes | None) -> bytes:
    """Return a JPEG strip or tile with the tables that all share in front."""
    return tables[: tables.rfind(b"\xff\xd9")] + block[2:] if tables else block
