"""The pictures of a folder's page: made where a photograph is decoded, kept in memory or in files beside the page."""

import base64
import re
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image

from data.fragments import covered_size
from data.layout import to_image
from data.resize import resize_bilinear
from data.views import ViewSpec
from utils.command_line import make_folder

THUMBNAIL_SIDE, PHOTOGRAPH_SIDE, VIEW_SIDE = 256, 960, 320  # longer side, pixels
JPEG_QUALITY = 75
RUN_FOLDER = re.compile(r"uiqa_report_[0-9a-f]{8}")  # `utils.bulk.images` takes no such folder for photographs


@dataclass(frozen=True)
class ReducedPhotograph:
    """What a page keeps of a photograph.

    Attributes:
        size: width and height, pixels.
        covered: width and height that the fragment grid covers, as fractions of the photograph's.
        pictures: JPEGs: `thumbnail`, `photograph`, and each view by name.
    """

    size: tuple[int, int]
    covered: tuple[float, float]
    pictures: dict[str, bytes]


@dataclass(frozen=True)
class PhotographReducer:
    """Reduces a photograph and its views to small JPEGs; for `data.datasets.PhotographDataset`.

    Attributes:
        spec: how the views are cut; a model that reads patches has too many of them to show.
    """

    spec: ViewSpec

    def __call__(self, image: np.ndarray, views: dict[str, torch.Tensor]) -> ReducedPhotograph:
        height, width = image.shape[:2]
        photograph = _reduce(image, PHOTOGRAPH_SIDE)
        pictures = {"thumbnail": _reduce(photograph, THUMBNAIL_SIDE), "photograph": photograph}
        for name in self.spec.views:
            if name != "patches":
                view = views[name] if views[name].ndim == 3 else views[name][0]  # the first draw of the fragments
                pictures[name] = _reduce(to_image(view), VIEW_SIDE)
        covered = covered_size(height, width, self.spec.n_fragment, self.spec.patch_size)
        return ReducedPhotograph(
            size=(width, height),
            covered=(covered[1] / width, covered[0] / height),
            pictures={name: _jpeg(picture) for name, picture in pictures.items()},
        )


class PictureStore:
    """The pictures of a page by number and kind: in memory, or in a folder beside the page.

    Every run has a folder of its own below <page>_files, so that an earlier page keeps its pictures until the new one
    is complete.

    Args:
        page: path of the page.
        is_beside: write the pictures beside the page.
    """

    def __init__(self, page: Path, is_beside: bool):
        self.parent = page.with_name(f"{page.stem}_files")
        self.folder = self.parent / f"uiqa_report_{secrets.token_hex(4)}" if is_beside else None
        self._pictures: dict[int, dict[str, bytes]] = {}

    @property
    def url(self) -> str | None:
        """The folder relative to the page; None if the pictures are in memory."""
        return self.folder and f"{quote(self.parent.name, errors='surrogateescape')}/{self.folder.name}"

    def add(self, number: int, pictures: dict[str, bytes]) -> None:
        """Keep the pictures of a photograph.

        Raises:
            OSError: a file cannot be written.
        """
        if self.folder is None:
            self._pictures[number] = pictures
            return
        for kind, content in pictures.items():
            file = self.folder / kind / f"{number}.jpg"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)

    def encoded(self, number: int, kind: str) -> str | None:
        """Return a picture in memory as base64; None if it is not there."""
        content = self._pictures.get(number, {}).get(kind)
        return content and base64.b64encode(content).decode("ascii")

    def open(self) -> None:
        """Make the folder.

        Raises:
            RunError: it cannot be made.
        """
        if self.folder is not None:
            make_folder(self.parent)
            make_folder(self.folder)

    def discard(self) -> None:
        """Delete the pictures of this run."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._remove_parent()

    def discard_earlier(self) -> None:
        """Delete the pictures of earlier runs, which no page shows any more."""
        if not self.parent.is_dir():
            return
        for folder in self.parent.iterdir():
            if RUN_FOLDER.fullmatch(folder.name) and folder != self.folder and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)
        self._remove_parent()

    def _remove_parent(self) -> None:
        with suppress(OSError):  # it is missing, or holds something else
            self.parent.rmdir()


def _reduce(image: np.ndarray, side: int) -> np.ndarray:
    """Return an (H, W, 3) uint8 image shrunk to fit a square of `side` pixels, a fifth of Pillow's time."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    return resize_bilinear(image, max(1, round(height * scale)), max(1, round(width * scale)))


def _jpeg(image: np.ndarray) -> bytes:
    content = BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(content, "jpeg", quality=JPEG_QUALITY)
    return content.getvalue()
