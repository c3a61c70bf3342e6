"""The state between two steps: what is saved is what is resumed, and averages are moving averages."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from data.views import ViewSpec
from models import build_model
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
    checkpoint = Checkpoint({}, state.weights(), ViewSpec(), {"mean": 0.0, "sd": 1.0}, None, None, {})
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
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", lambda model, device_ids: ("DDP", model))
    model = nn.Linear(1, 1)
    options = train_parser().parse_args(["--device=cpu", "--multi_gpu"])
    assert begin(model, torch.device("cpu"), options).network == ("DDP", model)
