"""Devices and processes."""

import os

import pytest
import torch

from utils.distributed import (
    HostCopy,
    default_workers,
    launched_processes,
    process_group,
    rank,
    select_device,
    unwrap,
    world_size,
)
from utils.errors import RunError


def test_auto_takes_what_is_there():
    assert select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert select_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_without_a_gpu_cuda_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"there is no device {name}"):
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


def test_a_copy_to_the_host_has_the_values_and_no_gradient():
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    copy = HostCopy(3 * weight).read()
    assert copy.tolist() == [3.0, 6.0]
    assert not copy.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_reading_a_copy_waits_for_no_work_that_was_given_later():
    copy = HostCopy(torch.full((4,), 7.0, device="cuda"))
    torch.cuda._sleep(2_000_000_000)  # clock cycles: about a second
    later = torch.cuda.Event()
    later.record()
    assert copy.read().tolist() == [7.0] * 4
    assert not later.query()


@pytest.mark.parametrize("value", ["", "0", "1"])
def test_an_empty_world_size_is_one_process(value, monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, value)
    assert default_workers() >= 1
    with process_group(torch.device("cpu")):
        assert (world_size(), rank()) == (1, 0)


def test_a_world_size_that_a_cluster_left_set_is_named_with_a_remedy(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RunError, match=r"WORLD_SIZE is 4.*torchrun"), process_group(torch.device("cpu")):
        pass
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(RunError, match="WORLD_SIZE"):
        launched_processes()


@pytest.mark.parametrize(("own_rank", "port"), [("x", "29500"), ("5", "29500"), ("2", "29500"), ("0", "abc")])
def test_a_launch_that_cannot_work_is_refused_before_waiting_for_it(monkeypatch, own_rank, port):
    for name, value in {"WORLD_SIZE": "2", "RANK": own_rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=r"RANK .*MASTER_PORT .*torchrun"), process_group(torch.device("cpu")):
        pass
