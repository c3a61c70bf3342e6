"""Cut a photograph into the network's views; nothing else in the project does."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace

import numpy as np
import torch

from data.decode import DEFAULT_MAX_PIXELS
from data.fragments import FRACTION_UNIT, Offsets, enlarge_to_fit, sample_fragments
from data.layout import to_image, to_view
from data.patches import POLICIES, count_patches, cut_patches
from data.resize import resize_bilinear
from data.saliency import METHODS, salient_corner
from data.seeding import Purpose, derive_generator

MAX_SIDE = 4096  # of a view, pixels: more than any network reads, and a bound on what a checkpoint can ask for
VIEW_NAMES = ("aesthetic", "distortion", "salient")  # those of UIQA
ALL_VIEW_NAMES = (*VIEW_NAMES, "patches")


@dataclass(frozen=True)
class ViewSpec:
    """How views are cut. Checkpoints carry it, so that scoring uses the preprocessing of training.

    Attributes:
        resize: short side of the aesthetic view before its crop, pixels.
        crop_size: side of the aesthetic view, pixels; at most `resize`.
        n_fragment: mini-patches along each side of the distortion view.
        patch_size: side of a mini-patch, pixels.
        salient_patch_dimension: side of the salient view, pixels.
        saliency: "center" or "spectral".
        max_pixels: limit for decoding an image, and for enlarging a small one.
        seed: of the fragments in evaluation; fixed, so that every user gets the same score for the same file.
        views: the views to cut; a single-trunk model reads only one.
        patch_policy: which full-resolution patches make up the view "patches": "all" or "texture".
        patch_dimension: side of such a patch, pixels.
        patches: number of patches in evaluation with the policy "all"; 0 for the whole grid.
        fractions: where evaluation cuts the fragments, n_fragment * n_fragment * 2 fractions in grid order as for
            `data.fragments.place_patches`, if they are not those that `seed` draws.

    Raises:
        ValueError: a value is out of range.
    """

    resize: int = 512
    crop_size: int = 480
    n_fragment: int = 15
    patch_size: int = 32
    salient_patch_dimension: int = 480
    saliency: str = "center"
    max_pixels: int = DEFAULT_MAX_PIXELS
    seed: int = 0
    views: tuple[str, ...] = VIEW_NAMES
    patch_policy: str = "all"
    patch_dimension: int = 480
    patches: int = 0
    fractions: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        sides = ("resize", "crop_size", "n_fragment", "patch_size", "salient_patch_dimension", "patch_dimension")
        for name in (*sides, "max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 <= self.patches * self.patch_dimension**2 <= self.max_pixels:
            raise ValueError(
                f"patches must be at least 0, and their pixels at most max_pixels {self.max_pixels} in total; got "
                f"{self.patches} of {self.patch_dimension} x {self.patch_dimension}"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be at least 0 and below 2**32; got {self.seed}")
        if self.crop_size > self.resize:
            raise ValueError(f"crop_size {self.crop_size} is larger than resize {self.resize}")
        for name, choices in (("saliency", METHODS), ("patch_policy", POLICIES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: choose from {', '.join(choices)}")
        unknown = set(self.views) - set(ALL_VIEW_NAMES)
        if unknown or not self.views:
            raise ValueError(f"views must be some of {', '.join(ALL_VIEW_NAMES)}; got {self.views!r}")
        largest = max(self.resize, *self.view_sizes.values())
        if largest > MAX_SIDE:
            raise ValueError(f"a view's side, and resize, must be at most {MAX_SIDE} pixels; got {largest}")
        count, ends = 2 * self.n_fragment**2, (min(self.fractions, default=0), max(self.fractions, default=0))
        if len(self.fractions) not in (0, count) or ends[0] < 0 or ends[1] >= FRACTION_UNIT:
            raise ValueError(
                f"fractions must be {count} integers from 0 to {FRACTION_UNIT - 1} for n_fragment {self.n_fragment}; "
                f"got {len(self.fractions)} from {ends[0]} to {ends[1]}"
            )

    @property
    def view_sizes(self) -> dict[str, int]:
        """The side of each view in `views`, pixels."""
        sizes = {
            "aesthetic": self.crop_size,
            "distortion": self.n_fragment * self.patch_size,
            "salient": self.salient_patch_dimension,
            "patches": self.patch_dimension,
        }
        return {name: sizes[name] for name in self.views}

    def view_shapes(self, height: int = 2160, width: int = 3840) -> dict[str, tuple[int, ...]]:
        """Return each view's shape in evaluation; only that of "patches" depends on the photograph's size, pixels."""
        shapes = {name: (3, size, size) for name, size in self.view_sizes.items()}
        if "patches" in shapes:
            count = count_patches(height, width, self.patch_dimension, self.patch_policy, self.patches)
            shapes["patches"] = (count, *shapes["patches"])
        return shapes

    @property
    def is_ragged(self) -> bool:
        """Whether the number of patches depends on the photograph's size, so that photographs cannot be stacked."""
        return "patches" in self.views and self.patch_policy == "all" and not self.patches

    def evaluation_fractions(self, draw: int = 0) -> np.ndarray:
        """Return where a draw of evaluation cuts the fragments of every photograph, (n, n, 2) int64, as `fractions`."""
        shape = (self.n_fragment, self.n_fragment, 2)
        if self.fractions and draw == 0:
            return np.reshape(self.fractions, shape)
        return derive_generator(Purpose.EVALUATION, self.seed, draw).integers(0, FRACTION_UNIT, shape)

    def to_dict(self) -> dict:
        """Return the fields as plain values, for a checkpoint.

        They include the fractions of draw 0, so that no other program, and no later version of numpy, has to draw them.
        """
        fractions = self.evaluation_fractions().ravel().tolist()
        return asdict(self) | {"views": list(self.views), "fractions": fractions}

    @classmethod
    def from_dict(cls, values: dict) -> "ViewSpec":
        """Restore a specification from `to_dict`'s output.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, unknown, of the wrong type or out of range.
        """
        views, fractions = tuple(values["views"]), tuple(values.get("fractions", ()))  # not kept by earlier versions
        if not all(isinstance(view, str) for view in views):
            raise TypeError("views must be names")
        if not all(type(fraction) is int for fraction in fractions):
            raise TypeError("fractions must be integers")
        values = {**values, "views": views, "fractions": ()}
        for attribute in fields(cls):
            name = attribute.name
            if name in values and type(values[name]) is not type(attribute.default):
                expected, given = type(attribute.default).__name__, type(values[name]).__name__
                raise TypeError(f"{name} must be of type {expected}; got {given}")
        spec = cls(**values)
        # Drawn fractions are left out, so that specifications of the same views are equal and can be changed
        if fractions and fractions != tuple(spec.evaluation_fractions().ravel().tolist()):
            spec = replace(spec, fractions=fractions)
        return spec


def make_views(
    image: np.ndarray,
    spec: ViewSpec,
    generator: Offsets | None = None,
    crop_generator: np.random.Generator | None = None,
) -> dict[str, torch.Tensor]:
    """Cut the views of a photograph (arXiv 2409.00749, Sec. 3.1).

    Args:
        image: (H, W, 3) uint8, any size.
        spec: which views to cut, and how.
        generator: places the distortion view's fragments, as for `data.fragments.sample_fragments`; without it they
            are those of evaluation.
        crop_generator: for training: draws the position of the aesthetic crop, or the patches; without it the crop is
            central and the patches are those of evaluation.

    Returns:
        A (3, S, S) uint8 tensor for each of `spec.views`, (P, 3, S, S) for "patches", channels last in memory. Views do
        not share the image's memory.

    Raises:
        ImageError: the image is so long and thin that it would exceed `spec.max_pixels` when enlarged.
    """
    views = {}
    if "aesthetic" in spec.views:
        resized = resize_short_side(image, spec.resize, spec.max_pixels)
        views["aesthetic"] = copy_view(crop_aesthetic(resized, spec.crop_size, crop_generator))
    if "distortion" in spec.views:
        offsets = spec.evaluation_fractions() if generator is None else generator
        views["distortion"] = sample_fragments(image, spec.n_fragment, spec.patch_size, offsets, spec.max_pixels)
    if "salient" in spec.views:
        views["salient"] = copy_view(crop_salient(image, spec))
    if "patches" in spec.views:
        views["patches"] = crop_patches(image, spec, crop_generator)
    return views


def sample_draws(image: np.ndarray, spec: ViewSpec, draws: int) -> torch.Tensor:
    """Cut the distortion view once for each draw of evaluation.

    Args:
        image: (H, W, 3) uint8, any size.
        spec: how the view is cut.
        draws: number of draws; draw 0 is the one that `make_views` cuts in evaluation.

    Returns:
        (draws, 3, S, S) uint8, channels last in memory.

    Raises:
        ImageError: as `make_views`.
    """
    image = enlarge_to_fit(image, spec.n_fragment * spec.patch_size, spec.max_pixels)
    tables = map(spec.evaluation_fractions, range(draws))
    mosaics = [sample_fragments(image, spec.n_fragment, spec.patch_size, fractions) for fractions in tables]
    return to_view(np.stack([to_image(mosaic) for mosaic in mosaics]))


def short_side_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Return the shape with a short side of `size`; the long side is truncated, as torchvision's Resize does."""
    return (size, int(size * width / height)) if height <= width else (int(size * height / width), size)


def resize_short_side(image: np.ndarray, size: int, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Resize (H, W, 3) uint8 to a short side of `size`."""
    return resize_bilinear(image, *short_side_shape(*image.shape[:2], size), max_pixels)


def crop_aesthetic(resized: np.ndarray, size: int, crop_generator: np.random.Generator | None) -> np.ndarray:
    """Cut the aesthetic view, (size, size, 3), out of the resized image: at random, or the centre without generator."""
    if crop_generator is None:
        top, left = salient_corner(resized, size, "center")
    else:
        top, left = (crop_generator.integers(0, side - size + 1) for side in resized.shape[:2])
    return crop(resized, top, left, size)


def crop_salient(image: np.ndarray, spec: ViewSpec) -> np.ndarray:
    """Cut the salient view, (S, S, 3), out of the photograph."""
    top, left = salient_corner(image, spec.salient_patch_dimension, spec.saliency)
    return crop(image, top, left, spec.salient_patch_dimension)


def crop_patches(image: np.ndarray, spec: ViewSpec, generator: np.random.Generator | None = None) -> torch.Tensor:
    """Cut the patches, (P, 3, S, S), out of the photograph: with a generator those of training, else of evaluation."""
    return cut_patches(image, spec.patch_dimension, spec.patch_policy, spec.patches, generator, spec.max_pixels)


def crop(image: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    """Cut a square of `size` pixels out of (H, W, 3) uint8, padded with black outside the image."""
    height, width = image.shape[:2]
    if top >= 0 and left >= 0 and top + size <= height and left + size <= width:
        return image[top : top + size, left : left + size]
    padded = np.zeros((size, size, 3), np.uint8)
    inside = image[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)]
    y, x = max(-top, 0), max(-left, 0)
    padded[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return padded


def copy_view(image: np.ndarray) -> torch.Tensor:
    """Copy a crop (..., S, S, 3) to a view (..., 3, S, S), so that the image's memory can be freed."""
    return to_view(np.array(image, order="C"))


def random_views(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Return uint8 noise in the given shapes, the same on every call, for benchmarks and tests."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for name, shape in shapes.items()
    }
