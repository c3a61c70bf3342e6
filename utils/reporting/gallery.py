"""The gallery of a report: the best, worst and most misjudged photographs, with their views and quality maps."""

import base64
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pandas as pd
from PIL import Image

from data.datasets import PhotographDataset
from data.decode import ImageError, decode_rgb, decode_thumbnail
from data.fragments import covered_size
from data.layout import to_image
from data.views import ViewSpec
from utils.distributed import default_workers
from utils.loaded_model import LoadedModel
from utils.progress import progress_bar
from utils.reporting.maps import colour_limit, paint, reference_text, relative_maps

PER_SECTION = 10
THUMBNAIL_SIDE, PHOTOGRAPH_SIDE = 160, 720  # longer side, pixels
SECTIONS = {
    "over": ("Worst over-estimates", "score far above the opinions"),
    "under": ("Worst under-estimates", "score far below the opinions"),
    "best": ("Best", "the highest scores"),
    "worst": ("Worst", "the lowest scores"),
}


@dataclass(frozen=True)
class Layer:
    """A picture and its map, as data URIs.

    Attributes:
        name: "photograph", or the view's name with " view" appended.
        picture: JPEG.
        map: PNG, one pixel per token, to be laid over the part of the picture that it covers.
        width, height: size of that part as fractions of the picture's.
        points: what the view adds to the score, relative to the gallery's `reference`; None for the photograph.
    """

    name: str
    picture: str
    map: str
    width: float = 1.0
    height: float = 1.0
    points: float | None = None


@dataclass(frozen=True)
class Gallery:
    """Cards for a selection of photographs.

    Attributes:
        layers: for each row number of the table of predictions, its photograph and views.
        limit: end of the colour scale of the maps, points; the same for all cards.
        reference: description of what the maps are relative to.
    """

    layers: dict[int, list[Layer]]
    limit: float
    reference: str


class _GalleryPhotographs:
    """Photographs for scoring that keeps the pictures a card needs; each file is decoded and cut once.

    It satisfies `utils.inference.Photographs`, whose items are read one batch at a time: only the reduced pictures, as
    JPEG, stay in memory.

    Attributes:
        pictures: for each photograph that was read, a data URI of it ("photograph") and of each view, by name.
        covered: for each, the height and width that the fragment grid covers, as fractions of the photograph's.
    """

    def __init__(self, paths: Sequence[str], spec: ViewSpec, draws: int):
        self.paths, self.spec, self.draws, self.is_ragged = paths, spec, draws, spec.is_ragged
        self.pictures: dict[int, dict[str, str]] = {}
        self.covered: dict[int, list[float]] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        try:
            image = decode_rgb(self.paths[index], self.spec.max_pixels)
        except ImageError as error:
            return {"index": index, "error": str(error)}
        sample = PhotographDataset([image], self.spec, draws=self.draws)[0] | {"index": index}
        if "error" not in sample:
            views = {name: sample[name] if sample[name].ndim == 3 else sample[name][0] for name in self.spec.views}
            pictures = {"photograph": _reduce(image)} | {name: to_image(view) for name, view in views.items()}
            self.pictures[index] = {name: data_uri(picture) for name, picture in pictures.items()}
            covered = covered_size(*image.shape[:2], self.spec.n_fragment, self.spec.patch_size)
            self.covered[index] = np.divide(covered, image.shape[:2]).tolist()
        return sample


def select_rows(table: pd.DataFrame) -> dict[str, list[int]]:
    """Return the row numbers of each section of the gallery, at most PER_SECTION each and no row twice.

    Args:
        table: columns mos, score and quality. Errors are those of quality; without a mapping, scores and opinions are
            on different scales and the errors are differences of ranks.
    """
    if np.isfinite(table["quality"]).all():
        error = (table["quality"] - table["mos"]).to_numpy(float)
    else:
        error = (table["score"].rank() - table["mos"].rank()).to_numpy(float)
    score = table["score"].to_numpy(float)
    orders = {
        "over": [row for row in np.argsort(-error, kind="stable") if error[row] > 0],
        "under": [row for row in np.argsort(error, kind="stable") if error[row] < 0],
        "best": np.argsort(-score, kind="stable"),
        "worst": np.argsort(score, kind="stable"),
    }
    taken: set[int] = set()
    sections: dict[str, list[int]] = {}
    for section, order in orders.items():
        sections[section] = [int(row) for row in order if int(row) not in taken][:PER_SECTION]
        taken |= set(sections[section])
    return sections


def thumbnails(paths: Sequence[str | None], max_pixels: int) -> list[str | None]:
    """Return a thumbnail of each photograph as a data URI; None without a path or if the file cannot be read."""

    def thumbnail(path: str | None) -> str | None:
        if path is None:
            return None
        try:
            return data_uri(decode_thumbnail(path, THUMBNAIL_SIDE, max_pixels), quality=70)
        except ImageError:
            return None

    with ThreadPoolExecutor(default_workers()) as pool, progress_bar(len(paths), "thumbnails") as bar:
        uris = []
        for uri in pool.map(thumbnail, paths):
            uris.append(uri)
            bar.update()
        return uris


def make_gallery(paths: Mapping[int, str], loaded: LoadedModel, draws: int, score: Callable) -> Gallery:
    """Score a selection of photographs again, this time with maps, and draw the maps over their views.

    Args:
        paths: for each row number of the table of predictions, the photograph's file.
        loaded: the model that scored them, on the device.
        draws: fragment draws; the maps are their mean.
        score: `utils.inference.score_photographs` with device, batch size and workers filled in.
    """
    photographs = _GalleryPhotographs(list(paths.values()), loaded.view_spec, draws)
    # No workers: the pictures that a worker process keeps would not reach this one.
    scores = score(loaded.model, photographs, num_workers=0, progress="gallery", maps=True, distributed=False)
    rows = {index: row for index, row in enumerate(paths) if np.isfinite(scores.scores[index])}
    relative = {
        index: relative_maps({name: maps[index] for name, maps in scores.maps.items()}, loaded.branch_means)
        for index in rows
    }
    pooled = {(index, name): points for index, maps in relative.items() for name, points in maps.items()}
    limit = colour_limit(pooled) if pooled else 1.0
    layers = {}
    for index, row in rows.items():
        pictures = photographs.pictures[index]
        maps = {name: data_uri(paint(points, limit)) for name, points in relative[index].items()}
        layers[row] = []
        if "distortion" in maps:
            height, width = photographs.covered[index]
            layers[row].append(Layer("photograph", pictures["photograph"], maps["distortion"], width, height))
        for name, painted in maps.items():
            points = float(scores.points[name][index] - (loaded.branch_means or {}).get(name, 0.0))
            layers[row].append(Layer(f"{name} view", pictures[name], painted, points=points))
    return Gallery(layers, limit, reference_text(loaded.branch_means))


def data_uri(picture: np.ndarray, quality: int = 80) -> str:
    """Return a picture as a data URI: (h, w, 3) as JPEG, (h, w, 4) as PNG."""
    kind = "png" if picture.shape[2] == 4 else "jpeg"
    content = BytesIO()
    Image.fromarray(picture).save(content, kind, **({"quality": quality} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def _reduce(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image)
    picture.thumbnail((PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE), reducing_gap=2.0)
    return np.array(picture)
