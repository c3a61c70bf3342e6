"""Benchmarks of the quality map: what it costs, whether it points at the fault, what averaging over draws gains."""

import argparse
from dataclasses import replace

import numpy as np
import torch

from data.seeding import Purpose, derive_generator
from data.synthetic import HEIGHT, WIDTH, degrade, render_scene
from data.views import ViewSpec, make_views, sample_draws
from models import build_model
from models.uiqa import QualityModel
from utils.benchmarks.timing import Measured, time_in_turn
from utils.benchmarks.views import batch_of
from utils.checkpoint import load_model
from utils.errors import RunError

DRAWS = 8
UNSEEN_SEED = 1  # the demo set is made with seed 0: no model has seen these scenes
BLUR = 3.0  # s.d. in pixels, the middle of the demo's range
QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # row, column
SCATTERED_SCENES, SEEDS, MANY_DRAWS = 5, 20, 16


def contributions(content: bytes, options: argparse.Namespace) -> Measured:
    """A pass with the points of every place, and one over eight draws of the fragments; the limit is a pass without."""
    model = build_model("UIQA", backbone=options.backbone).to(options.device).eval()
    views = batch_of(content, options.batch_size, options.device)
    of_draws = batch_of(content, DRAWS, options.device)["distortion"]
    drawn = views | {"distortion": of_draws.expand(options.batch_size, *of_draws.shape)}
    measured = Measured()
    with torch.inference_mode():
        ways = {"forward": lambda: model(**views), "contributions": lambda: model.contributions(**views)}
        taken = time_in_turn(ways, options.rounds, options.device)
        measured.add(taken)
        ways = {"one_draw": ways["forward"], "draws": lambda: model.contributions(**drawn)}
        medians = measured.add(time_in_turn(ways, -(-options.rounds // 5), options.device))
        found = model.contributions(**views)
        total = found["bias"] + sum(found[name].mean(dim=(1, 2)) for name in views)
        difference = (total - model(**views).squeeze(1)).abs().max().item()
    measured.figures |= {
        "batch_size": options.batch_size,
        "number_of_draws": DRAWS,
        "overhead": float(np.median(taken["contributions"] / taken["forward"])) - 1,  # neighbours in time
        "draws_over_one": medians["draws"] / medians["one_draw"],
        "draws_over_branches": medians["draws"] / medians["one_draw"] / ((2 + DRAWS) / 3),
        "max_abs_diff": difference,
    }
    return measured


def quality_map(content: bytes, options: argparse.Namespace) -> Measured:
    """Blur each quarter of unseen demo scenes in turn: does the map fall most there? And the spread between draws."""
    loaded = load_model(options.checkpoint)
    if "distortion" not in loaded.view_spec.views:
        raise RunError(f"{options.checkpoint}: this model has no distortion view, whose map the suite looks at")
    torch.manual_seed(0)
    untrained = build_model(**loaded.architecture, view_sizes=loaded.view_spec.view_sizes)
    models = {"trained": loaded.model.to(options.device), "untrained": untrained.to(options.device).eval()}
    hits = dict.fromkeys(models, 0)
    spread: dict[int, list[float]] = {1: [], MANY_DRAWS: []}
    for scene in range(options.rounds):
        sharp = render_scene(derive_generator(Purpose.SCENE, UNSEEN_SEED, scene), HEIGHT, WIDTH).copy()
        cases = [sharp, *(blur_quarter(sharp, row, column) for row, column in QUARTERS)]
        for name, model in models.items():
            maps = distortion_maps(model, loaded.view_spec, cases)
            hits[name] += sum(
                fallen_quarter(maps[0], maps[case]) == quarter for case, quarter in enumerate(QUARTERS, start=1)
            )
        if scene < SCATTERED_SCENES:
            for draws, found in spread.items():
                scores = scores_by_seed(models["trained"], loaded.view_spec, sharp, draws)
                found.append(float(np.std(scores, ddof=1)))
    return Measured(
        figures={
            "scenes": options.rounds,
            "cases": 4 * options.rounds,
            "blur_px": BLUR,
            "blurred_quarter_falls_most": {name: count / (4 * options.rounds) for name, count in hits.items()},
            "chance": 0.25,
            "seeds": SEEDS,
            "score_sd": {f"{draws} draw(s)": float(np.sqrt(np.mean(np.square(sd)))) for draws, sd in spread.items()},
            "score_sd_falls_by": float(np.sqrt(np.mean(np.square(spread[1])) / np.mean(np.square(spread[MANY_DRAWS])))),
        }
    )


def blur_quarter(image: np.ndarray, row: int, column: int) -> np.ndarray:
    """Return the photograph with one quarter out of focus."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    part = slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width)
    blurred = image.copy()
    blurred[part] = degrade(image[part], "blur", BLUR, derive_generator(Purpose.DEGRADATION, 0))
    return blurred


@torch.inference_mode()
def distortion_maps(model: QualityModel, spec: ViewSpec, images: list[np.ndarray]) -> np.ndarray:
    """Return the points of every place of the distortion view, (n, h, w)."""
    device = next(model.parameters()).device
    cut = [make_views(image, spec, spec.evaluation_generator()) for image in images]
    views = {name: torch.stack([each[name] for each in cut]).to(device) for name in spec.views}
    return model.contributions(**views)["distortion"].cpu().numpy()


def fallen_quarter(before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    """Return the quarter (row, column) of a map (h, w) that lost most points."""
    halves = [np.array_split(rows, 2, axis=1) for rows in np.array_split(after - before, 2, axis=0)]
    return min(QUARTERS, key=lambda quarter: halves[quarter[0]][quarter[1]].mean())


@torch.inference_mode()
def scores_by_seed(model: QualityModel, spec: ViewSpec, image: np.ndarray, draws: int) -> list[float]:
    """Return a photograph's score for each of SEEDS seeds of the fragments."""
    device = next(model.parameters()).device
    scores = []
    for seed in range(SEEDS):
        seeded = replace(spec, seed=seed)
        views = make_views(image, seeded, seeded.evaluation_generator())
        views["distortion"] = sample_draws(image, seeded, draws)
        scores.append(model.contributions(**{name: view[None].to(device) for name, view in views.items()})["score"])
    return torch.cat(scores).tolist()
