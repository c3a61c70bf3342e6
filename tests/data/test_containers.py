"""WebP, AVIF and HEIC: recognised by content, complete, and measured without reading the pixels."""

import io
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from counting_file import CountingFile
from PIL import Image, features

from data.containers import check_complete, is_container, plugins, webp_canvas, without_pixels
from data.decode import ImageError, decode_rgb, decode_thumbnail, image_size

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(2000)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))


def encode(image: Image.Image, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    name, *options = kind.split()
    image.save(buffer, name, exif=exif, lossless="lossless" in options)
    return buffer.getvalue()


KINDS = ["WEBP", "WEBP lossless", pytest.param("AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason=""))]


@pytest.mark.parametrize("kind", KINDS)
def test_wherever_a_file_is_cut_it_is_refused(picture, kind):
    content = encode(picture, kind)
    decode_rgb(content)
    for length in [*range(1, len(content), len(content) // 40), len(content) - 1]:
        with pytest.raises(ImageError):
            decode_rgb(content[:length])


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_behind_the_picture_do_not_matter(picture, kind):
    content = encode(picture, kind)
    np.testing.assert_array_equal(decode_rgb(content + b"junk" * 100), decode_rgb(content))


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_read_without_the_pixels(picture, kind, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(picture, kind))
    assert image_size(path) == decode_rgb(path).shape[:2] == (120, 90)
    file = CountingFile(path.read_bytes())
    assert len(without_pixels(file).getvalue()) == len(file.getvalue())
    assert file.bytes_read < 1500 < len(file.getvalue()) / 2


@pytest.mark.parametrize("lossless", [False, True])
def test_the_size_of_an_animation_with_transparency_is_read(picture, lossless, tmp_path):
    frames = [picture.convert("RGBA"), picture.rotate(180).convert("RGBA")]
    for frame in frames:
        frame.putalpha(Image.linear_gradient("L").resize(frame.size))
    path = tmp_path / "animation.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=lossless)
    assert image_size(path) == picture.size[::-1] == decode_rgb(path).shape[:2]


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_an_avif_is_decoded_under_any_name(picture, tmp_path):
    picture.save(tmp_path / "photo.avif")
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "photo.avif").read_bytes())
    expected = np.asarray(Image.open(tmp_path / "photo.avif").convert("RGB"))
    for name in ("photo.avif", "photo.jpg"):
        np.testing.assert_array_equal(decode_rgb(tmp_path / name), expected)
    assert decode_thumbnail(tmp_path / "photo.jpg", 30).shape[1] == 30


@pytest.mark.parametrize("name", ["photo.heic", "photo.HEIF", "photo.jpg"])
def test_a_heic_without_its_library_is_refused_with_the_remedy(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / name
    path.write_bytes(HEIC)
    for read in (decode_rgb, image_size):
        with pytest.raises(ImageError, match="pip install pillow-heif"):
            read(path)


def test_an_avif_without_support_is_refused_with_the_remedy(picture, monkeypatch):
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(ImageError, match="install --upgrade pillow"):
        decode_rgb(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(100))


def test_a_heic_is_left_to_its_library(picture, monkeypatch):
    class HeifFile(Image.Image):
        """Stands in for pillow-heif's plugin."""

        format = "HEIF"

    def open_heif(file, filename):
        image = HeifFile()
        image.im, image._mode, image._size = picture.im, picture.mode, picture.size
        return image

    def register_heif_opener():
        Image.register_open("HEIF", open_heif, lambda start: start[4:8] == b"ftyp")

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register_heif_opener))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    np.testing.assert_array_equal(decode_rgb(HEIC), np.asarray(picture))


@pytest.mark.parametrize(
    ("brands", "expected"),
    [
        (b"avif\0\0\0\0mif1avif", ("AVIF",)),
        (b"mif1\0\0\0\0mif1avif", ("AVIF",)),
        (b"isom\0\0\0\0isommp42", ()),
        (b"qt  \0\0\0\0qt  ", ()),
    ],
)
@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_the_brand_says_which_plugin_reads_a_file(brands, expected):
    assert plugins(struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(50)) == expected


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}], ids=str)
def test_the_canvas_of_a_webp_is_known_before_pillow_allocates_it(picture, options, monkeypatch):
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", **options)
    assert webp_canvas(buffer.getvalue()[:30]) == picture.size
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(ImageError, match="120 x 90 pixels exceed"):
        decode_rgb(buffer.getvalue(), max_pixels=90 * 120 - 1)


def test_a_chunk_of_4_gigabytes_is_not_allocated(picture):
    class CarefulFile(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size < 1_000_000
            return super().read(size)

    content = encode(picture, "WEBP") + b"EXIF\xff\xff\xff\xff"
    assert len(without_pixels(CarefulFile(content)).getvalue()) == len(content)


def test_other_files_are_no_containers():
    for start in (b"", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0AVI LIST", b"\x89PNG\r\n\x1a\n"):
        assert not is_container(start)
        assert plugins(start) == ()
        assert webp_canvas(start.ljust(30)) == (0, 0)


def test_a_box_behind_the_end_is_named():
    content = b"\0\0\0\x10ftypavif\0\0\0\0" + b"\0\0\x10\0mdat" + bytes(100)
    with pytest.raises(ValueError, match="124 bytes of 4112"):
        check_complete(content)
