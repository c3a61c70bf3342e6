"""The pictures of predict.py: the views and the quality map of each photograph, drawn as it is scored."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from data.files import one_line, printable
from utils.calibration import Calibration
from utils.command_line import make_folder
from utils.errors import RunError, cause_and_remedy
from utils.inference import ScoredBatch
from utils.loaded_model import LoadedModel
from utils.progress import Failures
from utils.reporting.figures import draw_quality_map, draw_views

Pictures = Mapping[str, Path]  # path of each kind of picture of a photograph


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
