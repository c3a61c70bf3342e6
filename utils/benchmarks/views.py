"""Suites that time the path from a file to its views, and the photographs that the suites use."""

import tempfile
from io import BytesIO
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import simplejpeg
import torch
from PIL import Image, JpegImagePlugin

from data.datasets import PairDataset
from data.decode import decode_rgb
from data.packed import PackedViews
from data.packing import plan_pack
from data.seeding import Purpose, derive_generator
from data.synthetic import render_scene
from data.unfinished_pack import UnfinishedPack
from data.views import ViewSpec, make_views
from models import build_model
from utils.benchmarks.plain import plain_views
from utils.benchmarks.timing import Measurement, Settings, peak_memory, time_in_turn

SPEC = ViewSpec()  # the paper's views
JPEG_QUALITY = 60  # 1.0 bits per pixel for a rendered scene; UHD-IQA's 8.jpg has 0.88
PACKED_PHOTOGRAPHS, PACKED_EPOCHS = 4, 2
MEMORY_MEGAPIXELS = 24
SCALING_MEGAPIXELS = (8, 24, 50, 100)


def views(jpeg: bytes, settings: Settings) -> Measurement:
    """From a JPEG's bytes to three views; the limit is decoding them."""
    measurement = Measurement()
    functions = {
        "bare_decode": lambda: simplejpeg.decode_jpeg(jpeg, colorspace="rgb"),
        "plain": lambda: cut_views_plainly(jpeg),
        "ours": lambda: cut_views(jpeg),
    }
    medians = measurement.add(time_in_turn(functions, settings.rounds))
    measurement.figures["speedup"] = medians["plain"] / medians["ours"]
    measurement.figures["ratio_to_decode"] = medians["ours"] / medians["bare_decode"]
    return measurement


def packed(jpeg: bytes, settings: Settings) -> Measurement:
    """A training sample from a pack in the page cache; the plain implementation cuts it from the file."""
    measurement = Measurement()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(jpeg, PACKED_PHOTOGRAPHS, Path(folder))
        rows = pd.DataFrame({"image": paths, "path": paths, "split": "train", "mos": np.arange(len(paths)) / 10})
        pack = make_pack(Path(folder) / "pack", rows)
        direct, from_pack = PairDataset(rows, SPEC, 0), PairDataset(rows, SPEC, 0, pack)
        exact = all(
            torch.equal(first[name], second[name])
            for epoch in range(PACKED_EPOCHS)
            for index in range(len(rows))
            for first, second in zip(direct[epoch, index], from_pack[epoch, index], strict=True)
            for name in SPEC.views
        )
        samples = cycle(range(len(rows)))
        functions = {
            "plain": lambda: plain_views(paths[next(samples)], SPEC.evaluation_fractions()),
            "ours": lambda: pack.views(next(samples), 1, derive_generator(Purpose.CROP, 0, 0, 0)),
        }
        medians = measurement.add(time_in_turn(functions, settings.rounds))
    measurement.figures |= {"speedup": medians["plain"] / medians["ours"], "bit_exact": exact}
    return measurement


def make_pack(folder: Path, rows: pd.DataFrame) -> PackedViews:
    """Pack the training photographs of a label table and open the pack."""
    unfinished = UnfinishedPack(folder, plan_pack(rows, SPEC, 0, draws=2 * PACKED_EPOCHS))
    writer = unfinished.begin()
    for item in range(len(writer)):
        index, checksum, _ = writer[item]
        unfinished.record(index, checksum)
    unfinished.finish()
    return PackedViews(folder, rows, SPEC, 0)


def memory(jpeg: bytes, settings: Settings) -> Measurement:
    """Peak memory of cutting the views of a 24-megapixel JPEG, compared with the uint8 image itself."""
    large = encode_like(jpeg, enlarged(decode_rgb(jpeg), MEMORY_MEGAPIXELS))
    image = decode_rgb(large).nbytes
    figures: dict[str, object] = {"megapixels": image / 3e6, "image_mb": image / 1e6}
    for name, function in (("ours", cut_views), ("plain", cut_views_plainly)):
        peak = peak_memory(function, large)
        figures |= {f"{name}_mb": peak / 1e6, f"{name}_ratio": peak / image}
    return Measurement(figures=figures)


def cut_views(jpeg: bytes) -> None:
    """Cut the views of an encoded photograph."""
    make_views(decode_rgb(jpeg), SPEC)


def cut_views_plainly(jpeg: bytes) -> None:
    """Cut the views of an encoded photograph with the plain implementation."""
    plain_views(BytesIO(jpeg), SPEC.evaluation_fractions())


def scaling(jpeg: bytes, settings: Settings) -> Measurement:
    """JPEGs of 8 to 100 megapixels: cutting views scales as decoding does, and the network takes the same time."""
    measurement = Measurement()
    model = build_model("UIQA", backbone=settings.backbone).to(settings.device).eval()
    image = decode_rgb(jpeg)
    ratios, network = {}, {}
    for megapixels in SCALING_MEGAPIXELS:
        large = encode_like(jpeg, enlarged(image, megapixels))
        batch = batch_of(large, 1, settings.device)
        functions = {
            "bare_decode": lambda large=large: simplejpeg.decode_jpeg(large, colorspace="rgb"),
            "ours": lambda large=large: cut_views(large),
            "network": lambda batch=batch: model(**batch),
        }
        with torch.inference_mode():
            times = time_in_turn(functions, settings.rounds, settings.device)
        medians = measurement.add(times, f"_{megapixels}mp")
        ratios[f"{megapixels}"] = medians["ours"] / medians["bare_decode"]
        network[f"{megapixels}"] = medians["network"]
    measurement.figures |= {
        "ratio_to_decode": ratios,
        "largest_ratio_to_decode": max(ratios.values()),
        "network_largest_over_smallest": max(network.values()) / min(network.values()),
    }
    return measurement


def batch_of(jpeg: bytes, count: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Return the views of a photograph `count` times, each with another draw of the fragments: (count, 3, S, S)."""
    image = decode_rgb(jpeg)
    samples = [make_views(image, SPEC, SPEC.evaluation_fractions(draw)) for draw in range(count)]
    return {name: torch.stack([sample[name] for sample in samples]).to(device) for name in SPEC.views}


def enlarged(image: np.ndarray, megapixels: int) -> np.ndarray:
    """Mirror (or crop) a photograph to about this many megapixels, 3 : 2."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = round(1.5 * height)
    pad = [(0, max(0, height - image.shape[0])), (0, max(0, width - image.shape[1])), (0, 0)]
    return np.pad(image, pad, mode="symmetric")[:height, :width]


def write_photographs(jpeg: bytes, count: int, folder: Path) -> list[str]:
    """Write a photograph `count` times, rolled a little further each time; return the paths."""
    image = decode_rgb(jpeg)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(encode_like(jpeg, np.roll(image, 97 * number, axis=(0, 1))))
    return [str(path) for path in paths]


def encode(image: np.ndarray) -> bytes:
    """Return an image as JPEG."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=JPEG_QUALITY, colorsubsampling="420")


def encode_like(jpeg: bytes, image: np.ndarray) -> bytes:
    """Return an image as JPEG with the quantisation and subsampling of another JPEG.

    The bits per pixel decide how long decoding takes, but not how long cutting the views takes.
    """
    with Image.open(BytesIO(jpeg)) as reference:
        tables, subsampling = reference.quantization, JpegImagePlugin.get_sampling(reference)
    encoded = BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", qtables=tables, subsampling=subsampling)
    return encoded.getvalue()


def render() -> bytes:
    """Return the demo set's first scene, 3840 x 2160 pixels, as JPEG."""
    return encode(render_scene(derive_generator(Purpose.SCENE, 0, 0)))
