import numpy as np

from facejax.reporting import maps


def test_pca_finds_the_plane_of_variance():
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros(40)], 1)
    turned = circle @ np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    flat = maps.pca(turned)
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), 1.0, atol=1e-12)
    assert maps.pca(np.ones((3, 1))).shape == (3, 2)


def test_tsne_keeps_groups_together_that_pca_overlays():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 10)
    x = 2 * np.eye(8)[labels] + 0.15 * rng.standard_normal((80, 8))
    y = maps.tsne(x)
    distance = np.linalg.norm(y[:, None] - y[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (labels[distance.argmin(1)] == labels).mean() > 0.95
    np.testing.assert_array_equal(y, maps.tsne(x))


def test_nearest_agree():
    x = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    assert maps.nearest_agree(x, np.array([0, 0, 1, 1])) == 1.0
    assert maps.nearest_agree(x, np.array([0, 1, 0, 1])) == 0.0
