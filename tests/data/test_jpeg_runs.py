"""Runs of one byte in JPEGs: damage in photographs, sound data in flat and repetitive pictures."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from data import jpeg
from data.jpeg_runs import find_runs, scans_with_runs
from data.jpeg_segments import scan_data

ENCODERS = {
    "baseline": {},
    "optimized": {"optimize": True},
    "4:4:4": {"subsampling": 0, "optimize": True},
    "progressive": {"progressive": True},
}
Y, X = np.mgrid[:400, :640]
NOISE = np.random.default_rng(0).integers(0, 256, (400, 640))
SOUND = {
    "flat": 0 * X + 117,
    "bars": np.where((Y < 100) | (Y > 299), 0, NOISE),
    "border": np.where((X < 100) | (Y > 199), 255, NOISE),
    "ramp": X / 4 % 256,
    **{f"stripes {size}": X // size % 2 * 255 for size in (2, 8, 16)},
    **{f"checks {size}": (X // size + Y // size) % 2 * 30 + 100 for size in (4, 8, 32)},
}


def encode(pixels: np.ndarray, **options) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", **({"quality": 90} | options))
    return buffer.getvalue()


def photograph(grey: bool) -> np.ndarray:
    """Smooth with some noise: a block takes about as many bytes as in a photograph."""
    generator = np.random.default_rng(5)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), np.uint8)).resize((640, 480), 3)
    pixels = (np.asarray(coarse).astype(int) + generator.integers(-12, 13, (480, 640, 3))).clip(0, 255)
    return pixels[..., 0] if grey else pixels


@pytest.mark.parametrize("position", range(1000, 1016))
@pytest.mark.parametrize("value", [0, 0x7F, 0xFE])
def test_a_run_is_found_wherever_it_stands(position, value):
    content = np.random.default_rng(1).bytes(5000)
    assert find_runs(content) == []
    for size, found in ((64, 64), (600, 512)):
        run = content[:position] + bytes([value]) * size + content[position + size :]
        assert find_runs(run, 37) == [(position, found, value)]
    assert find_runs(content[:position] + bytes([value]) * 63 + b"\x33" + content[position + 64 :]) == []


@pytest.mark.parametrize("value", [0x00, 0x01, 0x11, 0x20, 0x55, 0x7F, 0x80, 0xAA, 0xE5, 0xFE])
@pytest.mark.parametrize("kind", ["baseline", "optimized", "4:4:4"])
@pytest.mark.parametrize("grey", [False, True], ids=["colour", "grey"])
def test_a_run_of_any_byte_in_a_photograph_is_refused(kind, grey, value):
    content = encode(photograph(grey), **ENCODERS[kind])
    for position in np.linspace(1500, len(content) - 3000, 4).astype(int):
        with pytest.raises(ValueError, match="JPEG"):
            jpeg.decode(content[:position] + bytes([value]) * 1024 + content[position + 1024 :], (1, 1))


@pytest.mark.parametrize("value", [0x00, 0x01, 0x7F, 0x80, 0xFE])
def test_a_run_in_a_progressive_scan_that_does_not_refine_coefficients_is_refused(value):
    content = encode(photograph(grey=False), progressive=True)
    scans = [(a, b) for a, b in scan_data(content) if content[a - 1] < 16 and b - a > 2048]
    assert scans
    for start, end in scans:
        middle = (start + end) // 2
        with pytest.raises(ValueError, match="JPEG"):
            jpeg.decode(content[:middle] + bytes([value]) * 1024 + content[middle + 1024 :], (1, 1))


@pytest.mark.parametrize("kind", ENCODERS)
def test_flat_and_repetitive_pictures_are_sound(kind):
    with_runs = 0
    for name, pixels in SOUND.items():
        for picture in (pixels, np.repeat(pixels[..., None], 3, 2)):
            content = encode(picture, **ENCODERS[kind])
            with_runs += bool(find_runs(content, 600))
            assert jpeg.decode(content, (1, 1)) is not None, name
    assert with_runs or kind == "baseline"


def test_zeros_are_sound_if_they_mean_a_flat_picture():
    content = encode(NOISE[:64, :96])
    start, end = next(scan_data(content))
    assert list(scans_with_runs(content)) == []
    blank = content[: start + 200] + bytes(64) + content[start + 264 :]
    with pytest.raises(ValueError, match="a run of one byte"):
        list(scans_with_runs(blank))
    table = next(at for at in range(start) if blank[at : at + 2] == b"\xff\xc4" and blank[at + 4] >> 4)
    blank = blank[: table + 21] + b"\0" + blank[table + 22 :]  # the first symbol becomes "end of block"
    assert list(scans_with_runs(blank)) == [end]
