"""Convert between images (channels last) and views (channels first); nothing else in the project does.

No pixel is moved: a view keeps the decoder's channels-last memory order. Reordering would cost as much as cutting the
views, and the network does it for free when it first converts them to floats.
"""

import numpy as np
import torch


def to_view(image: np.ndarray) -> torch.Tensor:
    """Return a (..., H, W, 3) array as a (..., 3, H, W) tensor that shares its memory."""
    return torch.from_numpy(image).movedim(-1, -3)


def to_image(view: torch.Tensor) -> np.ndarray:
    """Return a (..., 3, H, W) CPU tensor as a (..., H, W, 3) array that shares its memory."""
    return view.movedim(-3, -1).numpy()
