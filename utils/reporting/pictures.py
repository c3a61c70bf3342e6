"""The pictures of predict.py: views, quality maps and the cards of a page, drawn as photographs are scored."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np

from data.datasets import PhotographDataset
from data.files import one_line, printable
from data.views import ViewSpec
from utils.calibration import Calibration
from utils.command_line import make_folder
from utils.errors import RunError, cause_and_remedy
from utils.inference import ScoredBatch
from utils.loaded_model import LoadedModel
from utils.progress import Failures
from utils.reporting.figures import draw_quality_map, draw_views
from utils.reporting.folder_page import FolderReport
from utils.reporting.folder_pictures import PhotographReducer

Pictures = Mapping[str, Path]  # path of each kind of picture of a photograph


@dataclass(frozen=True)
class Drawings:
    """What is drawn while photographs are scored.

    Attributes:
        pictures: paths of the pictures of --views and --map, see `plan_pictures`.
        report: the page of --report; None without it.
        unwritten: the photographs of this rank whose pictures could not be written.
    """

    pictures: Mapping[str, Pictures]
    report: FolderReport | None
    unwritten: Failures = field(default_factory=Failures)

    def need_maps(self, spec: ViewSpec) -> bool:
        """Return whether maps are drawn; a model that reads patches has none."""
        kinds = next(iter(self.pictures.values()), {})
        return "map" in kinds or (self.report is not None and "patches" not in spec.views)

    def photographs(self, images: Sequence[str], spec: ViewSpec, draws: int) -> PhotographDataset:
        """Return the photographs for scoring, with what is drawn of each."""
        reduce = PhotographReducer(spec) if self.report else None
        return PhotographDataset(images, spec, draws=draws, keep_image=bool(self.pictures), reduce=reduce)

    def draw(
        self, batches: Iterator[ScoredBatch], images: Sequence[str], loaded: LoadedModel, draws: int
    ) -> Iterator[ScoredBatch]:
        """Draw what belongs to each batch, then pass its scores on."""
        if self.report:
            batches = self.report.collect(batches, images, self.unwritten)
        if self.pictures:
            batches = draw_pictures(batches, images, self.pictures, loaded, draws, self.unwritten)
        return batches


def plan_pictures(paths: Sequence[str], folders: Mapping[str, str | None]) -> dict[str, Pictures]:
    """Return the path of each photograph's pictures, <stem>_<kind>.png, for every kind with a folder; make the folders.

    Photographs with the same stem are numbered.

    Raises:
        RunError: a folder cannot be made, or a picture would overwrite one of the photographs.
    """
    made = {kind: make_folder(folder) for kind, folder in folders.items() if folder is not None}
    if not made:
        return {}
    pictures = {
        path: {kind: folder / f"{stem}_{kind}.png" for kind, folder in made.items()}
        for path, stem in zip(paths, _numbered_stems(paths), strict=True)
    }
    # Not Path.resolve, which may raise for a link to itself.
    photographs = {Path(path).absolute() for path in paths} | {Path(os.path.realpath(path)) for path in paths}
    for picture in chain.from_iterable(kinds.values() for kinds in pictures.values()):
        if Path(os.path.realpath(picture)) in photographs:
            raise RunError(f"{printable(picture)}: a picture would overwrite this photograph; choose another folder")
    return pictures


def _numbered_stems(paths: Sequence[str]) -> list[str]:
    """Return the stem of every path, with a number where an earlier one has the same."""
    taken: set[str] = set()
    numbers: dict[str, int] = {}  # of the last path with a stem
    stems = []
    for path in paths:
        stem = name = Path(path).stem
        while name in taken:
            numbers[stem] = numbers.get(stem, 1) + 1
            name = f"{stem}_{numbers[stem]}"
        taken.add(name)
        stems.append(name)
    return stems


def draw_pictures(
    batches: Iterable[ScoredBatch],
    paths: Sequence[str],
    pictures: Mapping[str, Pictures],
    loaded: LoadedModel,
    draws: int,
    unwritten: Failures,
) -> Iterator[ScoredBatch]:
    """Draw the pictures of the scored photographs of each batch, then pass the batch on without what was drawn.

    A picture that cannot be drawn or written is added to `unwritten`, and the scores are not lost.
    """
    for batch in batches:
        for row in range(len(batch.index)):
            path = paths[batch.index[row]]
            try:
                draw_photograph(batch, row, Path(path).name, pictures[path], loaded, draws)
            except Exception as error:  # a night's work must not end because one picture fails
                cause = cause_and_remedy(error) if isinstance(error, OSError) else one_line(error)
                unwritten.add(f"{path}: its picture cannot be written: {cause}")
        outputs = {name: values for name, values in batch.outputs.items() if not name.startswith("map_")}
        yield replace(batch, outputs=outputs, views={}, images=[])


def draw_photograph(
    batch: ScoredBatch, row: int, name: str, pictures: Pictures, loaded: LoadedModel, draws: int
) -> None:
    """Draw the pictures of one photograph of a batch.

    Args:
        batch, row: the batch, and the photograph's row in it.
        name: for the title.
        pictures: path of each kind of picture.
        loaded: the model that scored it.
        draws: of the fragments; the first one's mosaic is drawn.

    Raises:
        OSError: a picture cannot be written.
    """
    spec, image = loaded.view_spec, batch.images[row]
    outputs = {name: values[row] for name, values in batch.outputs.items()}
    views = {name: batch.views[name][row] for name in spec.views}
    if draws > 1:
        views["distortion"] = views["distortion"][0]
    if "views" in pictures:
        draw_views(image, views, spec, pictures["views"])
    if "map" in pictures:
        maps = {name: outputs[f"map_{name}"] for name in loaded.model.view_names}
        title = f"{name}: {_score_text(outputs['score'], outputs['draw_sd'], draws, loaded.calibration)}"
        draw_quality_map(image, views, spec, maps, loaded.branch_means, title, pictures["map"])


def _score_text(score: float, draw_sd: float, draws: int, calibration: Calibration | None) -> str:
    """Return a photograph's score as text for the title of its map."""
    text = f"score {score:.3f}"
    if draws > 1:
        text += f" \u00b1 {draw_sd / np.sqrt(draws):.3f} ({draws} draws)"
    return text + (f", quality {calibration(score):.3f}" if calibration else "")
