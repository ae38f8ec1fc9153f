import numpy as np
import pytest

from facejax.evaluators._baselines import colour_histograms, pixels


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


def test_histograms_count_levels_of_each_channel():
    images = np.random.default_rng(0).integers(0, 256, (3, 10, 10, 3), dtype=np.uint8)
    got = colour_histograms(images, 4).reshape(3, 3, 4)
    for picture, shares in zip(images, got):
        for channel in range(3):
            counts, _ = np.histogram(picture[..., channel], bins=4, range=(0, 256))
            np.testing.assert_allclose(shares[channel], counts / 100)
