"""Hostile pictures: of every format that is read, damaged blindly and by what the format says, or with a part lost."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fuzzing.image_formats import INFORMED, jpeg_parts, png_chunks, png_of
from fuzzing.losses import LOSSES, photographs
from fuzzing.mutations import BLIND, MARKER, MEBIBYTE, UnexpectedError, check_message, pick

MAX_PIXELS = 1_000_000


def scene(width: int, height: int, seed: int) -> np.ndarray:
    """Return (height, width, 3) uint8 with smooth and noisy parts."""
    generator = np.random.default_rng(seed)
    pixels = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    pixels[height // 2 :] = generator.integers(0, 256, (height - height // 2, width, 3))
    return pixels.astype(np.uint8)


def sound_images() -> dict[str, list[bytes]]:
    """Return small pictures of every format in the modes that photographs and scans come in."""
    from PIL import Image, features

    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    picture = Image.fromarray(scene(150, 100, 0))
    small = Image.fromarray(scene(61, 67, 1))
    grey16 = Image.fromarray(scene(80, 60, 2)[..., 0].astype(np.uint16) * 257)
    translucent = small.copy()
    translucent.putalpha(small.convert("L"))
    large = Image.fromarray(scene(300, 200, 3))

    def encode(image: Image.Image, format_name: str, **options) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format_name, **options)
        return buffer.getvalue()

    return {
        "JPEG": [
            encode(picture, "JPEG", quality=90, subsampling="4:2:0", exif=exif),
            encode(small, "JPEG", quality=70, subsampling="4:4:4", optimize=True),
            encode(large, "JPEG", quality=60, progressive=True),
            encode(small.convert("L"), "JPEG", quality=80),
            encode(small.convert("L"), "JPEG", quality=80, progressive=True),
            encode(small.convert("CMYK"), "JPEG", quality=80),
            encode(picture, "JPEG", quality=50, subsampling="4:2:2", restart_marker_blocks=4, icc_profile=b"p" * 300),
            encode(small, "MPO", quality=80, save_all=True, append_images=[small]),
        ],
        "PNG": [
            encode(picture, "PNG", exif=exif),
            encode(grey16, "PNG"),
            encode(small.quantize(200), "PNG", transparency=3),
            encode(small.quantize(4), "PNG", bits=2),
            encode(small.convert("1"), "PNG"),
            encode(translucent, "PNG", icc_profile=b"p" * 300),
            encode(translucent.convert("LA"), "PNG"),
            encode(small, "PNG", save_all=True, append_images=[small.rotate(90)]),
            encode(large, "PNG", compress_level=1),
        ],
        "WEBP": [
            encode(small, "WEBP", quality=60),
            encode(picture, "WEBP", lossless=True, exif=exif),
            encode(translucent, "WEBP", quality=50),
            encode(small, "WEBP", save_all=True, append_images=[small.rotate(90)]),
        ],
        "TIFF": [
            encode(picture, "TIFF", exif=exif),
            encode(small, "TIFF", compression="tiff_lzw"),
            encode(small, "TIFF", compression="tiff_adobe_deflate", tiffinfo={317: 2}),
            encode(small, "TIFF", compression="jpeg"),
            encode(small.convert("1"), "TIFF", compression="group4"),
            encode(grey16, "TIFF", compression="packbits"),
            encode(small.convert("CMYK"), "TIFF", save_all=True, append_images=[small.convert("CMYK")]),
        ],
        "AVIF": [encode(picture, "AVIF", exif=exif), encode(translucent, "AVIF")] if features.check("avif") else [],
        "BMP": [
            encode(small, "BMP"),
            encode(small.convert("L"), "BMP"),
            encode(small.quantize(16), "BMP"),
            encode(small.convert("1"), "BMP"),
        ],
    }


def hostile_images(sound: dict[str, list[bytes]]) -> list[tuple[str, bytes]]:
    """Return attacks that chance would hardly find: bombs, contradictions, and formats in which files are programs."""
    jpeg, progressive, png = sound["JPEG"][0], sound["JPEG"][2], sound["PNG"][0]
    huge = struct.pack(">HH", 65_500, 65_500)
    parts = jpeg_parts(jpeg)
    frame = next(index for index, part in enumerate(parts) if part[:2] == b"\xff\xc0")
    huge_frame = parts[frame][:5] + huge + parts[frame][9:]
    scans = jpeg_parts(progressive)
    header = next(index for index, part in enumerate(scans) if part[:2] == b"\xff\xc2")
    large = scans.copy()
    large[header] = large[header][:5] + struct.pack(">HH", 990, 990) + large[header][9:]
    last_scan = [part for part in scans if part[:2] == b"\xff\xda"][-1].removesuffix(b"\xff\xd9")[:30]
    chunks = png_chunks(png)
    compress = zlib.compressobj(9)
    zeros = b"".join(compress.compress(bytes(MEBIBYTE)) for _ in range(200)) + compress.flush()
    plain = {kind: data for kind, data in chunks if kind in (b"IHDR", b"IDAT", b"IEND")}

    def with_sides(width: int, height: int) -> tuple[bytes, bytes]:
        return b"IHDR", struct.pack(">II", width, height) + plain[b"IHDR"][8:]

    def with_chunk(kind: bytes, data: bytes) -> bytes:
        return png_of([chunks[0], (kind, data), *chunks[1:]])

    eps = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 60\n%%EndComments\n"
        + f"({MARKER}) (w) file closefile\nshowpage\n%%EOF\n".encode()
    )
    tiff = sound["TIFF"][0]
    start = int.from_bytes(tiff[4:8], "little")
    entries = int.from_bytes(tiff[start : start + 2], "little")
    after = start + 2 + 12 * entries
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + b"\xff\xff\0" * 2
    animation = canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6) + sound["WEBP"][0][12:]
    return [
        ("empty", b""),
        ("PostScript, which a program would have to run", eps),
        ("PostScript in a DOS envelope", b"\xc5\xd0\xd3\xc6" + struct.pack("<IIIIIIH", 30, len(eps), *[0] * 5) + eps),
        ("a portable pixmap of text", b"P3 900 900 255 " + b"1 " * 1000),
        (
            "a GIF of huge sides",
            b"GIF89a\xff\xff\xff\xff\xf0\0\0" + bytes(6) + b"," + bytes(4) + b"\xff\xff\xff\xff\0\2",
        ),
        ("a JPEG whose second frame is huge", b"".join([*parts[: frame + 1], huge_frame, *parts[frame + 1 :]])),
        ("a JPEG whose first frame is huge", b"".join([*parts[:frame], huge_frame, *parts[frame:]])),
        ("a JPEG whose frame is huge", b"".join([*parts[:frame], huge_frame, *parts[frame + 1 :]])),
        ("a JPEG of sixty thousand scans", b"".join([*large[:-1], last_scan * 60_000, b"\xff\xd9"])),
        ("a JPEG of 200,000 comments", b"".join([parts[0], b"\xff\xfe\0\2" * 200_000, *parts[1:]])),
        ("a JPEG of bytes between markers", parts[0] + b"\xff" * 500_000 + b"".join(parts[1:])),
        ("a PNG of the largest sides", png_of([with_sides(2**31 - 1, 2**31 - 1), *chunks[1:]])),
        ("a PNG of sides 2**16", png_of([with_sides(2**16, 2**16), *chunks[1:]])),
        ("a PNG line", png_of([with_sides(MAX_PIXELS, 1), *chunks[1:]])),
        ("a PNG whose second header is huge", png_of([chunks[0], with_sides(60_000, 60_000), *chunks[1:]])),
        ("a PNG whose later header is huge", png_of([*chunks[:-1], with_sides(60_000, 60_000), chunks[-1]])),
        ("a PNG of too many rows", png_of([chunks[0], (b"IDAT", zeros), chunks[-1]])),
        ("a PNG with a profile that swells", with_chunk(b"iCCP", b"p\0\0" + zeros)),
        ("a PNG with a text that swells", with_chunk(b"zTXt", b"t\0\0" + zeros)),
        ("a PNG with an international text that swells", with_chunk(b"iTXt", b"t\0\1\0\0\0" + zeros)),
        ("a PNG of ten thousand texts", png_of([chunks[0], *[(b"tEXt", b"k\0v")] * 10_000, *chunks[1:]])),
        ("a TIFF whose directories form a ring", tiff[:after] + struct.pack("<I", start) + tiff[after + 4 :]),
        ("a WebP of the largest canvas", b"RIFF" + struct.pack("<I", 4 + len(animation)) + b"WEBP" + animation),
    ]


class Images:
    """`decode_rgb` of every file; `image_size` and `decode_thumbnail` of some."""

    FORMATS = ("JPEG", "PNG", "JPEG", "PNG", "WEBP", "JPEG", "PNG", "TIFF", "JPEG", "PNG", "BMP", "AVIF")

    def __init__(self, folder: Path):
        from data.decode import ImageError, decode_rgb, decode_thumbnail, image_size

        self.refusal, self.decode, self.thumbnail, self.size = ImageError, decode_rgb, decode_thumbnail, image_size
        self.folder = folder
        self.sound = sound_images()
        self.hostile = hostile_images(self.sound)
        self.photographs = photographs()
        self.pixels = {}  # of the photographs, as soon as they are needed

    def content(self, number: int) -> bytes:
        """Return the file of a number."""
        if number < len(self.hostile):
            return self.hostile[number][1]
        if self._is_loss(number):
            return self._loss(number)[0]
        generator = np.random.default_rng([1, number])
        format_name = self.FORMATS[number % len(self.FORMATS)]
        content = pick(generator, self.sound[format_name] or self.sound["JPEG"])
        for _ in range(int(generator.integers(1, 4))):
            mutation = INFORMED[format_name] if generator.random() < 0.6 else pick(generator, BLIND)
            content = mutation(generator, content) or b"\0"
        return content

    def _is_loss(self, number: int) -> bool:
        return number >= len(self.hostile) and number % 3 == 0

    def _loss(self, number: int) -> tuple[bytes, bytes]:
        """Return a photograph that lost a part, and the whole."""
        generator = np.random.default_rng([5, number])
        format_name = pick(generator, tuple(self.photographs))
        whole = pick(generator, self.photographs[format_name])
        return pick(generator, LOSSES[format_name])(generator, whole), whole

    def _check_loss(self, number: int) -> str:
        damaged, whole = self._loss(number)
        if whole not in self.pixels:
            self.pixels[whole] = self.decode(whole)
        try:
            pixels = self.decode(damaged)
        except self.refusal as error:
            check_message(error, f"<{len(damaged)} bytes>: ")
            return "error"
        if not np.array_equal(pixels, self.pixels[whole]):
            raise UnexpectedError(f"a loss was not noticed in {whole[:12]!r}, {len(damaged)} bytes of {len(whole)}")
        return "result"

    def prepare(self, number: int) -> Callable[[], str]:
        if self._is_loss(number):
            return lambda: self._check_loss(number)
        content = self.content(number)
        path = self.folder / "photo.jpg"
        path.write_bytes(content)

        def attempt() -> str:
            shape = self._decoded(content)
            if number % 4 == 0 or number < len(self.hostile):
                self._check_size(path, shape)
            if number % 8 == 1 or number < len(self.hostile):
                self._check_thumbnail(path)
            return "error" if shape is None else "result"

        return attempt

    def _decoded(self, content: bytes) -> tuple[int, int] | None:
        try:
            pixels = self.decode(content, max_pixels=MAX_PIXELS)
        except self.refusal as error:
            check_message(error, f"<{len(content)} bytes>: ")
            return None
        sound = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
        if not sound or pixels.ndim != 3 or pixels.shape[2] != 3 or not 0 < pixels[..., 0].size <= MAX_PIXELS:
            raise UnexpectedError(f"decoded to {type(pixels)} {getattr(pixels, 'shape', '')}")
        return pixels.shape[:2]

    def _check_size(self, path: Path, shape: tuple[int, int] | None) -> None:
        """The size in the header is that of the pixels, wherever both can be had."""
        try:
            size = self.size(path, max_pixels=MAX_PIXELS)
        except self.refusal as error:
            check_message(error, f"{path}: ")
            size = None
        if shape is not None and size != shape:
            raise UnexpectedError(f"image_size says {size}, decode_rgb {shape}")

    def _check_thumbnail(self, path: Path) -> None:
        try:
            pixels = self.thumbnail(path, 40, max_pixels=MAX_PIXELS)
        except self.refusal as error:
            check_message(error, f"{path}: ")
            return
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or max(pixels.shape[:2]) > 40:
            raise UnexpectedError(f"a thumbnail of {pixels.dtype} {pixels.shape}")
