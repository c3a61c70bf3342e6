"""Devices and processes."""

import pytest
import torch

from utils.distributed import default_workers, select_device, unwrap


def test_auto_takes_what_is_there():
    assert select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert select_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "tpu:0", "cuda:x", "", "meta"])
def test_a_device_that_is_not_there_is_refused_by_name(name):
    with pytest.raises(ValueError, match=name or "device"):
        select_device(name)


def test_there_is_at_least_one_worker():
    assert 1 <= default_workers() <= 16


def test_unwrapping_gives_the_model_itself():
    model = torch.nn.Linear(1, 1)
    assert unwrap(torch.nn.DataParallel(model)) is model
    assert unwrap(model) is model
