"""The entry point for torch.hub.

    model = torch.hub.load("path/to/this/repository", "uiqa", source="local")
    print(model.score("photo.jpg"))

The project's packages are called `data`, `losses`, `models` and `utils`: a process that has already imported other
packages of these names cannot load it.
"""

import os

import utils.checkpoint
import utils.loaded_model

dependencies = ["numpy", "pandas", "PIL", "safetensors", "scipy", "simplejpeg", "timm", "torch", "torchvision", "tqdm"]


def uiqa(
    checkpoint: str | os.PathLike | None = None, calibration: str | os.PathLike | None = None
) -> utils.loaded_model.LoadedModel:
    """Load a model for scoring; on a GPU it scores after `model.model.to("cuda")`.

    Args:
        checkpoint: one of ours, or a released state dict such as UIQA.pth; None for the model of this repository.
        calibration: a released calibration such as UIQA.npy, instead of the checkpoint's own.

    Returns:
        A model whose `score` accepts paths, bytes, PIL images and arrays, and lists of these.

    Raises:
        ValueError: a file cannot be used; `utils.errors.CheckpointError` for the checkpoint.
    """
    return utils.checkpoint.load_model(checkpoint, calibration)
