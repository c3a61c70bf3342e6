"""The models: released state-dict keys, one score per photograph, and its exact decomposition."""

import pytest
import torch

from losses import quality_loss
from models import UIQA, SwinT, build_model, uiqa
from models.backbones import IMAGENET_MEAN, IMAGENET_STD
from utils.benchmarks.plain import PlainUIQA

SIZE = 64
SIZES = dict.fromkeys(("aesthetic", "distortion", "salient"), SIZE)


def random_views(batch: int = 2, size: int = SIZE, names=UIQA.view_names) -> dict[str, torch.Tensor]:
    return {name: torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8) for name in names}


@pytest.fixture
def model() -> UIQA:
    torch.manual_seed(0)
    return build_model("UIQA", backbone="swin_nano", view_sizes=SIZES).eval()


def test_the_state_dict_has_the_released_keys_and_no_others():
    keys = set(build_model("UIQA").state_dict())
    assert keys == set(PlainUIQA().state_dict())
    assert {key.split(".")[0] for key in keys} == {
        "aesthetics_feature_extraction",
        "distortion_feature_extraction",
        "saliency_feature_extraction",
        "quality",
    }


def test_the_pretraining_model_has_the_released_keys():
    model = build_model("Model_SwinT")
    assert isinstance(model, SwinT)
    assert {key.split(".")[0] for key in model.state_dict()} == {"feature_extraction", "quality"}
    assert model.quality[0].weight.shape == (128, 768)


def test_views_may_be_named_or_in_order(model):
    views = random_views()
    named, ordered = model(**views), model(*views.values())
    assert named.shape == (2, 1)
    assert torch.equal(named, ordered)


def test_every_view_changes_the_score(model):
    views = random_views()
    scores = model(**views)
    for name in views:
        assert not torch.equal(scores, model(**(views | {name: 255 - views[name]})))


def test_uint8_and_normalised_floats_give_the_same_score(model):
    views = random_views()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    normalised = {name: (view.float() / 255 - mean) / std for name, view in views.items()}
    torch.testing.assert_close(model(**views), model(**normalised))


@pytest.mark.parametrize(
    ("backbone", "mean", "std"),
    [
        ("swin_nano", IMAGENET_MEAN, IMAGENET_STD),
        ("timm:resnet18", IMAGENET_MEAN, IMAGENET_STD),
        ("timm:tf_efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_pixels_are_normalised_as_in_the_trunks_own_pre_training(backbone, mean, std):
    model = build_model("SwinT", backbone=backbone, view_sizes=SIZES)
    view = random_views(names=["aesthetic"])["aesthetic"]
    expected = (view.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(model.normalise(view), expected)
    assert model.normalisation == {"mean": pytest.approx(mean), "std": pytest.approx(std)}


@pytest.mark.parametrize("backbone", ["swin_nano", "timm:test_resnet", "timm:test_mambaout"])
@pytest.mark.parametrize("name", ["UIQA", "SwinT"])
def test_the_contributions_sum_to_the_score(name, backbone):
    model = build_model(name, backbone=backbone, view_sizes=SIZES).eval()
    views = random_views(3, names=model.view_names)
    parts = model.contributions(**views)
    total = parts["bias"] + sum(parts[view].mean(dim=(1, 2)) for view in model.view_names)
    torch.testing.assert_close(total, model(**views).squeeze(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts["score"], total)


@pytest.mark.slow
@pytest.mark.paper
def test_the_contributions_of_the_papers_model_sum_to_the_score():
    model = build_model("UIQA").eval()
    views = {name: torch.randint(0, 256, (1, 3, 480, 480), dtype=torch.uint8) for name in model.view_names}
    parts = model.contributions(**views)
    assert {parts[name].shape for name in views} == {(1, 15, 15)}
    total = parts["bias"] + sum(parts[name].mean() for name in views)
    torch.testing.assert_close(total, model(**views).squeeze(), atol=1e-5, rtol=0)


def test_draws_of_a_view_are_averaged(model):
    views = random_views(2)
    draws = torch.stack([views["distortion"], views["distortion"].flip(3), 255 - views["distortion"]], dim=1)
    parts = model.contributions(**(views | {"distortion": draws}))
    singly = [model.contributions(**(views | {"distortion": draws[:, draw]})) for draw in range(3)]
    torch.testing.assert_close(parts["score_of_draw"], torch.stack([one["score"] for one in singly], dim=1))
    torch.testing.assert_close(parts["score"], parts["score_of_draw"].mean(dim=1))
    torch.testing.assert_close(parts["distortion"], sum(one["distortion"] for one in singly) / 3)


@pytest.mark.parametrize("branches", ["salient", "aesthetic,distortion", "salient,aesthetic"])
@pytest.mark.parametrize("shared_trunk", [False, True])
def test_a_model_may_have_some_of_the_branches(branches, shared_trunk):
    options = {"backbone": "swin_nano", "view_sizes": SIZES, "shared_trunk": shared_trunk}
    model = build_model("UIQA", branches=branches, **options).eval()
    assert sorted(model.view_names) == sorted(branches.split(","))
    assert list(model.view_names) == [name for name in SIZES if name in branches]
    views = random_views(names=model.view_names)
    parts = model.contributions(**views)
    total = parts["bias"] + sum(parts[name].mean(dim=(1, 2)) for name in views)
    torch.testing.assert_close(total, model(**views).squeeze(1), atol=1e-5, rtol=1e-5)
    assert torch.equal(model(*views.values()), model(**views))


@pytest.mark.parametrize("branches", ["", "aesthetic,aesthetic", "aesthetic distortion", "aesthetic,tasteful"])
def test_unknown_repeated_or_missing_branches_are_refused(branches):
    with pytest.raises(ValueError, match="branches must be one or more of aesthetic,distortion,salient"):
        build_model("UIQA", branches=branches)


def test_a_shared_trunk_has_a_third_of_the_weights():
    with torch.device("meta"):
        one, three = (build_model("UIQA", shared_trunk=shared) for shared in (True, False))
    counts = [sum(parameter.numel() for parameter in model.parameters()) / 1e6 for model in (one, three)]
    assert counts == pytest.approx([27.8, 82.9], abs=0.05)
    assert len(set(one.trunks().values())) == 1
    assert {key.split(".")[0] for key in one.state_dict()} == {"feature_extraction", "quality"}


def test_a_shared_trunk_of_fixed_size_needs_views_of_one_size():
    with pytest.raises(ValueError, match="views of one size"):
        build_model("UIQA", backbone="timm:efficientvit_m0", view_sizes=SIZES | {"salient": 96}, shared_trunk=True)


@pytest.mark.parametrize("images_per_pass", [32, 2])
def test_features_of_patches_are_averaged(images_per_pass, monkeypatch):
    monkeypatch.setattr(uiqa, "IMAGES_PER_PASS", images_per_pass)
    model = build_model("Patches", backbone="swin_nano", view_sizes={"patches": SIZE}).eval()
    patches = torch.randint(0, 256, (2, 5, 3, SIZE, SIZE), dtype=torch.uint8)
    scores = model(patches)
    singly = torch.stack([model(patches[:, number : number + 1]) for number in range(5)])
    torch.testing.assert_close(scores, singly.mean(dim=0), atol=1e-5, rtol=1e-5)  # the head is linear
    parts = model.contributions(patches=patches)
    torch.testing.assert_close(parts["score"], scores.squeeze(1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts["bias"] + parts["patches"].mean(dim=(1, 2)), parts["score"])


def test_folding_the_opinion_scale_shifts_and_scales_the_score(model):
    views = random_views()
    before, parts = model(**views), model.contributions(**views)
    model.fold_opinion_scale(mos_mean=0.73, mos_sd=0.05)
    torch.testing.assert_close(model(**views), before * 0.05 + 0.73)
    torch.testing.assert_close(model.contributions(**views)["salient"], parts["salient"] * 0.05)


def test_a_photograph_scores_the_same_alone_and_in_a_batch(model):
    views = random_views(5)
    in_batch = model(**views)
    alone = torch.cat([model(**{name: view[i : i + 1] for name, view in views.items()}) for i in range(5)])
    torch.testing.assert_close(alone, in_batch, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["resnet", "uiqa"])
def test_an_unknown_model_is_refused_by_name(name):
    with pytest.raises(ValueError, match=name):
        build_model(name)


@pytest.mark.slow
def test_a_three_branch_swin_can_overfit_eight_photographs():
    torch.manual_seed(1)
    model = build_model("UIQA", backbone="swin_nano", view_sizes=SIZES)
    views, mos = random_views(8), torch.linspace(-1, 1, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(60):
        scores = model(**views).squeeze(1)
        loss = quality_loss(*scores.chunk(2), *mos.chunk(2), lr_weight_L2=1.0, lr_weight_pair=1.0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]


@pytest.mark.slow
@pytest.mark.paper
def test_the_papers_model_takes_a_training_step_at_480_pixels():
    torch.manual_seed(0)
    model = build_model("UIQA").train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, weight_decay=1e-7)
    scores = model(**random_views(2, 480)).squeeze(1)
    loss = quality_loss(*scores.chunk(2), *torch.tensor([0.8, 0.6]).chunk(2), lr_weight_L2=0.1, lr_weight_pair=1.0)[
        "loss"
    ]
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    # Stochastic depth may skip a block for the whole batch, so not every parameter moves; every branch and the head do.
    moved = {name.split(".")[0] for name, parameter in model.named_parameters() if not parameter.equal(before[name])}
    assert moved == {name.split(".")[0] for name in before}


@pytest.mark.slow
@pytest.mark.paper
def test_a_compiled_model_scores_and_trains_as_an_eager_one():
    """Also with a batch of another size, and with training and scoring in turn."""
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build_model("UIQA", backbone="swin_nano", view_sizes=SIZES))
    models[1].compile_trunks()
    assert set(models[0].state_dict()) == set(models[1].state_dict())
    optimizers = [torch.optim.SGD(model.parameters(), lr=1e-2) for model in models]
    for batch in (4, 2, 4):
        views, mos = random_views(batch), torch.linspace(-1, 1, batch)
        for model, optimizer in zip(models, optimizers, strict=True):
            scores = model.train()(**views).squeeze(1)
            loss = quality_loss(*scores.chunk(2), *mos.chunk(2), lr_weight_L2=0.1, lr_weight_pair=1.0)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.inference_mode():
            eager, compiled = (model.eval()(**views) for model in models)
            torch.testing.assert_close(compiled, eager, atol=1e-5, rtol=1e-4)
            contributions = models[1].contributions(**views)["score"]
            torch.testing.assert_close(contributions, compiled.squeeze(1), atol=1e-5, rtol=1e-5)
