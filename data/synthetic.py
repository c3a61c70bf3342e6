"""The demo data set: synthetic UHD photographs with known faults and simulated opinions.

A scene is a dead-leaves image (Lee, Mumford & Huang, "Occlusion models for natural images", IJCV 2001): opaque shapes
with power-law sizes, dropped on top of each other. It has the statistics of natural images, and camera makers use such
charts to measure texture loss. Each scene comes in six versions: untouched, blurred, noisy, JPEG-compressed, scaled
down and up again, and a second one with one of these four faults. Their amounts range from just visible to strong.

The opinions are *simulated*, a fixed function of the amount (`simulated_mos`): no person has rated these images.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pandas as pd
import simplejpeg
from PIL import Image, ImageDraw, ImageFilter

from data.decode import decode_rgb
from data.files import write_csv
from data.seeding import Purpose, derive_generator

LABEL_FILE = "uhd-iqa-metadata.csv"
WIDTH, HEIGHT = 3840, 2160
FILE_QUALITY = 92  # JPEG quality of every file, so that the container does not reveal the fault

# (just visible, strong), in the unit of each fault; amounts in between are spaced geometrically
AMOUNT_RANGES = {
    "blur": (0.9, 9.0),  # standard deviation of the Gaussian, pixels
    "noise": (6.0, 60.0),  # standard deviation at mid grey, grey levels
    "jpeg": (40.0, 4.0),  # quality setting of the encoder
    "scaling": (1.6, 9.0),  # downscaling factor
}
UNTOUCHED_MOS = 0.90
VISIBLE_MOS, STRONG_MOS = 0.85, 0.20

TILE = 512  # side of a texture tile, pixels; a power of two, so that a bit mask wraps it around
SMALLEST_LEAF, LARGEST_LEAF = 12.0, 900.0  # radii, pixels
COVERAGE = 3.0  # total area of the leaves over the area of the image


def fault_amount(degradation: str, severity: float) -> float:
    """Return the amount of a fault at a severity between 0 (just visible) and 1 (strong), in the fault's own unit."""
    low, high = AMOUNT_RANGES[degradation]
    return low * (high / low) ** severity


def simulated_mos(degradation: str, amount: float) -> float:
    """Return the simulated opinion of a photograph, between 0.20 and 0.90 on UHD-IQA's 0-1 scale.

    0.90 for an untouched scene; otherwise linear in the logarithm of the amount, from 0.85 (just visible) to 0.20
    (strong), whichever the scene. The function was fixed before any training.

    Args:
        degradation: "none" or a key of AMOUNT_RANGES.
        amount: in the fault's own unit; ignored for "none".
    """
    if degradation == "none":
        return UNTOUCHED_MOS
    low, high = AMOUNT_RANGES[degradation]
    severity = math.log(amount / low) / math.log(high / low)
    return VISIBLE_MOS + (STRONG_MOS - VISIBLE_MOS) * severity


def texture_tiles(generator: np.random.Generator, count: int = 6) -> np.ndarray:
    """Return (count, TILE, TILE) float32 periodic textures of mean 0 and s.d. 1, from grainy to striped.

    White noise is filtered in the Fourier domain: a power law makes it fine or coarse, an angular window striped.
    """
    frequency_y = np.fft.fftfreq(TILE)[:, None]
    frequency_x = np.fft.rfftfreq(TILE)[None, :]
    radius = np.hypot(frequency_y, frequency_x)
    radius[0, 0] = np.inf  # no mean
    angle = np.arctan2(frequency_y, frequency_x)
    tiles = np.empty((count, TILE, TILE), np.float32)
    for tile in tiles:
        spectrum = np.fft.rfft2(generator.standard_normal((TILE, TILE))) * radius ** -generator.uniform(0.2, 1.2)
        if generator.random() < 0.5:
            spectrum *= np.cos(angle - generator.uniform(0, math.pi)) ** 8
        shaped = np.fft.irfft2(spectrum, s=(TILE, TILE))
        tile[:] = shaped / shaped.std()
    return tiles


def _leaf_labels(generator: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drop leaves on each other; return the (H, W) index of the visible leaf, and the leaves' centres and radii."""
    smallest, largest = SMALLEST_LEAF, LARGEST_LEAF
    mean_area = 2 * math.pi * smallest**2 * math.log(largest / smallest) / (1 - (smallest / largest) ** 2)
    count = int(COVERAGE * height * width / mean_area)
    # A density proportional to r^-3 makes the image scale invariant; sample it by its inverse distribution function.
    radii = (smallest**-2 - generator.random(count) * (smallest**-2 - largest**-2)) ** -0.5
    centres = generator.random((count, 2)) * (width, height)
    corners = np.where(generator.random(count) < 0.5, 0, generator.integers(3, 7, count))  # 0: a disc
    turns = generator.random(count) * 2 * math.pi

    labels = Image.new("I", (width, height), 0)  # leaf 0 is the background
    draw = ImageDraw.Draw(labels)
    for leaf, ((x, y), radius, sides, turn) in enumerate(zip(centres, radii, corners, turns, strict=True), start=1):
        if sides:
            angles = turn + np.arange(sides) * (2 * math.pi / sides)
            draw.polygon([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles], fill=leaf)
        else:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=leaf)
    centres = np.concatenate([[[width / 2, height / 2]], centres])
    return np.asarray(labels), centres, np.concatenate([[float(width)], radii])


def render_scene(generator: np.random.Generator, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Render a dead-leaves scene with a palette, shading and fine texture of its own.

    Returns:
        (height, width, 3) uint8.
    """
    labels, centres, radii = _leaf_labels(generator, height, width)
    leaves = len(radii)
    tiles = texture_tiles(generator)

    palette = generator.uniform(40, 215, (5, 3))
    palette += 0.5 * (palette.mean(1, keepdims=True) - palette)  # random colours are more saturated than natural ones
    colours = palette[generator.integers(0, len(palette), leaves)] + generator.normal(0, 18, (leaves, 3))
    colours = colours.clip(15, 240).astype(np.float32)
    contrast = generator.uniform(0.02, 0.22, leaves).astype(np.float32)  # s.d. of the texture over the leaf's colour
    tile_of = generator.integers(0, len(tiles), leaves)
    shift = generator.integers(0, TILE, (leaves, 2))
    # Linear shading across each leaf, by up to 25 % from its centre to its rim.
    angle = generator.uniform(0, 2 * math.pi, leaves)
    slope = np.stack([np.cos(angle), np.sin(angle)], 1) * (generator.uniform(0, 0.25, leaves) / radii)[:, None]
    level = (1 - (slope * centres).sum(1)).astype(np.float32)
    slope = slope.astype(np.float32)

    image = np.empty((height, width, 3), np.uint8)
    x = np.arange(width)
    for top in range(0, height, 60):  # strips that fit into the cache
        leaf = labels[top : top + 60]
        y = np.arange(top, top + len(leaf))[:, None]
        light = level[leaf] + slope[leaf, 0] * x.astype(np.float32) + slope[leaf, 1] * y.astype(np.float32)
        grain = tiles[tile_of[leaf], (y + shift[leaf, 1]) & (TILE - 1), (x + shift[leaf, 0]) & (TILE - 1)]
        light += contrast[leaf] * grain
        image[top : top + 60] = (colours[leaf] * light[..., None]).clip(0, 255)
    # No lens has infinitely sharp edges: a Gaussian approximates its point spread function.
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.6)))


def degrade(image: np.ndarray, degradation: str, amount: float, generator: np.random.Generator) -> np.ndarray:
    """Add one fault to an image.

    Args:
        image: (H, W, 3) uint8.
        degradation: "none", "blur", "noise", "jpeg" or "scaling".
        amount: in the fault's own unit, see AMOUNT_RANGES.
        generator: draws the noise; unused otherwise.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = image.shape[:2]
    if degradation == "none":
        return image
    if degradation == "blur":
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(amount)))
    if degradation == "noise":
        # Shot noise grows with the square root of the intensity; at mid grey, read noise has half of the variance.
        deviation = (amount * np.sqrt(0.5 + 0.5 * np.arange(256) / 128)).astype(np.float32)
        noise = generator.standard_normal(image.shape, np.float32)
        noise *= deviation[image]
        noise += image
        return noise.round().clip(0, 255).astype(np.uint8)
    if degradation == "jpeg":
        return simplejpeg.decode_jpeg(_encode_jpeg(image, round(amount)))
    if degradation == "scaling":
        small = Image.fromarray(image).resize((round(width / amount), round(height / amount)), Image.Resampling.BICUBIC)
        return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    raise ValueError(f"unknown degradation {degradation!r}: choose from none, {', '.join(AMOUNT_RANGES)}")


def _encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorsubsampling="420")


def _make_scene(
    folder: Path, scene: int, split: str, seed: int, height: int, width: int, photograph: str | None
) -> list[dict]:
    """Write the six versions of one scene and return their label rows."""
    if photograph is None:
        image = render_scene(derive_generator(Purpose.SCENE, seed, scene), height, width)
    else:
        image = decode_rgb(photograph)
        height, width = image.shape[:2]
    generator = derive_generator(Purpose.DEGRADATION, seed, scene)
    faults = list(AMOUNT_RANGES)
    versions = ["none", *faults, faults[generator.integers(len(faults))]]
    rows = []
    for version, position in zip(versions, generator.permutation(len(versions)), strict=True):
        amount = 0.0 if version == "none" else fault_amount(version, generator.random())
        if version == "jpeg":
            amount = float(round(amount))
        name = f"{scene * len(versions) + int(position) + 1}.jpg"  # in random order, so as not to reveal the version
        encoded = _encode_jpeg(degrade(image, version, amount, generator), FILE_QUALITY)
        (folder / split / name).write_bytes(encoded)
        rows.append(
            {
                "image_name": name,
                "quality_mos": round(simulated_mos(version, amount), 4),
                "set": split,
                "subset": "simulated",
                "orig_width": width,
                "orig_height": height,
                "image_bytes": len(encoded),
                "user_name": f"scene-{scene:03d}" if photograph is None else Path(photograph).name,
                "degradation": version,
                "amount": round(amount, 4),
            }
        )
    return rows


def make_synthetic_dataset(
    folder: str | os.PathLike,
    scenes: int = 60,
    seed: int = 0,
    workers: int = 1,
    height: int = HEIGHT,
    width: int = WIDTH,
    progress=lambda jobs: jobs,
    photographs: Sequence[str] = (),
) -> pd.DataFrame:
    """Write a synthetic UHD data set in UHD-IQA's layout: `<folder>/<set>/<name>.jpg` and the label file.

    Opinions are simulated: a fixed function of what was done to a scene. With photographs in place of rendered scenes
    this is pre-training for a quality model that needs no opinions; the photographs should be sharp.

    The split is by scene: 2/9 of the scenes (at least one) are `test`, 4/27 (at least one) `validation`, the rest
    `training`. The same seed gives the same bytes with any number of workers. The label file is written last: if it
    exists, the data set is complete.

    Args:
        folder: created if missing.
        scenes: number of scenes, at least 3, of six images each.
        seed: 0 <= seed < 2**32.
        workers: number of processes.
        height, width: size of every rendered image, pixels.
        progress: wraps the iterable of finished scenes, for a progress bar.
        photographs: files to degrade instead of rendering scenes; there are then as many scenes as photographs.

    Returns:
        The label table, one row an image.

    Raises:
        ValueError: fewer than 3 scenes.
        ImageError: a photograph cannot be decoded.
    """
    scenes = len(photographs) or scenes
    if scenes < 3:
        raise ValueError(f"a data set needs at least 3 scenes, one per split; got {scenes}")
    folder = Path(folder)
    n_test, n_validation = max(1, round(scenes * 2 / 9)), max(1, round(scenes * 4 / 27))
    splits = ["test"] * n_test + ["validation"] * n_validation + ["training"] * (scenes - n_test - n_validation)
    for split in set(splits):
        (folder / split).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        files = photographs or [None] * scenes
        scenes_to_make = [
            (folder, scene, split, seed, height, width, file)
            for scene, (split, file) in enumerate(zip(splits, files, strict=True))
        ]
        jobs = [pool.submit(_make_scene, *arguments) for arguments in scenes_to_make]
        try:
            for job in progress(as_completed(jobs)):
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else the other scenes would be made first
            raise
    table = pd.DataFrame([row for job in jobs for row in job.result()])
    write_csv(folder / LABEL_FILE, table)
    return table
