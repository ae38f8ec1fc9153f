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


def _box_filter(size: int) -> np.ndarray:
    """f32[SIDE, size]: each row averages the part of a line that one output pixel covers."""
    edges = np.linspace(0, size, SIDE + 1)
    pixel = np.arange(size)
    right = np.minimum(edges[1:, None], pixel + 1)
    left = np.maximum(edges[:-1, None], pixel)
    return (np.maximum(right - left, 0) * SIDE / size).astype(np.float32)
