"""The three-branch quality model and its trunks. Imports no other package of this repository."""

from models.uiqa import UIQA, SwinT, build_model

__all__ = ["UIQA", "SwinT", "build_model"]
