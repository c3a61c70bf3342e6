"""TIFFs: the photograph is the full-resolution page, and every strip and tile of it must be there."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from data.decode import ImageError, decode_rgb, image_size
from data.tiff import full_page, with_first_page

NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
GREY = NOISE[..., 0]
SIZES = {1: 1, 3: 2, 4: 4}  # bytes of BYTE, SHORT, LONG


def encode(pixels: np.ndarray = NOISE, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "TIFF", **options)
    return buffer.getvalue()


def directory(entries: dict[int, tuple[int, list[int]]], position: int, order: str = "<") -> bytes:
    """Return a directory of {tag: (type, values)} to stand at a position, long values behind it."""
    behind, table = b"", struct.pack(order + "H", len(entries))
    values_at = position + 2 + 12 * len(entries) + 4
    for tag, (kind, values) in sorted(entries.items()):
        raw = struct.pack(f"{order}{len(values)}{ {1: 'B', 3: 'H', 4: 'I'}[kind] }", *values)
        if len(raw) > 4:
            raw, behind = struct.pack(order + "I", values_at + len(behind)), behind + raw
        table += struct.pack(order + "HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
    return table + bytes(4) + behind


def tiff(
    strips: list[bytes],
    bits: int = 8,
    channels: int = 1,
    photometric: int = 1,
    rows: int = 60,
    order: str = "<",
    **tags,
) -> bytes:
    """Return a TIFF of 80 x 60 pixels made of uncompressed strips; further tags are given as t254=1."""
    positions = np.cumsum([8, *map(len, strips)]).tolist()
    entries = {
        256: (4, [80]),
        257: (4, [60]),
        258: (3, [bits] * channels),
        259: (3, [1]),
        262: (3, [photometric]),
        273: (4, positions[:-1]),
        277: (3, [channels]),
        278: (4, [rows]),
        279: (4, [len(strip) for strip in strips]),
        **{int(tag[1:]): (4, value if isinstance(value, list) else [value]) for tag, value in tags.items()},
    }
    start = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, positions[-1])
    return start + b"".join(strips) + directory(entries, positions[-1], order)


def strips_of(pixels: np.ndarray, rows: int) -> list[bytes]:
    return [pixels[at : at + rows].tobytes() for at in range(0, len(pixels), rows)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_strips_that_are_not_listed_empty_or_short_are_refused(order):
    strips = strips_of(GREY, 10)
    np.testing.assert_array_equal(decode_rgb(tiff(strips, rows=10, order=order))[..., 0], GREY)
    for damaged, cause in (
        (strips[:3], "lists 3 of 6"),
        ([*strips[:3], b"", *strips[4:]], "cut short"),
        ([*strips[:5], strips[5][:-1]], "lacks rows"),
    ):
        with pytest.raises(ImageError, match=cause):
            decode_rgb(tiff(damaged, rows=10, order=order))


def with_entry(content: bytes, tag: int, index: int, value: int) -> bytes:
    """Return a little-endian TIFF with one LONG of a tag changed."""
    start = struct.unpack_from("<I", content, 4)[0]
    entries = struct.unpack_from("<H", content, start)[0]
    at = next(
        at for at in range(start + 2, start + 2 + 12 * entries, 12) if content[at : at + 2] == bytes([tag & 255, 1])
    )
    count, position = struct.unpack_from("<II", content, at + 4)
    at = at + 8 if count == 1 else position + 4 * index
    return content[:at] + struct.pack("<I", value) + content[at + 4 :]


def test_strips_in_the_header_or_with_the_data_of_others_are_refused():
    content = tiff(strips_of(GREY, 10), rows=10)
    np.testing.assert_array_equal(decode_rgb(with_entry(content, 273, 3, 8 + 3 * 800))[..., 0], GREY)
    for position in (0, 7):
        with pytest.raises(ImageError, match="strip or tile 3 has no position"):
            decode_rgb(with_entry(content, 273, 3, position))
    with pytest.raises(ImageError, match="has the data of number 2"):
        decode_rgb(with_entry(content, 273, 3, 8 + 2 * 800))


def test_blank_strips_may_share_their_data():
    pixels = GREY.copy()
    pixels[20:40] = 255
    content = with_entry(tiff(strips_of(pixels, 10), rows=10), 273, 3, 8 + 2 * 800)
    np.testing.assert_array_equal(decode_rgb(content)[..., 0], pixels)


def test_jpeg_strips_must_cover_the_page():
    content = encode(compression="jpeg", strip_size=80 * 3 * 16)
    assert decode_rgb(content).shape == (60, 80, 3)
    wider = content.replace(struct.pack("<HHIHH", 256, 3, 1, 80, 0), struct.pack("<HHIHH", 256, 3, 1, 160, 0))
    wider = wider.replace(struct.pack("<HHII", 256, 4, 1, 80), struct.pack("<HHII", 256, 4, 1, 160))
    assert wider != content
    with pytest.raises(ImageError, match=r"tile 0 has 80 x \d+ pixels in place of 160 x"):
        decode_rgb(wider)


COMPRESSIONS = ["raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg", "zstd", "lzma"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_wherever_a_tiff_is_cut_it_is_refused_or_whole(compression):
    content = encode(compression=compression)
    whole, refused = decode_rgb(content), 0
    for length in range(1, len(content), len(content) // 50):
        try:
            np.testing.assert_array_equal(decode_rgb(content[:length]), whole)
        except ImageError:
            refused += 1
    assert refused >= 48


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "jpeg"])
def test_damage_inside_strips_with_checks_is_refused(compression):
    pixels = np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)
    content = encode(pixels, compression=compression)
    for position in range(1000, len(content) * 3 // 4, 20_000):
        with pytest.raises(ImageError):
            decode_rgb(content[:position] + bytes(2000) + content[position + 2000 :])


def tiles(planar: bool = False) -> bytes:
    """Return a TIFF of 80 x 60 pixels in tiles of 32 x 32."""
    padded = np.pad(NOISE, ((0, 4), (0, 16), (0, 0)))
    layers = [padded[..., channel] for channel in range(3)] if planar else [padded]
    blocks = [layer[y : y + 32, x : x + 32].tobytes() for layer in layers for y in (0, 32) for x in (0, 32, 64)]
    positions = np.cumsum([8, *map(len, blocks)]).tolist()
    entries = {
        256: (4, [80]),
        257: (4, [60]),
        258: (3, [8] * 3),
        259: (3, [1]),
        262: (3, [2]),
        277: (3, [3]),
        284: (3, [1 + planar]),
        322: (3, [32]),
        323: (3, [32]),
        324: (4, positions[:-1]),
        325: (4, [len(block) for block in blocks]),
    }
    return struct.pack("<2sHI", b"II", 42, positions[-1]) + b"".join(blocks) + directory(entries, positions[-1])


@pytest.mark.parametrize("planar", [False, True])
def test_tiles_are_all_needed(planar):
    content = tiles(planar)
    np.testing.assert_array_equal(decode_rgb(content), NOISE)
    sizes = content.rindex(struct.pack("<I", 32 * 32 * (1 if planar else 3)))
    with pytest.raises(ImageError, match="cut short"):
        decode_rgb(content[:sizes] + bytes(4) + content[sizes + 4 :])


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_in_separate_planes_are_refused_unless_they_are_read_right(order):
    wide = NOISE.astype(order + "u2") * 257
    planes = [np.ascontiguousarray(wide[..., channel]).tobytes() for channel in range(3)]
    with pytest.raises(ImageError, match=r"16 bits with separate planes: save it"):
        decode_rgb(tiff(planes, 16, 3, 2, order=order, t284=2))
    np.testing.assert_array_equal(decode_rgb(tiff([wide.tobytes()], 16, 3, 2, order=order)), NOISE)
    eight = [NOISE[..., channel].tobytes() for channel in range(3)]
    np.testing.assert_array_equal(decode_rgb(tiff(eight, 8, 3, 2, order=order, t284=2)), NOISE)


def test_white_is_zero_is_no_negative():
    wide = GREY.astype("<u2") * 257
    for bits, pixels in ((8, 255 - GREY), (16, 65_535 - wide)):
        np.testing.assert_array_equal(decode_rgb(tiff([pixels.tobytes()], bits, photometric=0))[..., 0], GREY)
    np.testing.assert_array_equal(decode_rgb(tiff([wide.tobytes()], 16))[..., 0], GREY)


@pytest.mark.parametrize("bits", [8, 16])
def test_signed_pixels_and_old_style_jpegs_are_refused(bits):
    with pytest.raises(ImageError, match="signed pixels"):
        decode_rgb(tiff([bytes(80 * 60 * bits // 8)], bits, t339=2))
    with pytest.raises(ImageError, match="old-style JPEG"):
        decode_rgb(tiff([bytes(80 * 60)], t259=6))


def tags(subfile_type: int) -> TiffImagePlugin.ImageFileDirectory_v2:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory[254] = subfile_type
    return directory


def pages(first_type: int, second_type: int, first: np.ndarray, second: np.ndarray, big: bool = False) -> bytes:
    """Return a TIFF of two pages of the given subfile types."""
    content = bytearray(
        encode(first, save_all=True, tiffinfo=tags(first_type), append_images=[Image.fromarray(second)], big_tiff=big)
    )
    with Image.open(io.BytesIO(content)) as opened:
        opened.seek(1)
        entry = content.index(struct.pack("<HH", 254, 4), opened._frame_pos[1])  # Pillow gives each page the same type
    value = entry + (12 if big else 8)
    content[value : value + 4] = struct.pack("<I", second_type)
    return bytes(content)


SMALL = np.ascontiguousarray(NOISE[::4, ::4])


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("first", "second"), [(1, 0), (1, 2), (4, 0), (1, 1), (1 | 4, 0)])
def test_a_preview_or_a_mask_in_front_is_not_the_photograph(first, second, big, tmp_path):
    path = tmp_path / "photo.tif"
    path.write_bytes(pages(first, second, SMALL, NOISE, big))
    np.testing.assert_array_equal(decode_rgb(path), NOISE)
    assert image_size(path) == (60, 80)


def test_the_first_page_of_many_is_the_photograph():
    for types in ((0, 0), (2, 2), (0, 1)):
        np.testing.assert_array_equal(decode_rgb(pages(*types, SMALL, NOISE)), SMALL)


def test_a_preview_without_its_photograph_is_refused():
    for content in (encode(tiffinfo=tags(1)), encode(tiffinfo=tags(4)), pages(1, 1, NOISE, SMALL)):
        with pytest.raises(ImageError, match="only a preview or a mask"):
            decode_rgb(content)


def raw_file(photometric: int) -> bytes:
    """Return a file as cameras write them: a preview, and below it the picture in the given colour space."""
    preview, full = GREY.tobytes(), np.tile(GREY, (2, 2)).tobytes()
    at = 8 + len(preview) + len(full)
    common = {258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 277: (3, [1])}
    first = {254: (4, [1]), 256: (4, [80]), 257: (4, [60]), 273: (4, [8]), 279: (4, [len(preview)]), 330: (4, [0])}
    below = at + len(directory(common | first, at))
    first[330] = (4, [below])
    sub = {254: (4, [0]), 256: (4, [160]), 257: (4, [120]), 273: (4, [8 + len(preview)]), 279: (4, [len(full)])}
    return b"".join(
        [
            struct.pack("<2sHI", b"II", 42, at) + preview + full,
            directory(common | first, at),
            directory(common | sub | {262: (3, [photometric])}, below),
        ]
    )


def test_the_picture_below_a_preview_is_decoded_if_it_can_be_and_else_refused(tmp_path):
    (tmp_path / "photo.tif").write_bytes(raw_file(1))
    np.testing.assert_array_equal(decode_rgb(tmp_path / "photo.tif")[..., 0], np.tile(GREY, (2, 2)))
    assert image_size(tmp_path / "photo.tif") == (120, 160)
    with pytest.raises(ImageError, match="raw data of a camera"):
        decode_rgb(raw_file(32_803))  # a colour filter array
    with pytest.raises(ImageError, match="Canon raw"):
        decode_rgb(b"II*\0\x10\0\0\0CR\2\0" + bytes(100))


def test_a_damaged_list_of_pages_is_an_error_that_says_so():
    content = encode()
    for damaged in (content[:8], content[:4] + b"\xff\xff\xff\x7f" + content[8:], content[:8] + bytes(len(content))):
        with pytest.raises(ImageError, match="first page cannot be read"):
            decode_rgb(damaged)


def test_pages_that_form_a_ring_end():
    content = pages(2, 2, SMALL, NOISE)
    assert full_page(io.BytesIO(content)) is None
    assert with_first_page(content, 8)[:8] == b"II*\0\x08\0\0\0"
