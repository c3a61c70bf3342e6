"""Photographs that lost a part: they must be refused, or decoded to the pixels of the whole.

Flipped bits and overwritten bytes are not among the losses: most of them lead from one valid picture to another, in the
data of a JPEG as in all data without a checksum, and no decoder can tell. Of such files only a sound result or one
clear error is asked.
"""

import io

import numpy as np


def photographs() -> dict[str, list[bytes]]:
    """Return pictures with about as much detail as photographs, of every format, for `LOSSES`."""
    from PIL import Image, features

    generator = np.random.default_rng(7)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), np.uint8)).resize((360, 270), 3)
    noise = generator.integers(-12, 13, (270, 360, 3))
    picture = Image.fromarray((np.asarray(coarse).astype(int) + noise).clip(0, 255).astype(np.uint8))

    def encode(format_name: str, **options) -> bytes:
        buffer = io.BytesIO()
        picture.save(buffer, format_name, **options)
        return buffer.getvalue()

    compressed = ("tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg", "zstd", "lzma")
    sound = {
        "JPEG": [
            encode("JPEG", quality=90),
            encode("JPEG", quality=95, optimize=True, subsampling="4:4:4"),
            encode("JPEG", quality=90, progressive=True),
            encode("JPEG", quality=90, restart_marker_rows=2),
        ],
        "PNG": [encode("PNG"), encode("PNG", compress_level=0)],
        "WEBP": [encode("WEBP"), encode("WEBP", lossless=True)],
        "TIFF": [encode("TIFF"), *(encode("TIFF", compression=compression) for compression in compressed)],
        "BMP": [encode("BMP")],
    }
    return sound | ({"AVIF": [encode("AVIF")]} if features.check("avif") else {})


def cut(generator: np.random.Generator, content: bytes) -> bytes:
    return content[: int(generator.integers(1, len(content) - 20))]


def cut_and_end(generator: np.random.Generator, content: bytes) -> bytes:
    """Cut a JPEG or a PNG anywhere, and end it as its format does."""
    end = b"\xff\xd9" if content[0] == 0xFF else content[-12:]
    return cut(generator, content).rstrip(b"\xff") + end


def lose_a_sector(generator: np.random.Generator, content: bytes) -> bytes:
    """Overwrite at least 512 bytes of the picture's data with zeros."""
    size = 512 * int(generator.integers(1, 9))
    at = int(generator.integers(1000, len(content) - size - 20))
    return content[:at] + bytes(size) + content[at + size :]


def lose_a_part(generator: np.random.Generator, content: bytes) -> bytes:
    """Leave out some bytes of a PNG."""
    at = int(generator.integers(1, len(content) - 100))
    return content[:at] + content[at + int(generator.integers(1, 80)) :]


# What each format shows. WebP, AVIF, BMP and most TIFFs have no checksum: zeros in the middle are another picture.
LOSSES = {
    "JPEG": (cut, cut_and_end, lose_a_sector),
    "PNG": (cut, cut_and_end, lose_a_sector, lose_a_part),
    "WEBP": (cut,),
    "TIFF": (cut,),
    "BMP": (cut,),
    "AVIF": (cut,),
}
