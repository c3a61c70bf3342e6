"""The one place where an image file becomes pixels."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image

from data.files import one_line

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")

# The only plugins of Pillow that are asked: others read whatever comes under a photograph's name, and not all are safe.
# PostScript is handed to Ghostscript, which runs it.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")

# Encoders make some ten scans of a progressive JPEG. Each passes over the whole picture, so that thousands of them, of
# a few bytes each, would take minutes.
_MAX_SCANS = 200
_START_OF_SCAN, _END_OF_IMAGE, _SEQUENTIAL = 0xDA, 0xD9, (0xC0, 0xC1, 0xC9)
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # of a segment; none of these stands within a scan

# Above the 151 megapixels of the largest medium-format sensors; 480 MB as uint8 RGB.
DEFAULT_MAX_PIXELS = 160_000_000

_ORIENTATION_TAG = 0x0112
_pillow_limit_lock = Lock()


class ImageError(ValueError):
    """An image that cannot be used; the message names the file and the cause."""


def decode_rgb(path_or_bytes: str | os.PathLike | bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Decode one image to 8-bit RGB, with its EXIF orientation applied.

    8-bit grey and YCbCr JPEGs go through libjpeg-turbo directly (`simplejpeg`: the same bits as Pillow, two to three
    times as fast); everything else, and whatever that refuses, is Pillow's to decide. What becomes of the rest:

    - grey and palette images become RGB; an alpha channel is dropped, as in the published code;
    - CMYK is converted by Pillow's formula and ICC profiles are ignored, as in the published code;
    - 16-bit grey is scaled by 1/257 (Pillow's own conversion clips it); of 16-bit colour Pillow keeps the upper byte;
    - of several frames or pages the first counts;
    - 32-bit integer and floating-point images have no known white and are refused.

    Args:
        path_or_bytes: a file's path, or its content.
        max_pixels: width x height above which the image is refused before it is decoded.

    Returns:
        (H, W, 3) uint8, C-contiguous.

    Raises:
        ImageError: missing, empty, truncated, too large, or no image that Pillow knows.
    """
    name, content = _read(path_or_bytes)
    with _faults_of(name, content), _open(BytesIO(content), max_pixels) as opened:
        pixels = None
        if opened.format in ("JPEG", "MPO"):
            _check_scans(content)
            pixels = _decode_plain_jpeg(content)
        if pixels is None:
            pixels = _decode_with_pillow(opened)
        orientation = _orientation(opened)  # after decoding: Pillow has turned TIFFs and then drops the tag
    return np.ascontiguousarray(_turn_upright(pixels, orientation))


def to_rgb(
    photo: str | os.PathLike | bytes | Image.Image | np.ndarray, max_pixels: int = DEFAULT_MAX_PIXELS
) -> np.ndarray:
    """Return a photograph in any form as 8-bit RGB.

    Args:
        photo: path or file content, decoded by `decode_rgb`; a PIL image, converted likewise; or (H, W, 3) uint8, used
            as it is.
        max_pixels: as in `decode_rgb`.

    Returns:
        (H, W, 3) uint8, C-contiguous.

    Raises:
        ImageError: as `decode_rgb`; or an array of another shape or type.
    """
    if isinstance(photo, Image.Image):
        with _faults_of("<PIL image>", b""):
            _check_size(*photo.size, max_pixels)
            orientation = _orientation(photo)
            return np.ascontiguousarray(_turn_upright(_decode_with_pillow(photo), orientation))
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or photo.size == 0:
            raise ImageError(f"<array>: must be (H, W, 3) uint8, not {photo.shape} {photo.dtype}")
        return np.ascontiguousarray(photo)
    return decode_rgb(photo, max_pixels)


def decode_thumbnail(path: str | os.PathLike, side: int, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Decode an image to fit into a square of `side` pixels, for people to look at.

    A JPEG is decoded at an eighth to a half of its size where that is enough.

    Returns:
        (h, w, 3) uint8, h and w at most `side`.

    Raises:
        ImageError: as `decode_rgb`.
    """
    name, content = _read(path)
    with _faults_of(name, content), _open(BytesIO(content), max_pixels) as opened:
        if opened.format in ("JPEG", "MPO"):
            _check_scans(content)
            orientation = _orientation(opened)
            opened.thumbnail((side, side))
            return np.ascontiguousarray(_turn_upright(_decode_with_pillow(opened), orientation))
    small = Image.fromarray(decode_rgb(path, max_pixels))
    small.thumbnail((side, side))
    return np.array(small)


def image_size(path: str | os.PathLike, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """Return (height, width) of what `decode_rgb` would return, from the file's header alone.

    Raises:
        ImageError: missing, empty, too large, or no image that Pillow knows. A damaged picture behind an intact header
            is not found out here.
    """
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            return _upright_size(name, file, max_pixels)
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def _upright_size(name: str, file: BinaryIO, max_pixels: int) -> tuple[int, int]:
    start = file.read(8)
    if not start:
        raise ImageError(f"{name}: the file is empty")
    file.seek(0)
    with _faults_of(name, start), _open(file, max_pixels) as opened:
        width, height = opened.size
        turned = opened.format != "TIFF" and _orientation(opened) in (5, 6, 7, 8)  # Pillow turns a TIFF's size itself
    return (width, height) if turned else (height, width)


def _read(path_or_bytes: str | os.PathLike | bytes) -> tuple[str, bytes]:
    """Return a name for messages and the file's content."""
    if isinstance(path_or_bytes, bytes | bytearray | memoryview):
        name, content = f"<{len(path_or_bytes)} bytes>", bytes(path_or_bytes)
    else:
        name = os.fspath(path_or_bytes)
        try:
            content = Path(path_or_bytes).read_bytes()
        except (OSError, ValueError) as error:
            raise _unreadable(name, error) from error
    if not content:
        raise ImageError(f"{name}: the file is empty")
    return name, content


def _unreadable(name: str, error: OSError | ValueError) -> ImageError:
    """Return the error for a file that cannot be read; a ValueError comes from a name that no file can have."""
    return ImageError(f"{name}: cannot be read: {one_line(error)}")


@contextmanager
def _faults_of(name: str, content: bytes) -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageError that names the file and the cause."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image in a known format ({_first_bytes(content)})") from error
    except Exception as error:  # the decoders raise a dozen types for damaged files; all mean the same to the caller
        raise ImageError(f"{name}: cannot be decoded: {one_line(error)}") from error


def _open(file: BinaryIO, max_pixels: int) -> Image.Image:
    """Read an image's header; max_pixels takes the place of Pillow's own limit on its size."""
    with _pillow_limit_lock:  # the limit is a global of Pillow's, and threads may decode side by side
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            opened = Image.open(file, formats=_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    _check_size(*opened.size, max_pixels)
    return opened


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels are more than --max_pixels {max_pixels}; raise it if meant")


def _check_scans(content: bytes) -> None:
    """Refuse a JPEG that would be decoded over and over again."""
    scans, position, components = 0, 0, b""
    while (found := _MARKER.search(content, position)) and found[0][1] != _END_OF_IMAGE:
        segment = found.end()
        if found[0][1] in _SEQUENTIAL:
            components = content[segment + 7 : segment + 8]
        if found[0][1] == _START_OF_SCAN:
            if scans == 0 and components == content[segment + 2 : segment + 3] != b"":
                return  # one scan has it all, as in most photographs: decoders take no other
            scans += 1
        position = segment + int.from_bytes(content[segment : segment + 2], "big")
    if scans > _MAX_SCANS:
        raise ImageError(f"a JPEG of {scans} scans; more than {_MAX_SCANS} are not decoded")


def _decode_plain_jpeg(content: bytes) -> np.ndarray | None:
    """Return the pixels of an intact 8-bit grey or YCbCr JPEG, or None where Pillow is to decide."""
    try:
        colorspace = simplejpeg.decode_jpeg_header(content)[2]
        if colorspace not in ("Gray", "YCbCr"):
            return None
        return simplejpeg.decode_jpeg(content, colorspace="rgb")
    except ValueError:
        return None


def _decode_with_pillow(opened: Image.Image) -> np.ndarray:
    """Return (H, W, 3) uint8 of an opened image; see `decode_rgb` for what becomes of each mode."""
    sixteen_bit = opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format == "PNG")
    if opened.mode in ("I", "F") and not sixteen_bit:
        raise ImageError(
            f"32-bit pixels (Pillow mode {opened.mode}) have no known white; convert to 8 or 16 bits first"
        )
    if sixteen_bit:
        grey = np.asarray(opened).astype(np.float32)
        grey = (grey / 257).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(opened.convert("RGB"))  # a copy, for torch warns of arrays that cannot be written to


def _orientation(opened: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none or the EXIF block is damaged."""
    try:
        return opened.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a damaged EXIF block says nothing about the picture
        return 1


def _turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (CIPA DC-008, tag 0x0112); (H, W, 3) in, a view of it or (W, H, 3) out."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _first_bytes(content: bytes) -> str:
    return f"it begins with {content[:8]!r}"
