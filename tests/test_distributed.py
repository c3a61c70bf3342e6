"""Devices and processes."""

import os

import pytest
import torch

from utils.distributed import default_workers, select_device, unwrap


def test_auto_takes_what_is_there():
    assert select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert select_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_without_a_gpu_cuda_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"{name} is not there"):
        select_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "tpu:0", "cuda:x", "", "meta"])
def test_a_device_that_is_not_there_is_refused_by_name(name):
    with pytest.raises(ValueError, match=name or "device"):
        select_device(name)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores at hand are not told on this system")
def test_there_is_a_worker_for_every_core_at_hand_up_to_sixteen():
    cores = os.sched_getaffinity(0)
    assert default_workers() == min(len(cores), 16)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert default_workers() == 1
    finally:
        os.sched_setaffinity(0, cores)


def test_many_cores_make_no_more_than_sixteen_workers(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(96)), raising=False)
    assert default_workers() == 16


def test_unwrapping_gives_the_model_itself():
    model = torch.nn.Linear(1, 1)
    assert unwrap(torch.nn.DataParallel(model)) is model
    assert unwrap(model) is model
