"""Warps against scipy's interpolation, local correlation window by window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from facejax.ops import warping

warp = jax.jit(warping.warp, static_argnames="reach")
correlation = jax.jit(warping.local_correlation, static_argnames="window")


def maps(seed=0, shape=(2, 7, 9, 3)):
    return np.random.default_rng(seed).normal(size=shape)


def smooth_flow(seed=0, shape=(2, 7, 9), reach=2.0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-reach, reach, (*shape, 2))


def test_warp_is_bilinear_interpolation():
    x, flow = maps(), smooth_flow()
    rows, columns = np.mgrid[:7, :9]
    # A border of zeros, so that scipy too reads the way to them bilinearly.
    framed = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    want = np.zeros_like(x)
    for b in range(2):
        places = rows + flow[b, ..., 0] + 3, columns + flow[b, ..., 1] + 3
        for c in range(3):
            want[b, ..., c] = map_coordinates(framed[b, ..., c], places, order=1)
    with jax.enable_x64(True):
        np.testing.assert_allclose(warp(x, flow, reach=2), want, atol=1e-12)
    np.testing.assert_allclose(warp(np.float32(x), np.float32(flow), reach=2), want, atol=1e-5)


@pytest.mark.parametrize("shift", [(0, 0), (2, -1), (-2, 2), (1, 0)])
def test_whole_pixels_are_an_exact_shift(shift):
    x = np.float32(maps())
    flow = np.broadcast_to(np.float32(shift), (2, 7, 9, 2))
    want = np.zeros_like(x)
    for i in range(7):
        for j in range(9):
            source = i + shift[0], j + shift[1]
            if 0 <= source[0] < 7 and 0 <= source[1] < 9:
                want[:, i, j] = x[:, source[0], source[1]]
    np.testing.assert_array_equal(warp(x, flow, reach=2), want)


def test_gradients_of_a_warp_are_its_slopes():
    x, flow = maps(shape=(1, 4, 4, 2)), smooth_flow(shape=(1, 4, 4))
    way = maps(1, (1, 4, 4, 2)), maps(2, (1, 4, 4, 2))
    weight = maps(3, (1, 4, 4, 2))
    with jax.enable_x64(True):
        value = jax.jit(lambda x, flow: jnp.sum(weight * warping.warp(x, flow, 2)))
        grads = jax.jit(jax.grad(value, argnums=(0, 1)))(x, flow)
        slope = sum(np.vdot(g, w) for g, w in zip(grads, way))
        ahead, behind = (value(x + h * way[0], flow + h * way[1]) for h in (1e-6, -1e-6))
        found = float(ahead - behind) / 2e-6
    np.testing.assert_allclose(found, slope, rtol=1e-6)


def test_a_flow_without_changes_is_smooth_and_steps_are_counted():
    constant = np.broadcast_to(np.float32([1.5, -2.0]), (1, 5, 5, 2))
    np.testing.assert_array_equal(warping.roughness(constant), 0)
    ramp = np.zeros((1, 5, 5, 2), np.float32)
    ramp[..., 1] = 0.5 * np.arange(5)[None, None]
    # Steps of .5 along one axis, in one of two components: (0 + .25 / 2) / 2.
    np.testing.assert_allclose(warping.roughness(ramp), 0.0625)


def test_folds_are_where_neighbours_change_places():
    flow = np.zeros((1, 4, 6, 2), np.float32)
    assert not warping.folded(flow).any()
    flow[..., 1] = -0.4 * np.arange(6)  # squeezed, in order
    assert not warping.folded(flow).any()
    flow[0, 1, 3, 1] += 2.0  # now read to the right of its right neighbour
    found = np.asarray(warping.folded(flow))[0]
    assert found[1, 3]
    assert found.sum() == 1
    turned = -2.0 * np.stack(np.mgrid[:4, :6], -1)[None].astype(np.float32)
    assert not warping.folded(turned).any()  # turned by half a circle is no fold
    turned[..., 0] = 0
    assert warping.folded(turned).all()


def test_local_correlation_is_that_of_every_window():
    a, b = maps(0, (2, 8, 6)), maps(1, (2, 8, 6))
    b = 0.5 * b + a
    want = np.zeros_like(a)
    for i in range(8):
        for j in range(6):
            part = np.s_[:, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
            x, y = (v[part].reshape(2, -1) for v in (a, b))
            x, y = (v - v.mean(1, keepdims=True) for v in (x, y))
            want[:, i, j] = (x * y).sum(1) ** 2 / ((x**2).sum(1) * (y**2).sum(1) + 1e-5)
    with jax.enable_x64(True):
        np.testing.assert_allclose(correlation(a, b, window=5), want, rtol=1e-9)
    np.testing.assert_allclose(
        correlation(np.float32(a), np.float32(b), window=5), want, rtol=1e-4, atol=1e-5
    )


def test_local_correlation_knows_neither_brightness_nor_contrast():
    a = np.float32(maps(0, (1, 12, 12)))
    np.testing.assert_allclose(correlation(a, 3 - 2 * a, window=9), 1, atol=1e-5)
    np.testing.assert_allclose(correlation(a, np.ones_like(a), window=9), 0, atol=1e-6)
