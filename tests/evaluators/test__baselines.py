import numpy as np
import pytest

from facejax.evaluators._baselines import pixels


@pytest.mark.parametrize("size", [32, 64, 100, 20])
def test_is_the_area_mean_of_the_grey_picture(size):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    grey = images.astype(np.float64) @ [0.299, 0.587, 0.114]
    fine = np.repeat(np.repeat(grey, 32, axis=1), 32, axis=2)  # every edge falls between pixels
    small = fine.reshape(2, 32, size, 32, size).mean(axis=(2, 4)).reshape(2, -1)
    got = pixels(images)
    assert got.shape == (2, 1024)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, small - small.mean(axis=1, keepdims=True), atol=1e-3)


def test_brightness_does_not_matter():
    dark = np.random.default_rng(0).integers(0, 200, (1, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_allclose(pixels(dark), pixels(dark + 40), atol=1e-4)
