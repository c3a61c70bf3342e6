"""The map loss teaches a map to fall where mini-patches became worse."""

import numpy as np
import pytest
import torch

from data.faults import add_faults
from data.seeding import Purpose, derive_generator
from data.synthetic import render_scene
from data.views import to_image, to_view
from models import build_model
from utils.training.map_loss import MapLoss

N = 4
WEIGHT = 2.0
LOSS = MapLoss(WEIGHT, n_fragment=N, seed=0, mean=0.0, sd=2.0)


@pytest.fixture(scope="module")
def views() -> torch.Tensor:
    scenes = [render_scene(derive_generator(Purpose.SCENE, 0, number), 32 * N, 32 * N) for number in range(8)]
    return to_view(np.stack(scenes))


@pytest.fixture
def model(views):
    torch.manual_seed(0)
    model = build_model("UIQA", backbone="timm:mobilenetv3_small_050", branches="distortion").train()
    with torch.no_grad():
        for _ in range(30):  # until the statistics of batch normalisation are those of the views
            model(distortion=views)
    return model


def test_it_is_the_squared_error_of_the_changes_of_the_map(model, views):
    mos = torch.tensor([-1.0, 2, -1, 1, 3, -1, -1, 1])
    loss = LOSS(model, views, mos, 10, (5, 0))
    chosen = [1, 3]  # the first above the mean, a quarter of eight
    generator = derive_generator(Purpose.MAP_LOSS, 0, 5, 0)
    pairs = [add_faults(to_image(views)[number], N, generator) for number in chosen]
    model.eval()
    before = model.contributions(distortion=views[chosen])["distortion"]
    after = model.contributions(distortion=to_view(np.stack([image for image, _ in pairs])))["distortion"]
    drops = torch.from_numpy(np.stack([drop for _, drop in pairs]))
    expected = WEIGHT * ((after - before) / 2 + drops).square().mean(dim=(1, 2)).sum() / 10
    torch.testing.assert_close(loss, expected)


def test_a_small_step_against_its_gradient_lowers_it(model, views):
    before = LOSS(model, views, torch.ones(8), 8, (1, 0))
    before.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    with torch.no_grad():
        step = 0.01 * before / sum(gradient.square().sum() for gradient in gradients)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= step * parameter.grad
        after = LOSS(model, views, torch.ones(8), 8, (1, 0))
    assert 0.985 * before < after < 0.995 * before  # by 1 %, as far as it is linear


def test_batch_normalisation_learns_no_statistics_from_degraded_views(model, views):
    before = {name: value.clone() for name, value in model.named_buffers()}
    LOSS(model, views, torch.ones(8), 8, (0, 0))
    assert model.distortion_feature_extraction.training
    for name, value in model.named_buffers():
        assert torch.equal(value, before[name]), name


def test_without_photographs_above_the_mean_there_is_nothing_to_learn(model, views):
    assert LOSS(model, views, -torch.ones(8), 8, (0, 0)) == 0


def test_what_is_drawn_depends_on_step_part_and_seed_alone(model, views):
    first = LOSS(model, views, torch.ones(8), 8, (3, 0))
    assert first == LOSS(model, views, torch.ones(8), 8, (3, 0))
    of_another_seed = MapLoss(WEIGHT, N, 1, 0.0, 2.0)
    for loss, draw in ((LOSS, (4, 0)), (LOSS, (3, 1)), (of_another_seed, (3, 0))):
        assert loss(model, views, torch.ones(8), 8, draw) != first
