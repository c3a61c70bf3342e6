"""Hostile pictures: of every format that is read, damaged blindly and by what the format says."""

import contextlib
import io
import re
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from fuzzing.mutations import (
    BLIND,
    MARKER,
    MEBIBYTE,
    UnexpectedError,
    check_message,
    extreme_bytes,
    overwrite,
    pick,
    rearrange,
)

MAX_PIXELS = 1_000_000


def jpeg_parts(content: bytes) -> list[bytes]:
    """Return a JPEG cut before every marker segment and every scan."""
    parts, at = [content[:2]], 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
        end = at + 2 + max(2, int.from_bytes(content[at + 2 : at + 4], "big"))
        parts.append(content[at:end])
        at = end
    return parts + [part for part in re.split(rb"(?=\xff[\xc4\xda])", content[at:]) if part]


def mutate_jpeg(generator: np.random.Generator, content: bytes) -> bytes:
    parts = jpeg_parts(content)
    action = int(generator.integers(4))
    if action == 0:
        return b"".join(rearrange(generator, parts))
    frames = [index for index, part in enumerate(parts) if re.match(rb"\xff[\xc0-\xc2]", part)]
    index = pick(generator, frames) if action == 1 and frames else int(generator.integers(len(parts)))
    part = parts[index]
    if action == 1 and len(part) > 10:  # the frame: precision, height, width, components
        at = int(generator.integers(4, 10))
        part = part[:at] + extreme_bytes(generator, pick(generator, (1, 2)), "big") + part[at + 1 :]
        part = part[:5] + extreme_bytes(generator, 2, "big") + part[7:] if generator.random() < 0.3 else part
    elif action == 2:
        part = part[:2] + extreme_bytes(generator, 2, "big") + part[4:]  # the segment's length
    else:
        part = pick(generator, BLIND)(generator, part) if part else part
    return b"".join([*parts[:index], part, *parts[index + 1 :]])


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return type and data of the chunks of a sound PNG."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def mutate_png(generator: np.random.Generator, content: bytes) -> bytes:
    """Change chunks and mend their checksums, so that the change gets further than the checksum."""
    chunks = png_chunks(content)
    action = int(generator.integers(6)) if chunks else 5
    index = int(generator.integers(max(1, len(chunks))))
    if action == 0:
        return png_of(rearrange(generator, chunks))
    if action == 1:  # the header: width, height, depth, colour type, interlacing
        kind, data = chunks[0]
        at = int(generator.integers(13))
        size = 4 if at in (0, 4) else 1
        chunks[0] = kind, data[:at] + extreme_bytes(generator, size, "big") + data[at + size :]
    elif action == 2:
        kind, data = chunks[index]
        chunks[index] = kind, pick(generator, BLIND)(generator, data) if data else generator.bytes(9)
    elif action == 3:  # sound compression of unsound rows
        rows = b"".join(data for kind, data in chunks if kind == b"IDAT")
        with contextlib.suppress(zlib.error):
            rows = zlib.compress(pick(generator, BLIND)(generator, zlib.decompress(rows)))
        chunks = [chunk for chunk in chunks if chunk[0] not in (b"IDAT", b"IEND")] + [(b"IDAT", rows), (b"IEND", b"")]
    elif action == 4:
        names = (b"PLTE", b"tRNS", b"iCCP", b"gAMA", b"cHRM", b"pHYs", b"eXIf", b"iTXt", b"zTXt", b"acTL", b"fcTL")
        chunks.insert(index, (pick(generator, names), generator.bytes(int(generator.integers(0, 65)))))
    damaged = png_of(chunks)
    if action == 5 and len(damaged) > 12:  # a length that the data does not have
        starts = [match.start() - 4 for match in re.finditer(rb"IHDR|IDAT|PLTE|tEXt|eXIf|IEND", damaged)]
        at = pick(generator, starts or [8])
        damaged = damaged[:at] + extreme_bytes(generator, 4, "big") + damaged[at + 4 :]
    return damaged


def mutate_tiff(generator: np.random.Generator, content: bytes) -> bytes:
    """Change a field of the first directory: tag, type, count or value."""
    order = "little" if content[:2] == b"II" else "big"
    start = int.from_bytes(content[4:8], order)
    entries = int.from_bytes(content[start : start + 2], order)
    if not 0 < entries < 100:
        return overwrite(generator, content)
    entry = start + 2 + 12 * int(generator.integers(entries + 1))  # the last is the next directory's place
    offset, size = pick(generator, ((0, 2), (2, 2), (4, 4), (8, 2), (8, 4), (8, 4)))
    at = entry + offset
    new = extreme_bytes(generator, size, order) if generator.random() < 0.7 else generator.bytes(size)
    return content[:at] + new + content[at + size :]


def mutate_webp(generator: np.random.Generator, content: bytes) -> bytes:
    """Change a chunk's length or first bytes, where a picture's sides are, or the order of the chunks."""
    parts, at = [], 12
    while at + 8 <= len(content):
        length = int.from_bytes(content[at + 4 : at + 8], "little")
        parts.append(content[at : at + 8 + length + length % 2])
        at += 8 + length + length % 2
    if not parts:
        return overwrite(generator, content)
    if generator.random() < 0.3:
        parts = rearrange(generator, parts)
    else:
        index = int(generator.integers(len(parts)))
        position, size = pick(generator, ((4, 4), (8, 4), (12, 3), (15, 3), (14, 2), (16, 2)))
        part = parts[index]
        parts[index] = part[:position] + extreme_bytes(generator, 4, "little")[:size] + part[position + size :]
    body = b"".join(parts)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def mutate_bmp(generator: np.random.Generator, content: bytes) -> bytes:
    """Change a field of the header: place of the pixels, sides, depth, compression, number of colours."""
    at, size = pick(generator, ((10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4)))
    return content[:at] + extreme_bytes(generator, size, "little") + content[at + size :]


INFORMED = {"JPEG": mutate_jpeg, "PNG": mutate_png, "TIFF": mutate_tiff, "WEBP": mutate_webp, "BMP": mutate_bmp}


def scene(width: int, height: int, seed: int) -> np.ndarray:
    """Return (height, width, 3) uint8 with smooth and noisy parts."""
    generator = np.random.default_rng(seed)
    pixels = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    pixels[height // 2 :] = generator.integers(0, 256, (height - height // 2, width, 3))
    return pixels.astype(np.uint8)


def sound_images() -> dict[str, list[bytes]]:
    """Return small pictures of every format in the modes that photographs and scans come in."""
    from PIL import Image

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

    FORMATS = ("JPEG", "PNG", "JPEG", "PNG", "WEBP", "JPEG", "PNG", "TIFF", "JPEG", "PNG", "BMP")

    def __init__(self, folder: Path):
        from data.decode import ImageError, decode_rgb, decode_thumbnail, image_size

        self.refusal, self.decode, self.thumbnail, self.size = ImageError, decode_rgb, decode_thumbnail, image_size
        self.folder = folder
        self.sound = sound_images()
        self.hostile = hostile_images(self.sound)

    def content(self, number: int) -> bytes:
        """Return the file of a number."""
        if number < len(self.hostile):
            return self.hostile[number][1]
        generator = np.random.default_rng([1, number])
        format_name = self.FORMATS[number % len(self.FORMATS)]
        content = pick(generator, self.sound[format_name])
        for _ in range(int(generator.integers(1, 4))):
            mutation = INFORMED[format_name] if generator.random() < 0.6 else pick(generator, BLIND)
            content = mutation(generator, content) or b"\0"
        return content

    def prepare(self, number: int) -> Callable[[], str]:
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
