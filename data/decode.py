"""Decode image files to pixels; nothing else in the project does."""

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

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp")

# Pillow may only use these plugins. It goes by content, not by extension, and not every plugin is safe on a file from a
# stranger: PostScript, for one, is run by Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")

# Encoders write about ten scans into a progressive JPEG. Decoding each one touches the whole picture, so a file with
# thousands of tiny scans would take minutes.
_MAX_SCANS = 200
_START_OF_SCAN, _END_OF_IMAGE, _SEQUENTIAL = 0xDA, 0xD9, (0xC0, 0xC1, 0xC9)
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # starts a segment; never occurs inside a scan

# Above the 151 megapixels of the largest medium-format sensors; 480 MB as uint8 RGB.
DEFAULT_MAX_PIXELS = 160_000_000

_ORIENTATION_TAG = 0x0112
_CONTENT = (bytes, bytearray, memoryview)  # types of a file's content, as opposed to its path
_pillow_limit_lock = Lock()


class ImageError(ValueError):
    """The image cannot be used; the message names the file and the cause."""


def name_error(error: ImageError, photo: object) -> str:
    """Return an error's message, with the file's name in front if the photograph is a file and the name is missing."""
    message = str(error)
    if not isinstance(photo, str | os.PathLike) or message.startswith(str(photo)):
        return message
    return f"{photo}: {message}"


def decode_rgb(path_or_bytes: str | os.PathLike | bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Decode one image to 8-bit RGB, with its EXIF orientation applied.

    8-bit grey and YCbCr JPEGs are decoded by libjpeg-turbo directly (`simplejpeg`: the same bits as Pillow, two to
    three times as fast). Pillow decodes everything else, and every file that simplejpeg refuses:

    - grey and palette images become RGB; an alpha channel is dropped, as in the published code;
    - CMYK is converted by Pillow's formula and ICC profiles are ignored, as in the published code;
    - 16-bit grey is scaled by 1/257 (Pillow's own conversion clips it); for 16-bit colour Pillow keeps the upper byte;
    - only the first frame or page is read;
    - 32-bit integer and floating-point images are refused, because their white level is unknown.

    Args:
        path_or_bytes: a file's path, or its content.
        max_pixels: largest width x height; a larger image is refused before it is decoded.

    Returns:
        (H, W, 3) uint8, C-contiguous.

    Raises:
        ImageError: the file is missing, empty, truncated, too large or not in one of the supported formats.
    """
    with _image_errors(path_or_bytes):
        content = _read(path_or_bytes)
        with _open(BytesIO(content), max_pixels) as opened:
            if opened.format in ("JPEG", "MPO"):
                _check_scans(content)
                pixels = _decode_plain_jpeg(content)
                if pixels is not None:
                    return _upright(pixels, _orientation(opened))
            return _decode_with_pillow(opened)


def to_rgb(
    photo: str | os.PathLike | bytes | Image.Image | np.ndarray, max_pixels: int = DEFAULT_MAX_PIXELS
) -> np.ndarray:
    """Convert a photograph in any form to 8-bit RGB.

    Args:
        photo: a path or a file's content, decoded by `decode_rgb`; a PIL image, converted by the same rules; or an
            (H, W, 3) uint8 array, used as it is.
        max_pixels: as in `decode_rgb`.

    Returns:
        (H, W, 3) uint8, C-contiguous.

    Raises:
        ImageError: as `decode_rgb`; or the array has another shape or dtype.
    """
    if isinstance(photo, Image.Image):
        with _image_errors("<PIL image>"):
            _check_size(*photo.size, max_pixels)
            return _decode_with_pillow(photo)
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or photo.size == 0:
            raise ImageError(f"<array>: must be (H, W, 3) uint8, not {photo.shape} {photo.dtype}")
        return np.require(photo, requirements=["C", "W"])  # torch has no read-only tensors
    return decode_rgb(photo, max_pixels)


def decode_thumbnail(path: str | os.PathLike, side: int, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Decode an image for display, shrunk to fit a square of `side` pixels.

    A JPEG is decoded at 1/8 to 1/2 of its size where that is large enough.

    Returns:
        (h, w, 3) uint8, h and w at most `side`.

    Raises:
        ImageError: as `decode_rgb`.
    """
    with _image_errors(path):
        content = _read(path)
        with _open(BytesIO(content), max_pixels) as opened:
            if opened.format in ("JPEG", "MPO"):
                _check_scans(content)
                opened.thumbnail((side, side))
                return _decode_with_pillow(opened)
    small = Image.fromarray(decode_rgb(path, max_pixels))
    small.thumbnail((side, side))
    return np.array(small)


def image_size(path: str | os.PathLike, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """Return (height, width) of what `decode_rgb` would return, reading only the file's header.

    Raises:
        ImageError: the file is missing, empty, too large or not in one of the supported formats. Damage behind an
            intact header goes unnoticed.
    """
    with _image_errors(path), Path(path).open("rb") as file, _open(file, max_pixels) as opened:
        width, height = opened.size
        # Pillow swaps the sides of a rotated TIFF itself.
        is_rotated = opened.format != "TIFF" and _orientation(opened) in (5, 6, 7, 8)
    return (width, height) if is_rotated else (height, width)


def _read(path_or_bytes: str | os.PathLike | bytes) -> bytes:
    return bytes(path_or_bytes) if isinstance(path_or_bytes, _CONTENT) else Path(path_or_bytes).read_bytes()


@contextmanager
def _image_errors(source: str | os.PathLike | bytes) -> Iterator[None]:
    """Turn every error from reading or decoding into an ImageError that names the source and the cause."""
    name = f"<{len(source)} bytes>" if isinstance(source, _CONTENT) else os.fspath(source)
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # decoders raise a dozen types for damaged files; only the system's errors have an errno
        action = "read" if getattr(error, "errno", None) else "decoded"
        raise ImageError(f"{name}: cannot be {action}: {one_line(error)}") from error


def _open(file: BinaryIO, max_pixels: int) -> Image.Image:
    """Read an image's header, with max_pixels instead of Pillow's own size limit."""
    first_bytes = file.read(8)
    if not first_bytes:
        raise ImageError("the file is empty")
    with _pillow_limit_lock:  # Pillow's limit is a global variable, and other threads may be decoding
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            opened = Image.open(file, formats=_FORMATS)
        except Image.UnidentifiedImageError as error:
            raise ImageError(f"not an image in a known format (it begins with {first_bytes!r})") from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    _check_size(*opened.size, max_pixels)
    return opened


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels exceed --max_pixels {max_pixels}; raise it to use this image")


def _check_scans(content: bytes) -> None:
    """Refuse a JPEG with so many scans that decoding would take minutes."""
    scans, position, components = 0, 0, b""
    while (marker := _MARKER.search(content, position)) and marker[0][1] != _END_OF_IMAGE:
        segment = marker.end()
        if marker[0][1] in _SEQUENTIAL:
            components = content[segment + 7 : segment + 8]
        if marker[0][1] == _START_OF_SCAN:
            if scans == 0 and components == content[segment + 2 : segment + 3] != b"":
                return  # the first scan has every component, as in most photographs: decoders read no further
            scans += 1
        position = segment + int.from_bytes(content[segment : segment + 2], "big")
    if scans > _MAX_SCANS:
        raise ImageError(f"the JPEG has {scans} scans; at most {_MAX_SCANS} are decoded")


def _decode_plain_jpeg(content: bytes) -> np.ndarray | None:
    """Return the pixels of an intact 8-bit grey or YCbCr JPEG, or None to leave the file to Pillow."""
    try:
        colorspace = simplejpeg.decode_jpeg_header(content)[2]
        if colorspace not in ("Gray", "YCbCr"):
            return None
        return simplejpeg.decode_jpeg(content, colorspace="rgb")
    except ValueError:
        return None


def _decode_with_pillow(opened: Image.Image) -> np.ndarray:
    """Return an opened image as upright (H, W, 3) uint8, converted as `decode_rgb` describes."""
    sixteen_bit = opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format == "PNG")
    if opened.mode in ("I", "F") and not sixteen_bit:
        raise ImageError(f"32-bit pixels (mode {opened.mode}) have no known white level; convert to 8 or 16 bits first")
    if sixteen_bit:
        grey = (np.asarray(opened).astype(np.float32) / 257).round().astype(np.uint8)
        pixels = np.repeat(grey[..., None], 3, axis=2)
    else:
        pixels = np.array(opened.convert("RGB"))  # a copy: torch warns about read-only arrays
    # Only now, because Pillow rotates TIFFs itself when it decodes them, and then drops the tag.
    return _upright(pixels, _orientation(opened))


def _orientation(opened: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none."""
    try:
        return opened.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a damaged EXIF block does not mean damaged pixels
        return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation (CIPA DC-008, tag 0x0112) to (H, W, 3); contiguous, (W, H, 3) for 5 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
