"""The measured ceiling: that of several devices, in one product or several, and how often."""

import time

import jax
import pytest

from facejax import ceiling


def test_a_product_is_timed_and_the_side_doubles_until_it_takes_long_enough(monkeypatch):
    took = {512: 6e-5, 1024: 1e-3, 2048: 5e-3}
    asked = []
    monkeypatch.setattr(ceiling, "_seconds", lambda side, dtype: asked.append(dtype) or took[side])
    ceiling.measured_ceiling.cache_clear()
    assert ceiling.measured_ceiling("float32") == 2 * 512**3 / 6e-5  # the best, not the last
    assert ceiling.measured_ceiling("float32") == 2 * 512**3 / 6e-5
    assert asked == ["float32"] * 3
    ceiling.measured_ceiling.cache_clear()


def test_the_side_has_an_end(monkeypatch):
    monkeypatch.setattr(ceiling, "_seconds", lambda side, dtype: 1e-9 * side)
    ceiling.measured_ceiling.cache_clear()
    assert ceiling.measured_ceiling("float32") == pytest.approx(2 * 8192**2 / 1e-9)
    ceiling.measured_ceiling.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_cannot_pass_the_ceiling(dtype):
    """A layer far smaller than the ceiling's matrices, timed as it is."""
    found = ceiling.measured_ceiling(dtype)
    x = jax.numpy.ones((64, 64), dtype)
    product = jax.jit(jax.numpy.matmul)
    jax.block_until_ready(product(x, x))
    start = time.perf_counter()
    jax.block_until_ready(product(x, x))
    own = 2 * 64**3 / (time.perf_counter() - start)
    assert 0 < own < found
