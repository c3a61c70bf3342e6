"""Decode image files to pixels; nothing else in the project does."""

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
from PIL import Image

from data import containers, jpeg, png, tiff
from data.files import one_line
from data.regular_files import check_file, read_file

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp"),
    *(".avif", ".heic", ".heif"),
)

# Pillow may only use these plugins (`containers` adds AVIF's and HEIC's). It goes by content, not by extension, and
# not every plugin is safe on a file from a stranger: PostScript, for one, is run by Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")

# Above the 151 megapixels of the largest medium-format sensors; 480 MB as uint8 RGB.
DEFAULT_MAX_PIXELS = 160_000_000

_ORIENTATION_TAG = 0x0112
_BITS_PER_SAMPLE_TAG = 258
_PILLOW = r"PIL\."  # its modules
_CONTENT = (bytes, bytearray, memoryview)  # types of a file's content, as opposed to its path
_pillow_limit_lock = Lock()
_pillow_limits = []  # Pillow's own limit, once for each image being decoded


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
    three times as fast), everything else by Pillow:

    - grey and palette images become RGB; an alpha channel is dropped, as in the published code;
    - CMYK is converted by Pillow's formula and ICC profiles are ignored, as in the published code;
    - 16-bit grey is scaled by 1/257 (Pillow's own conversion clips it); for 16-bit colour Pillow keeps the upper byte;
    - only the first frame or page is read, or the full-resolution page of a TIFF that starts with a preview or a mask;
    - 32-bit integer and floating-point images are refused, because their white level is unknown.

    Damaged and incomplete files are refused; docs/scoring.md lists the damage that a format does not show.

    Args:
        path_or_bytes: a file's path, or its content.
        max_pixels: largest width x height; a larger image is refused before it is decoded.

    Returns:
        (H, W, 3) uint8, C-contiguous.

    Raises:
        ImageError: the file is missing, empty, damaged, too large, not a regular file or not in a supported format.
    """
    with _image_errors(path_or_bytes):
        return _decode(_read(path_or_bytes, max_pixels), max_pixels)


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
            if 0 in photo.size:
                raise ImageError(f"has no pixels: {photo.width} x {photo.height}")
            _check_size(*photo.size, max_pixels)
            pixels = _rgb_of(photo)
            # Only now, because Pillow rotates TIFFs itself when it decodes them, and then drops the tag.
            return _upright(pixels, _orientation(photo))
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
        small = Image.fromarray(_decode(_read(path, max_pixels), max_pixels, side))
    small.thumbnail((side, side))
    return np.array(small)


def image_size(path: str | os.PathLike, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """Return (height, width) of what `decode_rgb` would return, reading only the file's header.

    Raises:
        ImageError: the file is missing, empty, too large, not a regular file or not in a supported format. Damage
            behind an intact header goes unnoticed.
    """
    with _image_errors(path):
        check_file(path, max_pixels)
        with Path(path).open("rb") as file:
            width, height, orientation = _read_header(file, max_pixels)
            _check_size(width, height, max_pixels)
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _read(path_or_bytes: str | os.PathLike | bytes, max_pixels: int) -> bytes:
    if isinstance(path_or_bytes, _CONTENT):
        return bytes(path_or_bytes)
    return read_file(path_or_bytes, max_pixels)


def _read_header(file: BinaryIO, max_pixels: int) -> tuple[int, int, int]:
    """Return width, height and the EXIF orientation that is still to be applied, without reading the pixels."""
    start = file.read(16)
    if start.startswith(png.SIGNATURE):
        width, height, exif = png.read_header(file)
        return width, height, exif.get(_ORIENTATION_TAG, 1)
    if containers.is_container(start):
        file = containers.without_pixels(file)
    elif tiff.is_tiff(start) and (page := tiff.full_page(file)):
        return page.width, page.height, page.orientation
    file.seek(0)
    with _opened(file, max_pixels) as opened:
        # Pillow swaps the sides of a rotated TIFF itself.
        return *opened.size, 1 if opened.format == "TIFF" else _orientation(opened)


@contextmanager
def _image_errors(source: str | os.PathLike | bytes) -> Iterator[None]:
    """Turn every error from reading or decoding into an ImageError that names the source and the cause.

    What Pillow warns about and logs is metadata and limits: it stays quiet, and damage to the pixels is an error.
    """
    if not any(getattr(module, "pattern", module) == _PILLOW for _, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module=_PILLOW)
    if not (logger := logging.getLogger("PIL")).handlers:
        logger.addHandler(logging.NullHandler())
    name = f"<{len(source)} bytes>" if isinstance(source, _CONTENT) else os.fspath(source)
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # decoders raise a dozen types for damaged files; only the system's errors have an errno
        action = "read" if getattr(error, "errno", None) else "decoded"
        raise ImageError(f"{name}: cannot be {action}: {one_line(error)}") from error


def _decode(content: bytes, max_pixels: int, side: int | None = None) -> np.ndarray:
    """Return upright (H, W, 3) uint8; a JPEG no larger than needed for a longer side of `side`, if that is given."""
    orientation = None
    if content.startswith(png.SIGNATURE):
        width, height, exif = png.read_header(BytesIO(content))
        _check_size(width, height, max_pixels)
        orientation = exif.get(_ORIENTATION_TAG, 1)
        content = png.complete_picture(content)
    elif containers.is_container(content):
        containers.check_complete(content)
    elif tiff.is_tiff(content) and (page := tiff.full_page(BytesIO(content))):
        _check_size(page.width, page.height, max_pixels)
        content = tiff.with_first_page(content, page.position)
    with _opened(BytesIO(content), max_pixels) as opened:
        if opened.format in ("JPEG", "MPO"):
            pixels = jpeg.decode(content, _size_for_side(opened.size, side))
            if pixels is not None:
                return _upright(pixels, _orientation(opened))
        if opened.format == "TIFF":
            tiff.check_page(opened, content)
        pixels = _rgb_of(opened)
        # Only now, because Pillow rotates TIFFs itself when it decodes them, and then drops the tag.
        return _upright(pixels, _orientation(opened) if orientation is None else orientation)


@contextmanager
def _opened(file: BinaryIO, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image, with max_pixels instead of Pillow's own size limit."""
    start = file.read(1024)
    if not start:
        raise ImageError("the file is empty")
    formats = containers.plugins(start) or _FORMATS
    _check_size(*containers.webp_canvas(start), max_pixels)
    with _without_pillow_limit():
        try:
            opened = Image.open(file, formats=formats)
        except Image.UnidentifiedImageError as error:
            raise ImageError(_unknown_format(start)) from error
        with opened:
            _check_size(*opened.size, max_pixels)
            yield opened


def _unknown_format(start: bytes) -> str:
    if tiff.is_tiff(start):
        return "a TIFF whose pixels are in a form that cannot be read (raw data of a camera, for example); convert it"
    return f"not an image in a known format (it begins with {start[:8]!r})"


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Lift Pillow's own size limit, a global variable, while any thread decodes."""
    with _pillow_limit_lock:
        _pillow_limits.append(_pillow_limits[0] if _pillow_limits else Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _pillow_limit_lock:
            limit = _pillow_limits.pop()
            if not _pillow_limits:
                Image.MAX_IMAGE_PIXELS = limit


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} pixels exceed --max_pixels {max_pixels}; raise it to use this image")


def _size_for_side(size: tuple[int, int], side: int | None) -> tuple[int, int]:
    """Return the (height, width) at which the longer side is `side`; (0, 0), which is full size, without one."""
    scale = side / max(size) if side else 0
    return (0, 0) if scale >= 1 else (math.ceil(size[1] * scale), math.ceil(size[0] * scale))


def _rgb_of(opened: Image.Image) -> np.ndarray:
    """Return an opened image as (H, W, 3) uint8, converted as `decode_rgb` describes."""
    sixteen_bit = opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format == "PNG")
    if opened.mode in ("I", "F") and not sixteen_bit:
        raise ImageError(f"32-bit pixels (mode {opened.mode}) have no known white level; convert to 8 or 16 bits first")
    if sixteen_bit:
        is_inverted = tiff.is_white_zero(opened)  # read before the pixels: Pillow drops tags with the file
        bits = max(getattr(opened, "tag_v2", {}).get(_BITS_PER_SAMPLE_TAG, (16,)))
        grey = (np.asarray(opened).astype(np.float32) / ((2**bits - 1) / 255)).round().astype(np.uint8)
        return np.repeat((255 - grey if is_inverted else grey)[..., None], 3, axis=2)
    if "transparency" in opened.info:  # dropped like an alpha channel; Pillow would warn about palettes
        opened = opened.copy()
        del opened.info["transparency"]
    return np.array(opened.convert("RGB"))  # a copy: torch warns about read-only arrays


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
