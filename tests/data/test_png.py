"""PNGs: what carries the picture must be complete, and nothing else matters."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from counting_file import CountingFile
from PIL import Image, PngImagePlugin

from data.decode import ImageError, decode_rgb, image_size
from data.png import check_deflated, complete_picture, read_header

NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


def encode(pixels: np.ndarray = NOISE, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: bytes, interlace: int = 0, compressed: bytes | None = None) -> bytes:
    """Return a PNG of 80 x 60 RGB pixels, from its rows with their filter bytes, or from its zlib stream."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 80, 60, 8, 2, 0, 0, interlace))
    data = chunk(b"IDAT", zlib.compress(rows) if compressed is None else compressed)
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def plain_rows(pixels: np.ndarray = NOISE) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def interlaced_rows() -> bytes:
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    return b"".join(plain_rows(NOISE[y::down, x::right]) for x, y, right, down in passes)


@pytest.mark.parametrize(
    ("rows", "interlace"), [(plain_rows(), 0), (interlaced_rows(), 1)], ids=["plain", "interlaced"]
)
def test_missing_rows_in_a_sound_stream_are_refused(rows, interlace):
    np.testing.assert_array_equal(decode_rgb(png(rows, interlace)), NOISE)
    for size in (0, 1, len(rows) // 2, len(rows) - 1):
        with pytest.raises(ImageError, match=rf"rows are missing: there are {size} bytes of {len(rows)}"):
            decode_rgb(png(rows[:size], interlace))


def test_damage_with_a_right_crc_is_refused():
    compressed = zlib.compress(plain_rows())
    for damaged in (
        compressed[:-4] + bytes(4),
        compressed[: len(compressed) // 2],
        zlib.compress(plain_rows()[:-1]) + b"junk",
        compressed[:5000] + bytes(100) + compressed[5100:],
    ):
        with pytest.raises(ImageError, match=r"damaged|rows are missing"):
            decode_rgb(png(b"", compressed=damaged))


def test_a_wrong_checksum_counts_only_in_the_chunks_of_the_picture():
    text = chunk(b"tEXt", b"a\0b")
    content = png(plain_rows())
    with_text = content[:33] + text[:-1] + bytes([text[-1] ^ 1]) + content[33:]
    np.testing.assert_array_equal(decode_rgb(with_text), NOISE)
    for position in (29, content.index(b"IEND") - 5):
        damaged = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        with pytest.raises(ImageError, match=r"chunk I(HDR|DAT)"):
            decode_rgb(damaged)


def test_a_png_that_lacks_only_its_end_is_decoded_and_one_with_two_headers_or_none_refused():
    content = png(plain_rows())
    for whole in (content[:-12], content[:-2], content + b"junk"):
        np.testing.assert_array_equal(decode_rgb(whole), NOISE)
    for damaged in (content[:33] + content[8:], content[:8] + content[33:], content[:8], content[:33]):
        with pytest.raises(ImageError):
            decode_rgb(damaged)


@pytest.mark.parametrize("bits", [4, 8])
def test_an_indexed_picture_needs_a_palette_with_all_its_colours(bits):
    indices = np.arange(60 * 80, dtype=np.uint8).reshape(60, 80) % 16
    packed = indices if bits == 8 else indices[:, ::2] << 4 | indices[:, 1::2]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 80, 60, bits, 3, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(plain_rows(packed))) + chunk(b"IEND", b"")
    palette = np.random.default_rng(0).integers(0, 256, (16, 3), np.uint8)
    start = b"\x89PNG\r\n\x1a\n" + header
    np.testing.assert_array_equal(decode_rgb(start + chunk(b"PLTE", palette.tobytes()) + data), palette[indices])
    with pytest.raises(ImageError, match="palette is missing"):
        decode_rgb(start + data)
    with pytest.raises(ImageError, match="palette has 15 colours, its pixels have up to 16"):
        decode_rgb(start + chunk(b"PLTE", palette[:15].tobytes()) + data)


def large_metadata(kind: str) -> dict:
    text = PngImagePlugin.PngInfo()
    if kind == "zTXt":
        text.add_text("parameters", "a" * 2_000_000, zip=True)
    elif kind == "iTXt":
        text.add_itxt("XML:com.adobe.xmp", "x" * 2_000_000, zip=True)
    elif kind == "many":
        for index in range(70):
            text.add_text(f"k{index}", "a" * 1_000_000, zip=True)
    else:
        return {"icc_profile": bytes(3_000_000)}
    return {"pnginfo": text}


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "many", "ICC"])
def test_large_metadata_does_not_matter(kind, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encode(**large_metadata(kind)))
    np.testing.assert_array_equal(decode_rgb(path), NOISE)
    assert image_size(path) == (60, 80)


def test_the_header_is_read_without_the_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = CountingFile(encode(np.tile(NOISE, (10, 10, 1)), exif=exif))
    width, height, found = read_header(file)
    assert (width, height, found[0x0112]) == (800, 600, 6)
    assert file.bytes_read < 200 < 100_000 < len(file.getvalue())


ORIENTATIONS = {
    "eXIf behind the pixels": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
    "XMP": chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
    "compressed XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b'<x tiff:Orientation="6"/>')),
}


@pytest.mark.parametrize("kind", ORIENTATIONS)
def test_an_orientation_is_found_wherever_it_stands(kind, tmp_path):
    content = png(plain_rows())
    path = tmp_path / "photo.png"
    path.write_bytes(content[:-12] + ORIENTATIONS[kind] + content[-12:])
    np.testing.assert_array_equal(decode_rgb(path), NOISE[::-1].transpose(1, 0, 2))
    assert image_size(path) == (80, 60)


def test_an_orientation_with_a_wrong_checksum_does_not_count():
    content, exif = png(plain_rows()), ORIENTATIONS["eXIf behind the pixels"]
    np.testing.assert_array_equal(decode_rgb(content[:-12] + exif[:-1] + b"\0" + content[-12:]), NOISE)


def test_only_the_chunks_of_the_picture_are_kept():
    content = encode(**large_metadata("zTXt"))
    kept = complete_picture(content)
    assert [kind for kind in (b"zTXt", b"IDAT", b"IEND") if kind in kept] == [b"IDAT", b"IEND"]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(kept))), NOISE)


def test_a_stream_of_zeros_is_not_inflated_to_its_end(tmp_path: Path):
    compress = zlib.compressobj(9)
    bomb = b"".join(compress.compress(bytes(1 << 20)) for _ in range(100)) + compress.flush()
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        check_deflated([bomb], 1000)
    check_deflated([zlib.compress(bytes(1000)) + b"junk"], 1000)
