"""The page of `predict.py --report`: a folder of photographs with scores, views and maps, to look through offline."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import numpy as np
from markupsafe import Markup

from data.files import natural_order, printable, utf8, write_text
from utils.errors import cause_and_remedy
from utils.inference import ScoredBatch
from utils.progress import Failures
from utils.reporting.folder_pictures import PictureStore, ReducedPhotograph
from utils.reporting.maps import CAPTION, MAX_OPACITY, colour_limit, colour_table, reference_text, relative_maps
from utils.reporting.rendering import page_json, render

MAX_EMBEDDED = 500  # photographs whose pictures are in the page; those of more would make it too large to open
MAPS_PER_FILE = 100  # beside the page; a browser loads the file with the map it is to show
BINS = 40  # of the histogram


@dataclass(frozen=True)
class _Card:
    """What the page shows of a photograph, besides its row of the table and its pictures.

    Attributes:
        number: of its pictures.
        photograph: its size and coverage.
        maps: for each view the points of every place, (h, w).
        has_pictures: False if they could not be written.
    """

    number: int
    photograph: ReducedPhotograph
    maps: dict[str, np.ndarray]
    has_pictures: bool


class FolderReport:
    """Collects pictures and maps while photographs are scored, and writes the page.

    Use it as a context manager: unless the page was written, the pictures are deleted when it is left.

    Args:
        path: of the page.
        count: photographs to be scored; the pictures of more than MAX_EMBEDDED are written beside the page.

    Raises:
        RunError: when the context is entered: the folder for the pictures cannot be made.
    """

    def __init__(self, path: str | os.PathLike, count: int):
        self.path = Path(path)
        self.store = PictureStore(self.path, count > MAX_EMBEDDED)
        self._cards: dict[str, _Card] = {}  # by the image's name in a table
        self._is_written = False

    def __enter__(self) -> "FolderReport":
        self.store.open()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_written:
            self.store.discard()

    def collect(
        self, batches: Iterable[ScoredBatch], images: Sequence[str], unwritten: Failures
    ) -> Iterator[ScoredBatch]:
        """Keep what the page shows of each batch, then pass the batch on.

        A photograph whose pictures cannot be written is added to `unwritten`, and the page shows it without them.
        """
        for batch in batches:
            for row, photograph in enumerate(batch.reduced):
                number = int(batch.index[row])
                maps = {
                    name.removeprefix("map_"): values[row]
                    for name, values in batch.outputs.items()
                    if name.startswith("map_")
                }
                self.add(number, images[number], photograph, maps, unwritten)
            yield replace(batch, reduced=[])

    def add(
        self,
        number: int,
        image: str,
        photograph: ReducedPhotograph,
        maps: dict[str, np.ndarray],
        unwritten: Failures,
    ) -> None:
        """Keep one photograph: its position in the list, its name, what it was reduced to, and its maps."""
        has_pictures = True
        try:
            self.store.add(number, photograph.pictures)
        except OSError as error:
            has_pictures = False
            unwritten.add(f"{image}: its pictures for the report cannot be written: {cause_and_remedy(error)}")
        kept = ReducedPhotograph(photograph.size, photograph.covered, {})
        self._cards[utf8(image)] = _Card(number, kept, maps, has_pictures)

    def write(
        self, rows: Sequence[Mapping], branch_means: Mapping[str, float] | None, details: Mapping[str, str]
    ) -> None:
        """Write the page, and delete the pictures of the one that it replaces.

        Args:
            rows: of the table that predict.py writes, in the order given.
            branch_means: as for `utils.reporting.maps.relative_maps`.
            details: what the scores depend on, by name.

        Raises:
            OSError: the page cannot be written.
        """
        scored = [row for row in rows if not isinstance(row["error"], str)]
        is_mapped = bool(scored) and all(math.isfinite(row["quality"]) for row in scored)
        sorted_by = "quality" if is_mapped else "score"
        order = sorted(range(len(scored)), key=lambda index: -scored[index][sorted_by])  # stable
        cards = [self._cards[scored[index]["image"]] for index in order]
        maps = [relative_maps(card.maps, branch_means) for card in cards]
        limit = _limit(maps)
        rounded = {card.number: _rounded(views, limit) for card, views in zip(cards, maps, strict=True)}
        table = _table([scored[index] for index in order], branch_means)
        grids = {name: points.shape for views in maps[:1] for name, points in views.items()}
        scale = {"limit": limit, "opacity": MAX_OPACITY, "colours": colour_table().tobytes().hex()}
        values = np.array([row[sorted_by] for row in scored], float)
        page = render(
            "folder.html",
            heading=f"{len(scored)} photograph{'' if len(scored) == 1 else 's'}",
            folder=table["folder_name"],
            failed=[printable(row["error"]) for row in rows if isinstance(row["error"], str)],
            sorted_by=sorted_by,
            tiles=_tiles(values),
            bars=_histogram(values),
            views=list(grids),
            limit=limit,
            reference=reference_text(branch_means),
            map_caption=CAPTION,
            details=details,
            data=page_json(table | self._photographs(cards) | {"order": order, "scale": scale, "grids": grids}),
            cards={} if self.store.url else {number: self._card(number, views) for number, views in rounded.items()},
            is_beside=self.store.url is not None,
        )
        if self.store.folder is not None:
            _write_maps(self.store.folder, rounded)
        write_text(self.path, page)
        self._is_written = True
        self.store.discard_earlier()

    def _photographs(self, cards: Sequence[_Card]) -> dict:
        """Return what the page knows of the photographs besides their rows, in its order."""
        numbers = [card.number for card in cards]
        return {
            "number": numbers,
            "size": [card.photograph.size for card in cards],
            "covered": [[round(fraction, 5) for fraction in card.photograph.covered] for card in cards],
            "undrawn": [card.number for card in cards if not card.has_pictures],
            "thumbnail": None if self.store.url else [self.store.encoded(number, "thumbnail") for number in numbers],
            "folder": self.store.url,
            "per_file": MAPS_PER_FILE,
        }

    def _card(self, number: int, maps: dict[str, list[float]]) -> Markup:
        """Return the pictures and maps of a photograph as JSON; the page reads it when it shows them."""
        kinds = ("photograph", *maps)
        return page_json({"pictures": {kind: self.store.encoded(number, kind) for kind in kinds}, "maps": maps})


def _table(rows: Sequence[Mapping], branch_means: Mapping[str, float] | None) -> dict:
    """Return the rows of the page as columns, with the part of their names that all share apart."""
    names = [printable(row["image"]) for row in rows]
    parents = [name.split("/")[:-1] for name in names] or [[]]
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(min(parents), max(parents), strict=False))
    folder = "".join(f"{part}/" for part, _ in shared)
    ranks = np.empty(len(names), int)
    ranks[sorted(range(len(names)), key=lambda index: natural_order(names[index]))] = range(len(names))
    means = branch_means or {}
    columns = {
        name: [round(float(row[name]) - means.get(name.removeprefix("points_"), 0.0), 5) for row in rows]
        for name in (rows[0] if rows else ())
        if name.startswith("points_")
        or (name in ("score", "quality", "sampling_error") and math.isfinite(rows[0][name]))
    }
    return {
        "name": [name[len(folder) :] for name in names],
        "folder_name": folder,
        "rank": ranks.tolist(),
        "values": columns,
    }


def _limit(maps: Sequence[Mapping[str, np.ndarray]]) -> float:
    """Return the end of the colour scale of all maps; any number if there are none."""
    points = {(index, name): view for index, views in enumerate(maps) for name, view in views.items()}
    return colour_limit(points) if points else 1.0


def _rounded(maps: Mapping[str, np.ndarray], limit: float) -> dict[str, list[float]]:
    """Return maps as plain numbers, row after row, in steps far finer than the eye can tell colours apart."""
    digits = 3 - math.floor(math.log10(limit))
    return {name: np.round(points.ravel().astype(float), digits).tolist() for name, points in maps.items()}


def _write_maps(folder: Path, maps: Mapping[int, dict[str, list[float]]]) -> None:
    """Write maps as scripts: a page that was opened as a file may load a script, but read no other file."""
    files: dict[int, dict[int, dict]] = {}
    for number, views in maps.items():
        files.setdefault(number // MAPS_PER_FILE, {})[number] = views
    for index, content in files.items():
        text = json.dumps(content, separators=(",", ":"))
        (folder / f"maps_{index}.js").write_text(f"receiveMaps({index},{text});\n", encoding="ascii")


def _tiles(values: np.ndarray) -> dict[str, float]:
    """Return what summarises the photographs, by name; {} without any."""
    if not len(values):
        return {}
    return {
        "mean": values.mean(),
        "median": np.median(values),
        "lowest": values.min(),
        "highest": values.max(),
    }


def _histogram(values: np.ndarray) -> list[dict]:
    """Return the bars of a histogram: limits, count and height as a percentage of the highest; [] without values."""
    if not len(values):
        return []
    if values.min() == values.max():  # numpy would widen the range beyond the scale
        return [{"low": values[0], "high": values[0], "count": len(values), "height": 100.0}]
    counts, edges = np.histogram(values, BINS)
    return [
        {"low": float(low), "high": float(high), "count": int(count), "height": 100 * count / counts.max()}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
