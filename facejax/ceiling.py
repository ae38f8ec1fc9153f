"""What matrix products reach on this machine: the peak where no table knows the device."""

import functools
import time

import jax
import jax.numpy as jnp

from facejax import mesh
from facejax.config import MeshShape

FIRST, LAST = 512, 8192
ENOUGH = 2e-3
REPEATS = 5


@functools.cache
def measured_ceiling(dtype: str) -> float:
    """FLOP/s of one device in products of square matrices, at JAX's default precision.

    All devices of this process multiply at once, since they may share cores (CPU) or power; they
    should have nothing else to do. The side is doubled from 512 until a product takes 2 ms, in
    which the dispatch is lost, and the best of all runs counts: a ceiling, which a model can come
    near and not pass but by luck. Takes 0.1 to 0.3 s on two CPU cores, once per process and dtype.

    Args:
        dtype: of the matrices, as the run computes.
    """
    best, side, seconds = 0.0, FIRST, 0.0
    while seconds < ENOUGH and side <= LAST:
        seconds = _seconds(side, dtype)
        best, side = max(best, 2 * side**3 / seconds), 2 * side
    return best


def _seconds(side: int, dtype: str) -> float:
    """The least time of a product on every device of this process."""
    devices = mesh.make(MeshShape(), jax.local_devices())
    placed = {"out_shardings": mesh.batch_sharding(devices)}
    shape = (devices.size, side, side)
    x = jax.jit(functools.partial(jnp.full, shape, 1 / side, dtype), **placed)()
    product = jax.jit(jnp.matmul, **placed)
    jax.block_until_ready(product(x, x))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(product(x, x))
        times.append(time.perf_counter() - start)
    return min(times)
