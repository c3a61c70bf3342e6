"""Benchmarks of the way from a file to its views."""

import argparse
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
from data.packing import UnfinishedPack, plan_pack
from data.seeding import Purpose, derive_generator
from data.synthetic import render_scene
from data.views import ViewSpec, make_views
from models import build_model
from utils.benchmarks.plain import plain_views
from utils.benchmarks.timing import Measured, peak_memory, time_in_turn

SPEC = ViewSpec()  # the paper's views
JPEG_QUALITY = 60  # a rendered scene then takes 1.0 bits a pixel; UHD-IQA's 8.jpg takes 0.88
PACKED_PHOTOGRAPHS, PACKED_DRAWS = 4, 3
MEMORY_MEGAPIXELS = 24
SCALING_MEGAPIXELS = (8, 24, 50, 100)


def views(content: bytes, options: argparse.Namespace) -> Measured:
    """From the bytes of a JPEG to three views; the limit is decoding them."""
    measured = Measured()
    medians = measured.add(
        time_in_turn(
            {
                "bare_decode": lambda: simplejpeg.decode_jpeg(content, colorspace="rgb"),
                "plain": lambda: plain_views(BytesIO(content), SPEC.evaluation_generator()),
                "ours": lambda: make_views(decode_rgb(content), SPEC, SPEC.evaluation_generator()),
            },
            options.rounds,
        )
    )
    measured.figures["speedup"] = medians["plain"] / medians["ours"]
    measured.figures["ratio_to_decode"] = medians["ours"] / medians["bare_decode"]
    return measured


def packed(content: bytes, options: argparse.Namespace) -> Measured:
    """A training sample out of a pack that lies in the page cache; the plain way cuts it out of the file."""
    measured = Measured()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(content, PACKED_PHOTOGRAPHS, Path(folder))
        rows = pd.DataFrame({"image": paths, "path": paths, "split": "train", "mos": np.arange(len(paths)) / 10})
        unfinished = UnfinishedPack(Path(folder) / "pack", plan_pack(rows, SPEC, 0, PACKED_DRAWS))
        writer = unfinished.begin(paths)
        for index in range(len(writer)):
            place, checksum, _ = writer[index]
            unfinished.record(place, checksum)
        unfinished.finish()
        pack = PackedViews(Path(folder) / "pack", rows, SPEC, 0)

        direct, from_pack = PairDataset(rows, SPEC, 0), PairDataset(rows, SPEC, 0, pack)
        exact = True
        for epoch in range(PACKED_DRAWS):
            for index in range(len(rows)):
                for first, second in zip(direct[epoch, index], from_pack[epoch, index], strict=True):
                    exact &= all(torch.equal(first[name], second[name]) for name in SPEC.views)
        places = cycle(range(len(rows)))
        medians = measured.add(
            time_in_turn(
                {
                    "plain": lambda: plain_views(paths[next(places)], SPEC.evaluation_generator()),
                    "ours": lambda: pack.views(next(places), 1, derive_generator(Purpose.CROP, 0, 0, 0)),
                },
                options.rounds,
            )
        )
    measured.figures |= {"speedup": medians["plain"] / medians["ours"], "bit_exact": exact}
    return measured


def memory(content: bytes, options: argparse.Namespace) -> Measured:
    """Peak memory of cutting the views of a 24-megapixel JPEG, beside the uint8 image itself."""
    large = encode_like(content, enlarged(decode_rgb(content), MEMORY_MEGAPIXELS))
    image = decode_rgb(large).nbytes
    figures: dict[str, object] = {"megapixels": image / 3e6, "image_mb": image / 1e6}
    for name, function in (("ours", cut_views), ("plain", cut_views_plainly)):
        peak = peak_memory(function, large)
        figures |= {f"{name}_mb": peak / 1e6, f"{name}_ratio": peak / image}
    return Measured(figures=figures)


def cut_views(content: bytes) -> None:
    """Cut the views of an encoded photograph."""
    make_views(decode_rgb(content), SPEC, SPEC.evaluation_generator())


def cut_views_plainly(content: bytes) -> None:
    """Cut the views of an encoded photograph the plain way."""
    plain_views(BytesIO(content), SPEC.evaluation_generator())


def scaling(content: bytes, options: argparse.Namespace) -> Measured:
    """Ever larger JPEGs: views at the speed of decoding, and a network that sees no difference."""
    measured = Measured()
    model = build_model("UIQA", backbone=options.backbone).to(options.device).eval()
    image = decode_rgb(content)
    ratios, network = {}, {}
    for megapixels in SCALING_MEGAPIXELS:
        large = encode_like(content, enlarged(image, megapixels))
        batch = batch_of(large, 1, options.device)
        with torch.inference_mode():
            taken = time_in_turn(
                {
                    "bare_decode": lambda large=large: simplejpeg.decode_jpeg(large, colorspace="rgb"),
                    "ours": lambda large=large: cut_views(large),
                    "network": lambda batch=batch: model(**batch),
                },
                options.rounds,
                options.device,
            )
        medians = measured.add(taken, f"_{megapixels}mp")
        ratios[f"{megapixels}"] = medians["ours"] / medians["bare_decode"]
        network[f"{megapixels}"] = medians["network"]
    measured.figures |= {
        "ratio_to_decode": ratios,
        "largest_ratio_to_decode": max(ratios.values()),
        "network_largest_over_smallest": max(network.values()) / min(network.values()),
    }
    return measured


def batch_of(content: bytes, count: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Return the views of a photograph `count` times, each with another draw of the fragments: (count, 3, S, S)."""
    image = decode_rgb(content)
    cut = [make_views(image, SPEC, SPEC.evaluation_generator(draw)) for draw in range(count)]
    return {name: torch.stack([each[name] for each in cut]).to(device) for name in SPEC.views}


def enlarged(image: np.ndarray, megapixels: int) -> np.ndarray:
    """Return a photograph of about so many megapixels, 3 : 2, made of a smaller one and its mirror images."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = round(1.5 * height)
    pad = [(0, max(0, height - image.shape[0])), (0, max(0, width - image.shape[1])), (0, 0)]
    return np.pad(image, pad, mode="symmetric")[:height, :width]


def write_photographs(content: bytes, count: int, folder: Path) -> list[str]:
    """Write a photograph `count` times, each time rolled a little further; return the paths."""
    image = decode_rgb(content)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(encode_like(content, np.roll(image, 97 * number, axis=(0, 1))))
    return [str(path) for path in paths]


def encode(image: np.ndarray) -> bytes:
    """Return a photograph as JPEG."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=JPEG_QUALITY, colorsubsampling="420")


def encode_like(content: bytes, image: np.ndarray) -> bytes:
    """Return a photograph as JPEG with the quantisation and subsampling of another one.

    A file of fewer bits a pixel is decoded faster, while its views take as long to cut.
    """
    with Image.open(BytesIO(content)) as model:
        tables, subsampling = model.quantization, JpegImagePlugin.get_sampling(model)
    written = BytesIO()
    Image.fromarray(image).save(written, "JPEG", qtables=tables, subsampling=subsampling)
    return written.getvalue()


def render() -> bytes:
    """Return the demo set's first scene, 3840 x 2160 pixels, as JPEG."""
    return encode(render_scene(derive_generator(Purpose.SCENE, 0, 0)))
