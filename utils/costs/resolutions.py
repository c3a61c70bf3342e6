"""What ways of reading a photograph cost at different resolutions; every figure is counted, none is quoted."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torchvision.models import resnet50

from models.backbones import published_swin
from utils.costs.counting import OPERATOR_COUNTERS, count, parameters

RESOLUTIONS = {
    "540P": (960, 540),
    "720P": (1280, 720),
    "1080P": (1920, 1080),
    "2K": (2560, 1440),
    "UHD": (3840, 2160),
}
CROPS, CROP_SIDE = 25, 224
SHORTEST, LONGEST = CROP_SIDE, 65_536  # of a side, pixels


@dataclass(frozen=True)
class Resolution:
    """A name, and the width and height of a photograph in pixels."""

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class Method:
    """A way of reading a photograph: a network, and the shape of what it reads of a photograph of (width, height)."""

    network: nn.Module
    shape: Callable[[int, int], tuple[int, int, int, int]]


def resolution(text: str) -> Resolution:
    """Return the resolution that a word means: a key of RESOLUTIONS, in either case, or WIDTHxHEIGHT in pixels.

    Raises:
        argparse.ArgumentTypeError: neither, or a side out of range.
    """
    name = text.upper()
    if name in RESOLUTIONS:
        return Resolution(name, *RESOLUTIONS[name])
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no resolution: give {', '.join(RESOLUTIONS)}, or WIDTHxHEIGHT in pixels, 6000x4000 say"
        )
    width, height = (int(side) for side in sides)
    if not SHORTEST <= min(width, height) <= max(width, height) <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text}: a side must have between {SHORTEST} (a crop's) and {LONGEST} pixels")
    return Resolution(f"{width}x{height}", width, height)


def other_methods() -> dict[str, Method]:
    """Return the ways that the model is held against: torchvision's networks without classifiers, and without numbers.

    The first two read the photograph as it is. The third reads crops of a fixed size, whose features or scores are
    averaged.
    """
    with torch.device("meta"):
        swin, resnet = published_swin("swin_t").eval(), resnet50().eval()
    resnet.fc = nn.Identity()
    return {
        "Swin-T, full resolution": Method(swin, lambda width, height: (1, 3, height, width)),
        "ResNet-50, full resolution": Method(resnet, lambda width, height: (1, 3, height, width)),
        f"ResNet-50, {CROPS} crops of {CROP_SIDE}": Method(resnet, lambda *_: (CROPS, 3, CROP_SIDE, CROP_SIDE)),
    }


def resolution_rows(name: str, own: Sequence[dict], resolutions: Sequence[Resolution]) -> list[dict]:
    """Count every method at every resolution.

    Args:
        name: of the model here.
        own: its figures at each of them, `params_m` and `gmacs`: the same for all where its views are of fixed size.
        resolutions: to count at.

    Returns:
        For every method and resolution: `method`, `resolution`, `width`, `height`, `params_m`, and for each operator
        counter `gmacs_<counter>`.
    """
    rows = [_row(name, place, found["params_m"], found["gmacs"]) for place, found in zip(resolutions, own, strict=True)]
    for method, reading in other_methods().items():
        counted: dict[tuple[int, ...], dict[str, float]] = {}
        for place in resolutions:
            shape = reading.shape(place.width, place.height)
            if shape not in counted:
                counted[shape] = count(reading.network, (torch.zeros(shape, device="meta"),), OPERATOR_COUNTERS)
            rows.append(_row(method, place, parameters(reading.network), counted[shape]))
    return rows


def _row(method: str, place: Resolution, params_m: float, gmacs: dict[str, float]) -> dict:
    return {
        "method": method,
        "resolution": place.name,
        "width": place.width,
        "height": place.height,
        "params_m": params_m,
        **{f"gmacs_{counter}": gmacs[counter] for counter in OPERATOR_COUNTERS},
    }
