"""Window attention: torchvision's results and gradients, without computing on padding."""

import copy

import pytest
import torch
from torchvision.models.swin_transformer import ShiftedWindowAttention

from models.backbones import build_trunk, published_swin
from models.window_attention import WindowAttention, window_plan
from utils.costs.counting import count

CPU = torch.device("cpu")
# Whole windows, padded ones, maps smaller than a window along one axis or both
GRIDS = [(14, 14), (15, 15), (8, 21), (13, 20), (7, 9), (5, 16), (3, 3), (1, 1)]


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Make every parameter large enough to matter; torchvision initialises position biases near zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.0 if parameter.ndim < 2 else 0.3))
    return module


def pair(shift: int) -> tuple[WindowAttention, ShiftedWindowAttention]:
    """Return our attention and torchvision's with the same weights: 8 channels, 2 heads, windows of 7 x 7."""
    theirs = randomised(ShiftedWindowAttention(8, [7, 7], [shift, shift], 2))
    ours = WindowAttention(8, [7, 7], [shift, shift], 2)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def attend(attention: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    return attention(x, *attention.plan_and_bias(*x.shape[1:3]))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_results_and_gradients_are_torchvisions(grid, shift, batch):
    ours, theirs = pair(shift)
    x = torch.randn(batch, *grid, 8, generator=torch.Generator().manual_seed(1))
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    results = [attend(ours, inputs[0]), theirs(inputs[1])]
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    for result in results:
        (result * weight).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=1e-5, rtol=1e-4)
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-4, rtol=1e-4, msg=name)
    with torch.inference_mode():
        torch.testing.assert_close(attend(ours, x), theirs(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_plan_moves_every_token_to_one_window_position_and_back(grid, shift):
    plan = window_plan(*grid, (7, 7), (shift, shift), 2, CPU)
    tokens = grid[0] * grid[1]
    assert torch.equal(plan.partition[plan.partition_inverse], torch.arange(tokens * 3 * 2))
    assert torch.equal(plan.merge_inverse[plan.merge], torch.arange(tokens * 2))
    assert plan.not_padding.sum() == tokens * 2
    assert len(plan.padding) == len(plan.partition) - tokens * 3 * 2
    assert set(plan.padding.tolist()).isdisjoint(plan.partition_inverse.tolist())


@pytest.mark.parametrize("grid", [(14, 14), (15, 15)], ids=str)
def test_no_padding_is_projected(grid):
    ours, _ = pair(3)
    plan, bias = ours.plan_and_bias(*grid)
    gmacs = count(ours, (torch.zeros(1, *grid, 8), plan, bias.detach()), ["torch_counter"])["torch_counter"]
    projections = grid[0] * grid[1] * 8 * (3 * 8 + 8)
    products = 2 * plan.num_windows * 49 * 49 * 8
    assert round(gmacs * 1e9) == projections + products


def test_a_plan_made_while_scoring_works_in_a_backward_pass():
    ours, _ = pair(3)
    window_plan.cache_clear()
    with torch.inference_mode():
        attend(ours, torch.randn(1, 9, 9, 8))
    attend(ours, torch.randn(1, 9, 9, 8)).sum().backward()
    assert ours.qkv.weight.grad is not None


def test_the_bias_cache_is_never_stale():
    """Score, train a step, score again: the same as a fresh model without a cache."""
    trunk = randomised(build_trunk("swin_nano", 64, stochastic_depth=0.0)).eval()
    x = torch.randn(2, 3, 64, 64)
    optimizer = torch.optim.SGD(trunk.parameters(), lr=0.1)

    def check() -> torch.Tensor:
        fresh = build_trunk("swin_nano", 64)
        fresh.load_state_dict(copy.deepcopy(trunk.state_dict()))
        with torch.inference_mode():
            score = trunk(x)
            assert torch.equal(score, fresh.eval()(x))
        return score

    scores = [check()]
    for _ in range(2):  # in evaluation mode throughout, so that only the parameter's version shows the change
        trunk(x).square().mean().backward()
        optimizer.step()
        scores.append(check())
    assert not torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[1], scores[2])


def test_any_change_of_the_parameter_invalidates_the_bias_cache():
    ours, _ = pair(3)
    table = ours.relative_position_bias_table

    @torch.no_grad()
    def bias() -> torch.Tensor:
        return ours.plan_and_bias(9, 9)[1]

    before = bias()
    assert bias() is before
    with torch.no_grad():
        table.add_(1)
    torch.testing.assert_close(bias(), before + 1)
    table.data = table.data + 1
    torch.testing.assert_close(bias(), before + 2)
    ours.load_state_dict(ours.state_dict() | {"relative_position_bias_table": table.detach() + 1})
    torch.testing.assert_close(bias(), before + 3)
    ours.load_state_dict(ours.state_dict() | {"relative_position_bias_table": table.detach() + 1}, assign=True)
    torch.testing.assert_close(bias(), before + 4)
    assert not torch.equal(ours.bfloat16().float().plan_and_bias(9, 9)[1], before + 4)
    assert ours.double().plan_and_bias(9, 9)[1].dtype == torch.float64
    assert bias().dtype == torch.float64


def test_nothing_is_cached_with_gradients_and_training_mode_clears_the_cache():
    ours, _ = pair(3)
    assert ours.plan_and_bias(9, 9)[1].requires_grad
    assert not ours._bias_cache
    with torch.no_grad():
        ours.plan_and_bias(9, 9)
        assert ours._bias_cache
    ours.train()
    assert not ours._bias_cache


def test_a_dataparallel_replica_caches_nothing():
    """Its parameters live for one pass, and those of the next replica may have the same address."""
    ours, _ = pair(3)
    replica = ours._replicate_for_data_parallel()
    replica.relative_position_bias_table = ours.relative_position_bias_table.detach().clone()
    with torch.no_grad():
        replica.plan_and_bias(9, 9)
    assert not ours._bias_cache


def test_bfloat16_autocast_is_near_float32():
    ours, _ = pair(3)
    x = torch.randn(2, 15, 15, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = attend(ours, x)
    with torch.no_grad():
        high = attend(ours, x)
    assert low.dtype == torch.bfloat16
    assert (low - high).abs().mean() < 0.02 * high.abs().mean()


@pytest.mark.parametrize(("backbone", "size"), [("swin_nano", 64), ("swin_nano", 100), ("swin_t", 480)])
def test_a_trunk_gives_torchvisions_features_for_any_batch_size(backbone, size):
    theirs = published_swin(backbone).eval()
    ours = build_trunk(backbone, size).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        features = ours(x)
        torch.testing.assert_close(features, theirs(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.cat([ours(x[:1]), ours(x[1:])]), features, atol=1e-5, rtol=0)


def test_a_trunks_gradients_are_torchvisions():
    theirs = randomised(published_swin("swin_nano", stochastic_depth=0.0))
    ours = build_trunk("swin_nano", 100, stochastic_depth=0.0)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 100, 100)
    for trunk in (ours, theirs):
        trunk(x).square().mean().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (mine.grad - other.grad).norm() <= 1e-5 * other.grad.norm() + 1e-7, name
