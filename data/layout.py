"""The one place that converts between images, channels last, and views, channels first.

Both share their memory: a view keeps the channels-last order in which the decoder left the pixels, because separating
the colours costs as much as cutting the views, and the network's first conversion to floats does it for free.
"""

import numpy as np
import torch


def to_view(image: np.ndarray) -> torch.Tensor:
    """Return an array (..., H, W, 3) as a tensor (..., 3, H, W) on the same memory."""
    return torch.from_numpy(image).movedim(-1, -3)


def to_image(view: torch.Tensor) -> np.ndarray:
    """Return a tensor (..., 3, H, W) on the CPU as an array (..., H, W, 3) on the same memory."""
    return view.movedim(-3, -1).numpy()
