"""Suites for the quality map: its cost, whether it locates the distortion, and what averaging over draws gains."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from data.decode import decode_rgb
from data.seeding import Purpose, derive_generator
from data.synthetic import HEIGHT, WIDTH, degrade, render_scene
from data.views import ViewSpec, make_views, sample_draws
from models import build_model
from models.uiqa import QualityModel
from utils.benchmarks.timing import Measurement, Settings, time_in_turn
from utils.benchmarks.views import batch_of
from utils.checkpoint import load_model
from utils.errors import RunError

DRAWS = 8
UNSEEN_SEED = 1  # the demo set is made with seed 0, so no model has seen these scenes
BLUR = 3.0  # s.d. in pixels, the middle of the demo set's range
QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # row, column
SPREAD_SCENES, SEEDS, MANY_DRAWS = 5, 20, 16


def contributions(jpeg: bytes, settings: Settings) -> Measurement:
    """A pass with the quality map, and one over eight draws of the fragments; the limit is a pass without."""
    model = build_model("UIQA", backbone=settings.backbone).to(settings.device).eval()
    views = batch_of(jpeg, settings.batch_size, settings.device)
    mosaics = batch_of(jpeg, DRAWS, settings.device)["distortion"]
    several_draws = views | {"distortion": mosaics.expand(settings.batch_size, *mosaics.shape)}
    measurement = Measurement()

    def forward() -> torch.Tensor:
        return model(**views)

    with torch.inference_mode():
        functions = {"forward": forward, "contributions": lambda: model.contributions(**views)}
        times = time_in_turn(functions, settings.rounds, settings.device)
        measurement.add(times)
        functions = {"one_draw": forward, "draws": lambda: model.contributions(**several_draws)}
        medians = measurement.add(time_in_turn(functions, -(-settings.rounds // 5), settings.device))
        parts = model.contributions(**views)
        total = parts["bias"] + sum(parts[name].mean(dim=(1, 2)) for name in views)
        difference = (total - forward().squeeze(1)).abs().max().item()
    measurement.figures |= {
        "batch_size": settings.batch_size,
        "number_of_draws": DRAWS,
        "overhead": float(np.median(times["contributions"] / times["forward"])) - 1,  # of neighbours in time
        "draws_over_one": medians["draws"] / medians["one_draw"],
        "draws_over_branches": medians["draws"] / medians["one_draw"] / ((2 + DRAWS) / 3),
        "max_abs_diff": difference,
    }
    return measurement


def quality_map(jpeg: bytes, settings: Settings) -> Measurement:
    """Blur each quarter of photographs, or of unseen demo scenes: does the map drop most there?

    And how do scores spread over draws?
    """
    loaded = load_model(settings.checkpoint)
    spec = loaded.view_spec
    if "distortion" not in spec.views:
        raise RunError(f"{settings.checkpoint}: the suite needs a model with the distortion view; this one has none")
    torch.manual_seed(0)
    untrained = build_model(**loaded.architecture, view_sizes=spec.view_sizes)
    untrained.set_normalisation(**loaded.model.normalisation)
    models = {"trained": loaded.model.to(settings.device), "untrained": untrained.to(settings.device).eval()}
    hits = {name: dict.fromkeys((1, MANY_DRAWS), 0) for name in models}
    variances: dict[int, list[float]] = {1: [], MANY_DRAWS: []}
    count = min(settings.rounds, len(settings.photographs) or settings.rounds)
    for scene, sharp in enumerate(sharp_images(settings)):
        images = [sharp, *(blur_quarter(sharp, row, column) for row, column in QUARTERS)]
        for name, model in models.items():
            maps = [distortion_maps(model, spec, image) for image in images]
            for draws in hits[name]:
                before, *after = (of_draws[draws] for of_draws in maps)
                hits[name][draws] += sum(
                    quarter_of_largest_drop(before, blurred) == quarter
                    for blurred, quarter in zip(after, QUARTERS, strict=True)
                )
        if scene < SPREAD_SCENES:
            for draws, of_scenes in variances.items():
                of_scenes.append(np.var(scores_by_seed(models["trained"], spec, sharp, draws), ddof=1))
    score_sd = {draws: float(np.sqrt(np.mean(of_scenes))) for draws, of_scenes in variances.items()}
    figures = {
        "images": count,
        "cases": 4 * count,
        "blur_px": BLUR,
        "blurred_quarter_falls_most": {
            f"{name}, {draws} draw(s)": found / (4 * count)
            for name, of_draws in hits.items()
            for draws, found in of_draws.items()
        },
        "chance": 0.25,
        "seeds": SEEDS,
        "score_sd": {f"{draws} draw(s)": sd for draws, sd in score_sd.items()},
        "score_sd_falls_by": score_sd[1] / score_sd[MANY_DRAWS],
    }
    return Measurement(figures=figures)


def sharp_images(settings: Settings) -> Iterator[np.ndarray]:
    """Yield the given photographs, or rendered scenes without any; as many as there are rounds."""
    for path in settings.photographs[: settings.rounds]:
        yield decode_rgb(path).copy()
    for scene in range(settings.rounds if not settings.photographs else 0):
        yield render_scene(derive_generator(Purpose.SCENE, UNSEEN_SEED, scene), HEIGHT, WIDTH).copy()


def blur_quarter(image: np.ndarray, row: int, column: int) -> np.ndarray:
    """Return a photograph with one quarter out of focus."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    part = slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width)
    blurred = image.copy()
    blurred[part] = degrade(image[part], "blur", BLUR, derive_generator(Purpose.DEGRADATION, 0))
    return blurred


@torch.inference_mode()
def distortion_maps(model: QualityModel, spec: ViewSpec, image: np.ndarray) -> dict[int, np.ndarray]:
    """Return the distortion branch's map of an image, (h, w) in points, averaged over 1 and over MANY_DRAWS draws."""
    device = next(model.parameters()).device
    views, maps = make_views(image, spec), {}
    for draws in (1, MANY_DRAWS):
        views["distortion"] = sample_draws(image, spec, draws)
        inputs = {name: view[None].to(device) for name, view in views.items()}
        maps[draws] = model.contributions(**inputs)["distortion"][0].cpu().numpy()
    return maps


def quarter_of_largest_drop(before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    """Return the quarter (row, column) of a map (h, w) that lost the most points."""
    halves = [np.array_split(rows, 2, axis=1) for rows in np.array_split(after - before, 2, axis=0)]
    return min(QUARTERS, key=lambda quarter: halves[quarter[0]][quarter[1]].mean())


@torch.inference_mode()
def scores_by_seed(model: QualityModel, spec: ViewSpec, image: np.ndarray, draws: int) -> list[float]:
    """Return a photograph's scores over SEEDS seeds of the fragments, each averaged over some draws."""
    device = next(model.parameters()).device
    scores = []
    for seed in range(SEEDS):
        seeded = replace(spec, seed=seed, fractions=())
        views = make_views(image, seeded)
        views["distortion"] = sample_draws(image, seeded, draws)
        scores.append(model.contributions(**{name: view[None].to(device) for name, view in views.items()})["score"])
    return torch.cat(scores).tolist()
