"""What an encoder has to beat: the picture itself."""

import numpy as np

SIDE = 32
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def pixels(images: np.ndarray) -> np.ndarray:
    """Grey 32x32 thumbnails with each one's mean removed: the raw-pixel baseline, an `Embed`.

    Args:
        images: u8[n, size, size, 3] RGB.

    Returns:
        f32[n, 1024].
    """
    shrink = _box_filter(images.shape[1])
    grey = images.astype(np.float32) @ _LUMA
    small = (shrink @ grey @ shrink.T).reshape(len(images), SIDE * SIDE)
    return small - small.mean(axis=1, keepdims=True)


def colour_histograms(images: np.ndarray, levels: int = 16) -> np.ndarray:
    """How often each level of each channel occurs: what a picture's colours tell by themselves.

    Args:
        images: u8[n, size, size, 3] RGB.
        levels: of a channel, a divisor of 256.

    Returns:
        f64[n, 3 * levels], shares of the pixels.
    """
    n, size = images.shape[:2]
    cell = images.reshape(n, -1, 3) // (256 // levels) + np.arange(3) * levels
    cell = cell + np.arange(n)[:, None, None] * 3 * levels
    counts = np.bincount(cell.ravel(), minlength=n * 3 * levels)
    return counts.reshape(n, 3 * levels) / size**2


def _box_filter(size: int) -> np.ndarray:
    """f32[SIDE, size]: each row averages the part of a line that one output pixel covers."""
    edges = np.linspace(0, size, SIDE + 1)
    pixel = np.arange(size)
    right = np.minimum(edges[1:, None], pixel + 1)
    left = np.maximum(edges[:-1, None], pixel)
    return (np.maximum(right - left, 0) * SIDE / size).astype(np.float32)
