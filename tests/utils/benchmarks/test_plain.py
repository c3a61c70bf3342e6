"""The plain implementation and the fast one agree."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.decode import decode_rgb
from data.views import ViewSpec, make_views
from models import build_model
from utils.benchmarks.plain import PlainUIQA, normalise, plain_views


def test_views_and_network_agree_with_the_plain_implementation(tmp_path):
    """From a file to a score: decoding, views, normalisation and three torchvision trunks."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (90, 160, 3), dtype=np.uint8)
    path = tmp_path / "photograph.jpg"
    Image.fromarray(noise).resize((1600, 900), Image.Resampling.BICUBIC).save(path, quality=90)

    spec = ViewSpec()
    views = make_views(decode_rgb(path), spec, spec.evaluation_fractions())
    plain = plain_views(path, spec.evaluation_fractions())
    for name in ("distortion", "salient"):
        assert torch.equal(views[name], (plain[name] * 255).round().to(torch.uint8))
    assert (views["aesthetic"].float() - plain["aesthetic"] * 255).abs().max() <= 1.001

    torch.manual_seed(0)
    reference = PlainUIQA().eval()
    model = build_model("UIQA").eval()
    model.load_state_dict(reference.state_dict(), strict=True)
    with torch.inference_mode():
        score = model(**{name: view[None] for name, view in views.items()}).item()
        expected = reference(*(normalise(view.float() / 255)[None] for view in views.values())).item()
    assert score == pytest.approx(expected, abs=1e-5)
