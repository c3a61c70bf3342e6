"""Suites of half precision and of light trunks, which are timed against timm's own way of running them."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from data.decode import decode_rgb
from data.seeding import Purpose, derive_generator
from data.synthetic import AMOUNT_RANGES, degrade, fault_amount, render_scene
from data.views import ViewSpec, make_views, random_views
from losses import all_pairs_loss
from models import build_model
from models.uiqa import QualityModel
from utils.benchmarks.latency import configured_model
from utils.benchmarks.network import Batch, executed_gmacs, score_file_plainly, three_models, to_device
from utils.benchmarks.timing import Measurement, Settings, time_in_turn
from utils.benchmarks.views import SPEC, batch_of, write_photographs
from utils.checkpoint import load_model
from utils.memory import keep_freed_memory
from utils.precision import DTYPES, autocast, is_fast

LITE_CONFIG = Path(__file__).parents[2] / "configs/uhd_iqa_lite.yaml"
COMPARED_TRUNKS = {"swin_t": 480, "timm:mobilenetv4_conv_small": 480, "timm:tf_efficientnet_lite0": 224}
PHOTOGRAPHS = 32
STEP_TRUNK, STEP_SIZE, STEP_PHOTOGRAPHS, STEP_FROZEN = "timm:tf_efficientnet_lite0", 224, 8, 5  # of 7 stages


def lite(jpeg: bytes, settings: Settings) -> Measurement:
    """A photograph from its file to its score, with the published model, the paper's model here and the light one."""
    plain, paper, _ = three_models(settings)
    build, _ = configured_model(str(LITE_CONFIG))
    light = build().to(settings.device).eval()
    batch = batch_of(jpeg, 1, settings.device)
    measurement = Measurement()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = write_photographs(jpeg, 1, Path(folder))[0]

        def score(model: QualityModel, precision: str) -> float:
            return score_views(model, views_of(decode_rgb(path), SPEC, settings.device), precision)

        functions = {
            "plain": lambda: score_file_plainly(plain, path, settings.device),
            "paper": lambda: score(paper, "fp32"),
            "lite": lambda: score(light, "fp32"),
            "lite_bf16": lambda: score(light, "bf16"),
            "bare_decode": lambda: decode_rgb(path),
            "network_plain": lambda: plain_scores(light, batch),
            "network": lambda: score_views(light, batch, "fp32"),
            "network_bf16": lambda: score_views(light, batch, "bf16"),
        }
        medians = measurement.add(time_in_turn(functions, settings.rounds, settings.device))
    ours = ("lite", "lite_bf16")
    measurement.figures |= {
        "lite_backbone": build.keywords["backbone"],
        "executed_gmacs": {"paper": executed_gmacs(paper, batch), "lite": executed_gmacs(light, batch)},
        "speedup": {name: medians["paper"] / medians[name] for name in ours},
        "speedup_over_plain": {name: medians["plain"] / medians[name] for name in ours},
        "network_speedup": {name: medians["network_plain"] / medians[name] for name in ("network", "network_bf16")},
        "decode_share": {name: medians["bare_decode"] / medians[name] for name in ("paper", *ours)},
    }
    return measurement


def light_step(jpeg: bytes, settings: Settings) -> Measurement:
    """A training step of a light model on all pairs: as timm runs it, here, in bf16, and with frozen first stages.

    All of them with `utils.memory.keep_freed_memory`, as train.py has it and timm's own training has not.
    """
    keep_freed_memory()
    sizes = dict.fromkeys(SPEC.views, STEP_SIZE)
    views = to_device(
        random_views({name: (STEP_PHOTOGRAPHS, 3, side, side) for name, side in sizes.items()}), settings.device
    )
    mos = torch.linspace(-1, 1, STEP_PHOTOGRAPHS, device=settings.device)

    def step(frozen: int, score: Callable[[QualityModel, Batch], torch.Tensor]) -> Callable[[], None]:
        torch.manual_seed(0)
        model = build_model("UIQA", backbone=STEP_TRUNK, view_sizes=sizes, stochastic_depth=0.0).to(settings.device)
        model.freeze(frozen)
        model.train()
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.0)

        def run() -> None:
            loss = all_pairs_loss(score(model, views).squeeze(1), mos, lr_weight_L2=0.1, lr_weight_pair=1.0)["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return run

    def amp(model: QualityModel, batch: Batch) -> torch.Tensor:
        with autocast("bf16", settings.device):
            return model(**batch)

    def ours(model: QualityModel, batch: Batch) -> torch.Tensor:
        return model(**batch)

    functions = {
        "plain": step(0, plain_scores),
        "ours": step(0, ours),
        "ours_bf16": step(0, amp),
        "frozen": step(STEP_FROZEN, ours),
        "frozen_bf16": step(STEP_FROZEN, amp),
    }
    measurement = Measurement()
    medians = measurement.add(time_in_turn(functions, settings.rounds, settings.device))
    measurement.figures |= {
        "backbone": STEP_TRUNK,
        "photographs": STEP_PHOTOGRAPHS,
        "frozen_stages": STEP_FROZEN,
        "speedup": {name: medians["plain"] / medians[name] for name in functions if name != "plain"},
    }
    return measurement


def precision(jpeg: bytes, settings: Settings) -> Measurement:
    """Each model in each precision: time, differences of scores, and whether the quality map still sums to the score.

    With a checkpoint, its model on its own views; otherwise the trunks that half precision is offered for, with random
    weights, whose scores say little about a trained model's.
    """
    if settings.checkpoint:
        loaded = load_model(settings.checkpoint)
        models = {loaded.architecture["backbone"]: (loaded.model, loaded.view_spec)}
    else:
        models = {name: random_model(name, side) for name, side in COMPARED_TRUNKS.items()}
    images = [decode_rgb(path) for path in settings.photographs[:PHOTOGRAPHS]] or rendered_photographs()
    precisions = [key for key in DTYPES if is_fast(key, settings.device)]  # the others take minutes
    measurement = Measurement()
    for name, (model, spec) in models.items():
        model.to(settings.device).eval()
        batches = [views_of(image, spec, settings.device) for image in images]
        functions = {
            key: partial(score_views, model, views_of(decode_rgb(jpeg), spec, settings.device), key)
            for key in precisions
        }
        with torch.inference_mode():
            medians = measurement.add(
                {
                    f"{name} {key}": times
                    for key, times in time_in_turn(functions, settings.rounds, settings.device).items()
                }
            )
            scores = {key: np.array([score_views(model, batch, key) for batch in batches]) for key in precisions}
            sums = {key: max(sum_error(model, batch, key) for batch in batches) for key in precisions}
        reference = scores["fp32"]
        measurement.figures[name] = {
            key: {
                "speedup": medians[f"{name} fp32"] / medians[f"{name} {key}"],
                "mean_difference": float(np.abs(scores[key] - reference).mean()),
                "max_difference": float(np.abs(scores[key] - reference).max()),
                "srcc": float(spearmanr(scores[key], reference).statistic),
                "map_sum_error": sums[key],
            }
            for key in precisions
        }
        measurement.figures[name]["score_sd"] = float(reference.std(ddof=1))
    return measurement


def random_model(backbone: str, side: int) -> tuple[QualityModel, ViewSpec]:
    """Return a three-branch model with random weights, and square views of this side in pixels."""
    spec = ViewSpec(resize=side * 16 // 15, crop_size=side, n_fragment=side // 32, salient_patch_dimension=side)
    return build_model("UIQA", backbone=backbone, view_sizes=spec.view_sizes), spec


def rendered_photographs() -> list[np.ndarray]:
    """Return demo scenes, each degraded in one way."""
    images = []
    for scene in range(PHOTOGRAPHS):
        image = render_scene(derive_generator(Purpose.SCENE, 1, scene), 1080, 1920)
        kind = list(AMOUNT_RANGES)[scene % len(AMOUNT_RANGES)]
        amount = fault_amount(kind, (scene + 1) / PHOTOGRAPHS)
        images.append(degrade(image, kind, amount, derive_generator(Purpose.DEGRADATION, scene)).copy())
    return images


def views_of(image: np.ndarray, spec: ViewSpec, device: torch.device) -> Batch:
    """Return the views of one photograph, (1, 3, S, S) each."""
    views = make_views(image, spec)
    return {name: view[None].to(device) for name, view in views.items()}


def score_views(model: QualityModel, batch: Batch, precision: str) -> float:
    """Score one photograph."""
    with autocast(precision, next(iter(batch.values())).device):
        return model(**batch).item()


def sum_error(model: QualityModel, batch: Batch, precision: str) -> float:
    """Return by how much the bias and the points of the quality map miss the score of one photograph."""
    with autocast(precision, next(iter(batch.values())).device):
        parts = model.contributions(**batch)
    total = parts["bias"] + sum(parts[name].mean(dim=(1, 2)) for name in model.view_names)
    return abs(total.item() - score_views(model, batch, precision))


def plain_scores(model: QualityModel, batch: Batch) -> torch.Tensor:
    """Score a batch with timm's networks as they are: channels-first, with their normalisations."""
    features = [
        trunk.net.forward_features(model.normalise(batch[name]).contiguous()).mean(dim=(2, 3))
        for name, trunk in model.trunks().items()
    ]
    return model.regress(torch.cat(features, dim=1))
