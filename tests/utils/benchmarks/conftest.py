"""What the tests of the suites share: a photograph and settings for one quick round."""

import numpy as np
import pytest
import torch

from utils.benchmarks.timing import Settings
from utils.benchmarks.views import encode


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    return encode(np.random.default_rng(0).integers(0, 256, (500, 700, 3), np.uint8))


@pytest.fixture
def settings() -> Settings:
    return Settings(rounds=1, device=torch.device("cpu"), backbone="swin_nano")
