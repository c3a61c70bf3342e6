"""Timing in turn, and memory of one call alone."""

import sys
import time

import numpy as np
import pytest
import torch

from utils.benchmarks.timing import matrix_product, peak_memories, peak_memory, time_in_turn


def test_functions_take_turns_and_the_second_of_two_calls_is_timed():
    calls = []
    times = time_in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert "".join(calls) == "aabb" * 3
    assert {name: len(times_ms) for name, times_ms in times.items()} == {"a": 3, "b": 3}


def test_times_are_milliseconds():
    times = time_in_turn({"sleep": lambda: time.sleep(0.02)}, rounds=2)
    assert (times["sleep"] >= 20).all()


def test_a_slow_first_call_does_not_count():
    waits = iter([0.2, 0.0])
    assert time_in_turn({"warm": lambda: time.sleep(next(waits))}, rounds=1)["warm"][0] < 100


def test_the_matrix_product_has_the_macs_it_claims():
    product, macs = matrix_product(torch.device("cpu"))
    assert product().shape[0] ** 3 == macs


def hold(megabytes: int) -> None:
    np.ones(megabytes * 1_000_000, np.uint8)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the peak of a process")
def test_the_peak_of_each_call_is_its_own():
    assert peak_memories(hold, [(200,), (50,), (100,)]) == pytest.approx([200e6, 50e6, 100e6], rel=0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the peak of a process")
@pytest.mark.slow
def test_one_call_is_measured_in_its_own_process():
    assert peak_memory(hold, 200) == pytest.approx(200e6, rel=0.05)
