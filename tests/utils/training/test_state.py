"""The state between two steps: what is saved is what is resumed, and averages are moving averages."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from data.views import ViewSpec
from models import UIQA, build_model
from utils.checkpoint import Checkpoint, load_checkpoint
from utils.training import state as state_module
from utils.training.options import train_parser
from utils.training.state import TrainingState, begin


@pytest.fixture
def state() -> TrainingState:
    torch.manual_seed(0)
    model = build_model("SwinT", backbone="timm:test_resnet", view_sizes={"aesthetic": 64})
    options = train_parser().parse_args(["--device=cpu", "--ema=0.75"])
    return begin(model, torch.device("cpu"), options)


def test_averaged_weights_are_the_moving_average_from_the_first_step_on(state):
    name = "quality.0.weight"
    expected = state.model.state_dict()[name].clone()
    for value in (1.0, 5.0, -2.0):
        with torch.no_grad():
            state.model.quality[0].weight.fill_(value)
        state.update(clip_grad=0.0)
        expected = 0.75 * expected + 0.25 * value
    torch.testing.assert_close(state.weights()[name], expected)
    assert (state.to_resume().trained_weights[name] == -2).all()


@pytest.mark.parametrize("decay", [0.9, 0.9999])
def test_the_average_of_a_model_with_itself_is_the_model_bit_for_bit(decay):
    model = build_model("SwinT", backbone="swin_nano", view_sizes={"aesthetic": 64})
    state = begin(model, torch.device("cpu"), train_parser().parse_args(["--device=cpu", f"--ema={decay}"]))
    before = {name: value.clone() for name, value in state.weights().items()}
    for _ in range(60):
        state.averaged.update_parameters(model)
    for name, value in state.weights().items():
        assert torch.equal(value, before[name]), name


def test_buffers_are_averaged_too(state):
    name = next(name for name, _ in state.model.named_buffers() if name.endswith("running_mean"))
    with torch.no_grad():
        state.model.get_buffer(name).fill_(4.0)
    state.update(clip_grad=0.0)
    assert (state.weights()[name] == 1.0).all()


def test_a_state_that_is_resumed_is_the_state_that_was_saved(state, tmp_path):
    with torch.no_grad():
        state.model.quality[0].weight.fill_(2.0)
    state.update(clip_grad=0.0)
    state.epoch, state.step, state.best, state.history = 3, 2, 0.25, [{"epoch": 3, "loss": 0.1}]
    checkpoint = Checkpoint(
        {}, state.weights(), state.model.normalisation, ViewSpec(), {"mean": 0.0, "sd": 1.0}, None, None, {}
    )
    replace(checkpoint, resume=state.to_resume()).save(tmp_path / "last.pth")
    saved = load_checkpoint(tmp_path / "last.pth")
    with torch.no_grad():
        nn.init.zeros_(state.model.quality[0].weight)
        nn.init.zeros_(state.evaluated.quality[0].weight)
    state.epoch, state.step, state.best, state.history = 0, 0, 0.0, []
    state.resume(tmp_path / "last.pth", saved)
    assert (state.epoch, state.step, state.best, state.history) == (3, 2, 0.25, [{"epoch": 3, "loss": 0.1}])
    assert torch.equal(state.evaluated.quality[0].weight, saved.state_dict["quality.0.weight"])
    assert torch.equal(state.model.quality[0].weight, saved.resume.trained_weights["quality.0.weight"])


def test_ranks_wrap_the_model_in_distributed_data_parallel_also_if_multi_gpu_is_set(monkeypatch):
    monkeypatch.setattr(state_module, "world_size", lambda: 2)
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", lambda model, **options: ("DDP", model))
    model = build_model("SwinT", backbone="timm:test_resnet", view_sizes={"aesthetic": 64})
    options = train_parser().parse_args(["--device=cpu", "--multi_gpu"])
    assert begin(model, torch.device("cpu"), options).network == ("DDP", model)


def schedule(*words: str, epochs: int) -> list[float]:
    model = build_model("SwinT", backbone="timm:test_resnet", view_sizes={"aesthetic": 64})
    state = begin(model, torch.device("cpu"), train_parser().parse_args(["--device=cpu", "--lr=1", *words]))
    rates = []
    for _ in range(epochs):
        rates.append(state.lr)
        state.optimizer.step()
        state.scheduler.step()
    return rates


def test_the_learning_rate_decays_in_steps_as_in_the_paper():
    assert schedule(epochs=21) == pytest.approx([1] * 10 + [0.9] * 10 + [0.81])


def test_the_learning_rate_warms_up_before_either_schedule():
    words = ["--warmup_epochs=3", "--decay_interval=2", "--decay_ratio=0.5"]
    assert schedule(*words, epochs=8) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.5, 0.5, 0.25])
    cosine = schedule("--schedule=cosine", "--num_epochs=7", "--warmup_epochs=3", epochs=8)
    assert cosine == pytest.approx([0.25, 0.5, 0.75, 1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0])


def test_trunks_learn_at_their_own_rate_and_frozen_weights_are_not_optimised():
    model = build_model("UIQA", backbone="timm:test_resnet", view_sizes=dict.fromkeys(UIQA.view_names, 64))
    model.freeze(2)
    options = train_parser().parse_args(["--device=cpu", "--lr=0.5", "--trunk_lr_ratio=0.1", "--optimizer=adamw"])
    optimizer = begin(model, torch.device("cpu"), options).optimizer
    assert isinstance(optimizer, torch.optim.AdamW)
    head, trunks = optimizer.param_groups
    assert (head["lr"], trunks["lr"]) == (0.5, 0.05)
    assert set(head["params"]) == set(model.quality.parameters())
    assert {*head["params"], *trunks["params"]} == {p for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("backbone", "unused"),
    [("timm:mobilenetv4_conv_small_050", True), ("timm:test_resnet", False), ("swin_nano", False)],
)
def test_weights_that_never_run_do_not_stop_ddp(backbone, unused, monkeypatch):
    monkeypatch.setattr(state_module, "world_size", lambda: 2)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = build_model("SwinT", backbone=backbone, view_sizes={"aesthetic": 64})
        state = begin(model, torch.device("cpu"), train_parser().parse_args(["--device=cpu"]))
        for _ in range(3):
            state.network(aesthetic=torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).sum().backward()
    finally:
        dist.destroy_process_group()
    assert (
        (model.feature_extraction.net.conv_head.weight.grad is None)
        if unused
        else not state.network.find_unused_parameters
    )
