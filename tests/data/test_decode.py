"""Decoding: the pixels equal Pillow's, and every bad file is one clear error."""

import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from data.decode import (
    DEFAULT_MAX_PIXELS,
    EXTENSIONS,
    ImageError,
    decode_rgb,
    decode_thumbnail,
    image_size,
    to_rgb,
)

ORIENTATION = 0x0112
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A smooth and a noisy half of odd, unequal sides, with strong colours for chroma subsampling to smear."""
    generator = np.random.default_rng(2)
    pixels = generator.integers(0, 256, (57, 83, 3), np.uint8)
    pixels[:, :40] = np.linspace(0, 255, 40)[:, None]
    return Image.fromarray(pixels)


def encode(image: Image.Image, format_name: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def by_pillow(content: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(content))).convert("RGB"))


def grey_ramp(dtype=np.uint16) -> np.ndarray:
    """Return (32, 64) values from 0 to 65535, both included."""
    return np.linspace(0, 65_535, 32 * 64).round().astype(dtype).reshape(32, 64)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("kind", ["4:4:4", "4:2:2", "4:2:0", "grey"])
def test_a_jpeg_has_the_same_bits_as_pillows(picture, kind, quality, progressive):
    options = {"quality": quality, "progressive": progressive}
    if kind == "grey":
        content = encode(picture.convert("L"), "JPEG", **options)
    else:
        content = encode(picture, "JPEG", subsampling=kind, **options)
    assert np.array_equal(decode_rgb(content), by_pillow(content))


@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "BMP", "WEBP"])
def test_a_lossless_file_gives_back_the_pixels_stored(picture, format_name):
    content = encode(picture, format_name, **({"lossless": True} if format_name == "WEBP" else {}))
    assert np.array_equal(decode_rgb(content), np.asarray(picture))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientations_are_applied_once(picture, format_name, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = encode(picture, format_name, exif=exif)
    assert np.array_equal(decode_rgb(content), by_pillow(content))
    assert decode_rgb(content).shape == ((57, 83, 3) if orientation < 5 else (83, 57, 3))


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_exif_block_does_not_matter(picture, exif):
    assert np.array_equal(decode_rgb(encode(picture, "JPEG", exif=exif)), by_pillow(encode(picture, "JPEG")))


@pytest.mark.parametrize("exif", [b"garbage!", b"Exif\0\0garbage", b"\0\0"])
def test_a_damaged_exif_block_of_a_png_does_not_matter(picture, exif, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encode(picture, "PNG", exif=exif))
    assert np.array_equal(decode_rgb(path), np.asarray(picture))
    assert image_size(path) == picture.size[::-1]


@pytest.mark.parametrize("bits", [12, 16])
def test_white_is_white_in_grey_tiffs_of_any_depth(bits):
    data = bytes([0xFF] * (6 * 8 * bits // 8))
    tags = {256: 8, 257: 6, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 6, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    offset = 8 + len(data)
    content = struct.pack("<2sHI", b"II", 42, offset) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    assert (decode_rgb(content) == 255).all()


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_a_pil_image_without_pixels_is_refused(size):
    with pytest.raises(ImageError, match="no pixels"):
        to_rgb(Image.new("RGB", size))


def test_an_unknown_orientation_is_ignored(picture):
    exif = Image.Exif()
    exif[ORIENTATION] = 9
    assert np.array_equal(decode_rgb(encode(picture, "PNG", exif=exif)), np.asarray(picture))


@pytest.mark.parametrize(
    ("mode", "format_name"),
    [
        ("1", "PNG"),
        ("1", "TIFF"),
        ("L", "PNG"),
        ("L", "BMP"),
        ("P", "PNG"),
        ("P", "BMP"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("YCbCr", "TIFF"),
    ],
)
def test_other_colour_modes_are_converted_as_by_pillow(picture, mode, format_name):
    content = encode(picture.convert(mode), format_name)
    assert Image.open(BytesIO(content)).mode == mode
    assert np.array_equal(decode_rgb(content), by_pillow(content))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_an_alpha_channel_is_dropped_and_the_colours_below_it_kept(picture, mode, format_name):
    opaque = picture.convert(mode.removesuffix("A")) if mode == "LA" else picture
    transparent = opaque.copy()
    transparent.putalpha(Image.fromarray(np.random.default_rng(0).integers(0, 256, (57, 83), np.uint8)))
    content = encode(transparent, format_name)
    assert Image.open(BytesIO(content)).mode == mode
    assert np.array_equal(decode_rgb(content), np.asarray(opaque.convert("RGB")))


@pytest.mark.parametrize("transparency", [3, bytes(range(256))], ids=["one colour", "each colour"])
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_a_palettes_transparency_is_dropped(picture, transparency):
    palette = picture.quantize(256)
    content = encode(palette, "PNG", transparency=transparency)
    assert "transparency" in Image.open(BytesIO(content)).info
    assert np.array_equal(decode_rgb(content), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize(
    ("mode", "dtype", "format_name"), [("I;16", "<u2", "PNG"), ("I;16", "<u2", "TIFF"), ("I;16B", ">u2", "TIFF")]
)
def test_sixteen_bit_grey_is_scaled_and_not_clipped(mode, dtype, format_name):
    grey = grey_ramp()
    pixels = decode_rgb(encode(Image.frombytes(mode, (64, 32), grey.astype(dtype).tobytes()), format_name))
    assert np.abs(pixels - grey[..., None] / 257).max() <= 0.5
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[-1, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_known_white_level_are_refused(dtype, tmp_path):
    path = tmp_path / "hdr.tif"
    Image.fromarray(grey_ramp(dtype)).save(path)
    with pytest.raises(ImageError, match=r"hdr\.tif: 32-bit"):
        decode_rgb(path)


def test_only_the_first_page_is_read(picture):
    content = encode(picture, "TIFF", save_all=True, append_images=[ImageOps.invert(picture)])
    assert np.array_equal(decode_rgb(content), np.asarray(picture))
    content = encode(picture, "MPO", save_all=True, append_images=[ImageOps.invert(picture)])
    assert np.array_equal(decode_rgb(content), decode_rgb(encode(picture, "JPEG")))


# Pillow itself neither writes nor reads HEIC; AVIF it may have been built without.
WRITABLE = [name for name in EXTENSIONS if name not in (".heic", ".heif", *[".avif"] * (not features.check("avif")))]


@pytest.mark.parametrize("extension", WRITABLE)
def test_path_string_and_bytes_of_a_known_extension_agree(picture, extension, tmp_path):
    path = tmp_path / f"picture{extension}"
    picture.save(path)
    pixels = decode_rgb(path)
    for source in (str(path), path.read_bytes(), bytearray(path.read_bytes()), memoryview(path.read_bytes())):
        assert np.array_equal(decode_rgb(source), pixels)


def test_the_format_is_recognised_by_content_not_by_extension(picture, tmp_path):
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encode(picture, "PNG"))
    assert np.array_equal(decode_rgb(path), np.asarray(picture))


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_result_is_contiguous_writable_uint8(picture, format_name, mode, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    pixels = decode_rgb(encode(picture.convert(mode), format_name, exif=exif))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    pixels[:] = 7
    assert (pixels == 7).all()


BROKEN = {
    "empty": b"",
    "text": b"This is no photograph.\n" * 50,
    "binary": bytes(range(256)) * 4,
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_not_an_image_is_one_error_that_names_it(kind, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(BROKEN[kind])
    with pytest.raises(ImageError) as caught:
        decode_rgb(path)
    assert str(caught.value).count(str(path)) == 1
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("kept", [0.001, 0.02, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", [*FORMATS, "progressive JPEG"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_truncated_file_is_one_error_that_names_it(picture, kind, kept, tmp_path):
    content = encode(picture, kind.removeprefix("progressive "), progressive=kind.startswith("progressive"))
    path = tmp_path / "photo"
    path.write_bytes(content[: max(1, int(kept * len(content)))])
    with pytest.raises(ImageError) as caught:
        decode_rgb(path)
    assert str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_truncated_file_is_never_decoded_to_other_pixels(picture, format_name):
    """Wherever a file is cut, it is refused, or the missing bytes do not matter."""
    content = encode(picture, format_name)
    whole = decode_rgb(content)
    refused = 0
    for length in [*range(1, len(content), 97), *range(len(content) - 40, len(content))]:
        try:
            assert np.array_equal(decode_rgb(content[:length]), whole)
        except ImageError:
            refused += 1
    assert refused > len(content) // 97 - 2


@pytest.mark.parametrize(("name", "cause"), [("missing.jpg", "No such file"), ("", "directory"), ("nul\0.jpg", "null")])
def test_a_path_that_cannot_be_read_is_one_error_that_names_it(name, cause, tmp_path):
    path = tmp_path / name
    with pytest.raises(ImageError, match=cause) as caught:
        decode_rgb(path)
    assert str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize("format_name", FORMATS)
def test_max_pixels_is_the_largest_image_decoded(picture, format_name, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(encode(picture, format_name))
    assert decode_rgb(path, max_pixels=83 * 57).shape == (57, 83, 3)
    with pytest.raises(ImageError, match=r"83 x 57 .*--max_pixels 4730") as caught:
        decode_rgb(path, max_pixels=83 * 57 - 1)
    assert str(caught.value).count(str(path)) == 1


def test_a_header_that_promises_too_much_is_refused_before_it_is_decoded():
    content = bytearray(encode(Image.new("L", (1, 1)), "BMP"))
    content[18:26] = np.array([20_000, 20_000], "<i4").tobytes()
    with pytest.raises(ImageError, match=f"20000 x 20000 .*{DEFAULT_MAX_PIXELS}"):
        decode_rgb(bytes(content))


def test_max_pixels_replaces_pillows_own_limit(picture, monkeypatch):
    content = encode(picture, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(decode_rgb(content), np.asarray(picture))


@pytest.mark.parametrize("limit", [123_456, None])
def test_pillows_own_limit_is_restored_after_success_and_failure(picture, limit, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    content = encode(picture, "JPEG")
    decode_rgb(content)
    assert limit == Image.MAX_IMAGE_PIXELS
    for bad, max_pixels in ((b"text", 10_000), (content[:500], 10_000), (content, 10), ("missing.jpg", 10_000)):
        with pytest.raises(ImageError):
            decode_rgb(bad, max_pixels)
        assert limit == Image.MAX_IMAGE_PIXELS


def test_pillows_own_limit_is_restored_after_decoding_in_threads(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 123_456)
    content = encode(Image.new("RGB", (400, 300)), "PNG")
    for _ in range(20):
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(decode_rgb, [content] * 8))
        assert Image.MAX_IMAGE_PIXELS == 123_456


def test_a_real_photograph_has_the_same_bits_as_pillows(uhd_iqa_dir):
    photographs = sorted((uhd_iqa_dir / "uhd").glob("*.jpg"))
    if not photographs:
        pytest.skip("no photograph in uhd/")
    for path in photographs[:2]:
        assert np.array_equal(decode_rgb(path), by_pillow(path.read_bytes()))


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_from_the_header_is_that_of_the_pixels(picture, format_name, orientation, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / "picture"
    picture.save(path, format=format_name, exif=exif)
    assert image_size(path) == decode_rgb(path).shape[:2]


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "missing"])
def test_an_unreadable_header_is_the_same_error_as_in_decoding(content, tmp_path):
    path = tmp_path / "file.jpg"
    if content is not None:
        path.write_bytes(content)
    messages = []
    for function in (image_size, decode_rgb):
        with pytest.raises(ImageError) as caught:
            function(path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(str(path))


def test_a_size_beyond_max_pixels_is_refused(picture, tmp_path):
    path = tmp_path / "picture.png"
    picture.save(path)
    with pytest.raises(ImageError, match="--max_pixels 100"):
        image_size(path, max_pixels=100)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_thumbnail_is_the_image_scaled_down(format_name, orientation, tmp_path):
    ramp = np.linspace(0, 255, 400).astype(np.uint8)
    image = Image.fromarray(np.stack([np.tile(ramp, (300, 1))] * 3, axis=2))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / "photo"
    image.save(path, format_name, **({} if format_name == "BMP" else {"exif": exif}))
    small = decode_thumbnail(path, 100)
    whole = Image.fromarray(decode_rgb(path))
    assert max(small.shape[:2]) == 100
    assert small.shape[0] / small.shape[1] == pytest.approx(whole.height / whole.width, abs=0.02)
    expected = np.asarray(whole.resize(small.shape[1::-1], Image.Resampling.BOX)).astype(int)
    assert np.abs(small - expected).mean() < 3


def test_a_thumbnail_of_sixteen_bits_is_scaled_and_a_small_image_keeps_its_size(tmp_path):
    Image.fromarray(grey_ramp()).save(tmp_path / "a.png")
    small = decode_thumbnail(tmp_path / "a.png", 1000)
    np.testing.assert_array_equal(small, decode_rgb(tmp_path / "a.png"))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
@pytest.mark.parametrize("reader", [decode_rgb, lambda path: decode_thumbnail(path, 40)], ids=["whole", "thumbnail"])
def test_half_a_jpeg_with_an_end_marker_is_refused_by_name(picture, options, reader, tmp_path):
    path = tmp_path / "photo.jpg"
    content = encode(picture, "JPEG", **options)
    path.write_bytes(content[: len(content) // 2] + b"\xff\xd9")
    with pytest.raises(ImageError, match=r"photo\.jpg: cannot be decoded: the JPEG is (damaged|cut short)"):
        reader(path)


@pytest.mark.parametrize("kind", ["CMYK", "L", "RGB"])
def test_a_thumbnail_of_a_jpeg_of_any_colours(picture, kind, tmp_path):
    path = tmp_path / "photo.jpg"
    picture.convert(kind).save(path, quality=95)
    height, width, _ = decode_thumbnail(path, 40).shape
    assert width == 40
    assert height in (27, 28)
    assert decode_thumbnail(path, 500).shape == (57, 83, 3)


SPEAKING = {
    "EXIF cut short": ("JPEG", {"exif": b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"}),
    "EXIF beyond the file": ("JPEG", {"exif": b"Exif\0\0II*\0\xff\xff\xff\x7f"}),
    "palette with transparency": ("PNG", {"transparency": bytes(range(256))}),
}


@pytest.mark.parametrize("kind", SPEAKING)
def test_what_pillow_warns_about_is_not_printed(picture, kind, capfd):
    format_name, options = SPEAKING[kind]
    image = picture.quantize(256) if format_name == "PNG" else picture
    content = encode(image, format_name, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(decode_rgb(content), decode_rgb(encode(image, format_name)))
        to_rgb(Image.open(BytesIO(encode(picture.quantize(256), "PNG", transparency=bytes(256)))))
    assert not caught
    assert capfd.readouterr() == ("", "")


def test_pillow_does_not_log_to_the_terminal(picture):
    content = bytearray(encode(picture, "TIFF"))
    position = content.index(struct.pack("<HHI", 277, 3, 1)) + 8
    content[position : position + 2] = b"\xff\xff"  # samples per pixel
    script = "import sys; from data.decode import decode_rgb; decode_rgb(sys.stdin.buffer.read())"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], input=bytes(content), capture_output=True, cwd=root)
    assert b"ImageError" in done.stderr
    assert b"More samples per pixel" not in done.stderr


def test_a_large_tiff_is_held_against_max_pixels_and_not_against_pillows_limit(picture, monkeypatch):
    content = encode(picture, "TIFF", compression="tiff_lzw")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    np.testing.assert_array_equal(decode_rgb(content), np.asarray(picture))


def test_a_thumbnail_of_a_text_file_is_refused(tmp_path):
    (tmp_path / "text.jpg").write_text("no photograph")
    with pytest.raises(ImageError, match=r"text\.jpg"):
        decode_thumbnail(tmp_path / "text.jpg", 100)


@pytest.mark.parametrize("progressive", [False, True])
def test_bytes_after_the_end_of_a_jpeg_are_not_counted_as_scans(picture, progressive):
    content = encode(picture, "JPEG", progressive=progressive, comment=b"\xff\xda" * 300)
    expected = np.asarray(Image.open(BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(decode_rgb(content + b"\xff\xda\x00\x02" * 300), expected)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_path_bytes_pil_image_and_array_give_the_same_pixels(picture, format_name, orientation, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / "picture"
    picture.save(path, format=format_name, exif=exif)
    pixels = decode_rgb(path)
    loaded = Image.open(path)
    loaded.load()
    for photo in (path, str(path), path.read_bytes(), Image.open(path), loaded, pixels, pixels[::-1][::-1]):
        rgb = to_rgb(photo)
        assert np.array_equal(rgb, pixels)
        assert rgb.flags.c_contiguous


def test_an_array_is_used_as_it_is_and_a_pil_image_is_copied(picture):
    pixels = np.asarray(picture).copy()
    assert to_rgb(pixels) is pixels
    before = pixels.copy()
    to_rgb(picture)[:] = 0
    assert np.array_equal(np.asarray(picture), before)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 6), np.uint8),
        np.zeros((4, 6, 4), np.uint8),
        np.zeros((3, 4, 6), np.uint8),
        np.zeros((1, 4, 6, 3), np.uint8),
        np.zeros((0, 6, 3), np.uint8),
        np.zeros((4, 6, 3), np.float32),
        np.zeros((4, 6, 3), np.int64),
    ],
    ids=lambda array: f"{array.shape} {array.dtype}",
)
def test_an_array_of_another_shape_or_dtype_is_an_image_error_that_says_which(array):
    with pytest.raises(ImageError, match=rf"\(H, W, 3\) uint8.*{array.dtype}") as caught:
        to_rgb(array)
    assert str(array.shape) in str(caught.value)


def test_a_pil_image_obeys_max_pixels_and_needs_a_known_white_level(picture):
    assert to_rgb(picture, max_pixels=83 * 57).shape == (57, 83, 3)
    with pytest.raises(ImageError, match=r"<PIL image>: 83 x 57 .*--max_pixels 4730"):
        to_rgb(picture, max_pixels=83 * 57 - 1)
    with pytest.raises(ImageError, match="<PIL image>: 32-bit"):
        to_rgb(Image.fromarray(grey_ramp(np.float32)))


@pytest.mark.parametrize("photo", [None, 5, ["a.jpg"]], ids=str)
def test_anything_else_is_a_type_error(photo):
    with pytest.raises(TypeError):
        to_rgb(photo)


def test_decoding_does_not_make_pythons_warnings_repeat(tmp_path):
    """Each change of the filters forgets which warnings were shown already."""
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    decode_rgb(path)
    before = list(warnings.filters)
    decode_rgb(path)
    assert warnings.filters == before
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        decode_rgb(path)
        for _ in range(2):
            warnings.warn("once", UserWarning, stacklevel=1)
            decode_rgb(path)
    assert len(shown) == 1
