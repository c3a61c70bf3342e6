"""Choose the salient crop: the centre, or the crop with the most spectral-residual saliency."""

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter

from data.resize import resize_bilinear

METHODS = ("center", "spectral")

THUMBNAIL = 64  # longer side of the image whose spectrum is taken, pixels (Hou & Zhang, Sec. 3.1)


def salient_corner(image: np.ndarray, size: int, method: str = "center") -> tuple[int, int]:
    """Return (top, left) of the square salient crop.

    Args:
        image: (H, W, 3) uint8.
        size: side of the crop, pixels.
        method: "center" for the middle of the image, as in the released model; negative where the image is smaller than
            the crop. "spectral" for the crop inside the image with the most saliency: the one nearest the centre if
            several tie, and the centre along a side that is shorter than the crop.

    Raises:
        ValueError: unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown saliency method {method!r}: choose from {', '.join(METHODS)}")
    height, width = image.shape[:2]
    # As torchvision's CenterCrop: halves round to even, and an odd pixel of padding goes to the end.
    top, left = (round((n - size) / 2) if n >= size else -((size - n) // 2) for n in (height, width))
    if method == "center" or max(height, width) <= size:
        return top, left

    saliency = spectral_residual(image)
    tops, column_sums = _window_sums(saliency, height, size, top)  # (n_tops, w)
    lefts, sums = _window_sums(column_sums.T, width, size, left)  # (n_lefts, n_tops)
    sums = sums.T
    best = sums >= sums.max() * (1 - 1e-9)
    distance = np.hypot(*np.meshgrid(tops - top, lefts - left, indexing="ij"))
    row, column = np.unravel_index(np.where(best, distance, np.inf).argmin(), best.shape)
    return int(tops[row]), int(lefts[column])


def spectral_residual(image: np.ndarray) -> np.ndarray:
    """Return the saliency map of a thumbnail of the image.

    All images have similar log amplitude spectra. Subtracting the local average leaves what is unusual in this one,
    and the inverse transform shows where it is (Hou & Zhang, "Saliency Detection: A Spectral Residual Approach", CVPR
    2007).

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (h, w) float64, non-negative, longer side THUMBNAIL pixels; constant for an image of one colour.
    """
    height, width = image.shape[:2]
    scale = THUMBNAIL / max(height, width)
    thumbnail = resize_bilinear(image, max(1, round(height * scale)), max(1, round(width * scale)))
    grey = thumbnail @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601 luma
    if np.ptp(grey) < 1:
        return np.ones_like(grey)
    spectrum = np.fft.fft2(grey)
    log_amplitude = np.log(np.abs(spectrum) + 1e-9)
    residual = log_amplitude - uniform_filter(log_amplitude, 3, mode="wrap")
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    return gaussian_filter(saliency, 2.5)


def _window_sums(saliency: np.ndarray, length: int, size: int, centre: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum the map over every window of `size` pixels along its first axis.

    Args:
        saliency: (h, w), the map of an image that is `length` pixels long along this axis.
        length, size: length of the image and of the window, pixels.
        centre: start of the central window; the only one tried if the image is no longer than the window.

    Returns:
        The windows' starts, (n,) int64 pixels, and the sums, (n, w).
    """
    if length <= size:
        return np.array([centre]), saliency.sum(0, keepdims=True)
    starts = np.unique(np.append(np.arange(0, length - size + 1, 8), [centre, length - size]))
    edges = np.arange(len(saliency) + 1) * (length / len(saliency))  # pixels
    cumulative = np.concatenate([np.zeros((1, saliency.shape[1])), saliency.cumsum(0)])
    # Interpolating the cumulative sum linearly counts a cell at the window's edge in proportion to its covered part.
    sums = [np.interp(starts + size, edges, column) - np.interp(starts, edges, column) for column in cumulative.T]
    return starts, np.stack(sums, axis=1)
