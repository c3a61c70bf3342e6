"""The photographs of an evaluation that are worth a look, with what the network saw of them and how it counted."""

import base64
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pandas as pd
import torch
from PIL import Image

from data.datasets import PhotographDataset
from data.decode import ImageError, decode_rgb, decode_thumbnail
from data.fragments import covered_size
from data.layout import to_image
from data.views import make_views
from utils.distributed import default_workers
from utils.inference import score_photographs
from utils.loaded_model import LoadedModel
from utils.progress import progress_bar
from utils.reporting.maps import colour_limit, paint, reference_text, relative_maps

PER_SECTION = 10
THUMBNAIL_SIDE, PHOTOGRAPH_SIDE = 160, 720  # pixels
SECTIONS = {
    "over": ("Worst over-estimates", "scored far better than people found them"),
    "under": ("Worst under-estimates", "scored far worse than people found them"),
    "best": ("Best", "the highest scores"),
    "worst": ("Worst", "the lowest scores"),
}


@dataclass(frozen=True)
class Layer:
    """A picture with its map, as data URIs.

    Attributes:
        name: of the view, or "photograph".
        picture: JPEG.
        places: PNG, one pixel a place, to be laid over the part of the picture that it covers.
        width, height: of that part, as shares of the picture's.
        points: what the view adds to the score, relative to `reference`; None for the photograph.
    """

    name: str
    picture: str
    places: str
    width: float = 1.0
    height: float = 1.0
    points: float | None = None


@dataclass(frozen=True)
class Gallery:
    """Cards for a choice of photographs.

    Attributes:
        layers: for each row number of the choice its photograph and views.
        limit: where the scale of the maps ends, points; the same for all cards.
        reference: in words, what the maps are relative to.
    """

    layers: dict[int, list[Layer]]
    limit: float
    reference: str


def choose(table: pd.DataFrame) -> dict[str, list[int]]:
    """Return the row numbers of each section of the gallery, at most PER_SECTION each and no row twice.

    Args:
        table: columns mos, score and quality; errors are of quality, or of the score's rank where there is none.
    """
    predicted = table["quality"].to_numpy(float)
    if not np.isfinite(predicted).all():  # without a mapping scores and opinions have ranks in common, and no scale
        error = (table["score"].rank() - table["mos"].rank()).to_numpy(float)
    else:
        error = predicted - table["mos"].to_numpy(float)
    score = table["score"].to_numpy(float)
    orders = {
        "over": [row for row in np.argsort(-error, kind="stable") if error[row] > 0],
        "under": [row for row in np.argsort(error, kind="stable") if error[row] < 0],
        "best": np.argsort(-score, kind="stable"),
        "worst": np.argsort(score, kind="stable"),
    }
    taken: set[int] = set()
    chosen: dict[str, list[int]] = {}
    for section, order in orders.items():
        chosen[section] = [int(row) for row in order if int(row) not in taken][:PER_SECTION]
        taken |= set(chosen[section])
    return chosen


def thumbnails(paths: Sequence[str | None], max_pixels: int) -> list[str | None]:
    """Return each photograph small, as a data URI; None where there is none, or none that can be read."""

    def one(path: str | None) -> str | None:
        if path is None:
            return None
        try:
            return data_uri(decode_thumbnail(path, THUMBNAIL_SIDE, max_pixels), quality=70)
        except ImageError:
            return None

    with ThreadPoolExecutor(default_workers()) as pool, progress_bar(len(paths), "thumbnails") as bar:
        made = []
        for small in pool.map(one, paths):
            made.append(small)
            bar.update()
        return made


def make_gallery(
    rows: Sequence[int],
    paths: Mapping[int, str],
    loaded: LoadedModel,
    device: torch.device,
    batch_size: int,
    num_workers: int,
    draws: int = 1,
) -> Gallery:
    """Pass a choice of photographs through the network once more, and draw what each place adds to their scores.

    Args:
        rows: numbers of the photographs.
        paths: file of each.
        loaded: the model that scored them, on the device.
        device, batch_size, num_workers: as in `utils.inference.score_photographs`.
        draws: of the fragments; the maps are their mean.
    """
    spec = loaded.view_spec
    photographs = PhotographDataset([paths[row] for row in rows], spec, draws=draws)
    result = score_photographs(
        loaded.model, photographs, device, batch_size, num_workers, "gallery", maps=True, distributed=False
    )
    usable = [place for place in range(len(rows)) if np.isfinite(result.scores[place])]
    maps = {place: {name: grid[place] for name, grid in result.maps.items()} for place in usable}
    relative = {place: relative_maps(found, loaded.branch_means) for place, found in maps.items()}
    pooled = {f"{place} {name}": grid for place, found in relative.items() for name, grid in found.items()}
    limit = colour_limit(pooled) if pooled else 1.0
    layers = {}
    for place in usable:
        image = decode_rgb(paths[rows[place]], spec.max_pixels)
        views = make_views(image, spec, spec.evaluation_generator())
        painted = {name: data_uri(paint(grid, limit)) for name, grid in relative[place].items()}
        of_row = []
        if "distortion" in views:
            size = image.shape[:2]
            covered = covered_size(*size, spec.n_fragment, spec.patch_size)
            height, width = (part / side for part, side in zip(covered, size, strict=True))
            of_row.append(Layer("photograph", data_uri(_small(image)), painted["distortion"], width, height))
        for name, view in views.items():
            points = float(result.points[name][place] - (loaded.branch_means or {}).get(name, 0.0))
            picture = data_uri(to_image(view))
            of_row.append(Layer(f"{name} view", picture, painted[name], points=points))
        layers[rows[place]] = of_row
    return Gallery(layers, limit, reference_text(loaded.branch_means))


def data_uri(picture: np.ndarray, quality: int = 80) -> str:
    """Return a picture as a data URI: (h, w, 3) as JPEG, (h, w, 4) as PNG."""
    written = BytesIO()
    if picture.shape[2] == 4:
        Image.fromarray(picture).save(written, "PNG")
        kind = "png"
    else:
        Image.fromarray(picture).save(written, "JPEG", quality=quality)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode('ascii')}"


def _small(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image)
    picture.thumbnail((PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE), reducing_gap=2.0)
    return np.array(picture)
