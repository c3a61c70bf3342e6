"""Branches and stages: they add up, with every counter and every trunk."""

import pytest
import torch
from torch import nn

from models import build_model
from models.backbones import build_trunk, published_swin
from models.stages import trunk_stages
from models.uiqa import QualityModel
from utils.costs.complexity import REST, as_published, complexity, explained_by_biases
from utils.costs.counting import OPERATOR_COUNTERS, count, parameters


class Shared(QualityModel):
    """One trunk that reads two views, one of them with three patches."""

    view_names = ("whole", "patches")

    def __init__(self, trunk: nn.Module):
        super().__init__([trunk, trunk])
        self.trunk = trunk

    def trunks(self) -> dict[str, nn.Module]:
        return {"whole": self.trunk, "patches": self.trunk}

    def forward(self, whole: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        features = [self.trunk(whole), self.trunk(patches.flatten(0, 1)).mean(dim=0, keepdim=True)]
        return self.regress(torch.cat(features, dim=1))


def counted(backbone: str, published: bool = False) -> dict:
    """Return the costs of the one branch of a model on 96 pixels, which no stage of Swin divides into whole windows."""
    model = build_model("SwinT", backbone=backbone, view_sizes={"aesthetic": 96}).eval()
    model = as_published(model, backbone) if published else model
    return complexity(model, {"aesthetic": torch.zeros(1, 3, 96, 96)}, OPERATOR_COUNTERS)["branches"]["aesthetic"]


@pytest.mark.parametrize(
    ("backbone", "published"),
    [
        ("swin_nano", False),
        ("swin_nano", True),
        ("timm:test_resnet", False),
        ("timm:test_convnext", False),
        ("timm:test_efficientnet", False),
    ],
)
def test_stages_add_up_to_the_branch(backbone, published):
    branch = counted(backbone, published)
    stages = branch["stages"].values()
    for counter in OPERATOR_COUNTERS:
        assert sum(row["gmacs"][counter] for row in stages) == pytest.approx(branch["gmacs"][counter], rel=1e-9)
    for figure in ("params_m", "activations_mb", "gmacs_of_biases"):
        assert sum(row[figure] for row in stages) == pytest.approx(branch[figure], rel=1e-9)
    assert len(stages) >= 4
    assert REST not in branch["stages"]


def test_each_stage_of_swin_counts_the_same_alone():
    trunk = published_swin("swin_nano").eval()
    stages = trunk_stages(trunk)
    model = as_published(build_model("SwinT", backbone="swin_nano", view_sizes={"aesthetic": 96}), "swin_nano").eval()
    view = torch.zeros(1, 3, 96, 96)
    counted = complexity(model, {"aesthetic": view}, OPERATOR_COUNTERS)["branches"]["aesthetic"]["stages"]
    x = view
    for name, parts in stages.items():
        alone = nn.Sequential(*parts)
        for counter, gmacs in count(alone, (x,), OPERATOR_COUNTERS).items():
            assert counted[name]["gmacs"][counter] == pytest.approx(gmacs, rel=1e-9)
        assert counted[name]["params_m"] == pytest.approx(parameters(alone))
        x = alone(x)


def test_a_branch_of_the_papers_model_costs_a_third_of_it():
    """69.65 and 69.45 GMACs as published, 62.47 and 62.29 as executed; the head has 295 thousand."""
    model = build_model("SwinT").eval()
    view = {"aesthetic": torch.zeros(1, 3, 480, 480)}
    executed = complexity(model, view, OPERATOR_COUNTERS)["branches"]["aesthetic"]
    published = complexity(as_published(model, "swin_t"), view, OPERATOR_COUNTERS)["branches"]["aesthetic"]
    assert [3 * gmacs for gmacs in executed["gmacs"].values()] == pytest.approx([62.47, 62.29], abs=0.006)
    assert [3 * gmacs for gmacs in published["gmacs"].values()] == pytest.approx([69.65, 69.45], abs=0.006)


def test_a_trunk_without_padded_windows_is_executed_as_published():
    model = build_model("SwinT", backbone="swin_nano").eval()
    view = {"aesthetic": torch.zeros(1, 3, 224, 224)}
    executed = complexity(model, view, OPERATOR_COUNTERS)
    published = complexity(as_published(model, "swin_nano"), view, OPERATOR_COUNTERS)
    assert executed["gmacs"] == pytest.approx(published["gmacs"], rel=1e-3)


def test_a_trunk_of_ours_has_the_stages_of_the_published_one():
    ours, published = counted("swin_nano")["stages"], counted("swin_nano", published=True)["stages"]
    assert {name: row["params_m"] for name, row in ours.items()} == {
        name: row["params_m"] for name, row in published.items()
    }


def test_a_shared_trunk_counts_once_in_parameters_and_for_every_input_in_macs():
    trunk = build_trunk("swin_nano", 64)
    model = Shared(trunk).eval()
    views = {"whole": torch.zeros(1, 3, 64, 64), "patches": torch.zeros(1, 3, 3, 64, 64)}
    report = complexity(model, views, OPERATOR_COUNTERS)
    assert report["params_m"] == pytest.approx(parameters(trunk) + parameters(model.quality))
    whole, patches = report["branches"]["whole"], report["branches"]["patches"]
    for row, other in ((whole, patches), (whole["stages"]["stage_3"], patches["stages"]["stage_3"])):
        assert other["gmacs"] == pytest.approx({name: 3 * gmacs for name, gmacs in row["gmacs"].items()})
        assert other["params_m"] == row["params_m"]


def test_what_belongs_to_no_stage_is_the_rest():
    class Trunk(nn.Module):
        num_features = 8

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 1)
            self.weight = nn.Parameter(torch.ones(8, 8))

        def forward(self, x):
            return self.second(self.first(x)).mean(dim=(2, 3)) @ self.weight

    model = build_model("SwinT", backbone="swin_nano")
    model.feature_extraction = Trunk()
    model.quality[0] = nn.Linear(8, 128)
    report = complexity(model.eval(), {"aesthetic": torch.zeros(1, 3, 32, 32)}, OPERATOR_COUNTERS)
    rest = report["branches"]["aesthetic"]["stages"][REST]
    assert rest["params_m"] == pytest.approx(64e-6)
    assert rest["gmacs"] == pytest.approx(dict.fromkeys(OPERATOR_COUNTERS, 64e-9))
    assert rest["activations_mb"] == pytest.approx(8 * 4 / 1e6)


def test_only_rows_where_the_counters_differ_name_the_operators():
    embedding = counted("swin_nano")["stages"]["patch_embedding"]  # 48 products and one bias an output
    assert embedding["difference_by_operator"] == pytest.approx({"aten.convolution": embedding["gmacs_of_biases"]})
    assert explained_by_biases(embedding)
    without = {
        "gmacs": {"ptflops_aten": 1.0, "torch_counter": 1.5},
        "gmacs_of_biases": 0.0,
    }
    assert not explained_by_biases(without)
    assert "difference_by_operator" not in counted("timm:test_resnet")
