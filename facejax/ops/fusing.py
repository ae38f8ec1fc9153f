"""What XLA's CPU compiler may fuse."""

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def apart(x: jax.Array) -> jax.Array:
    """`x`, computed once: what follows is not fused with what it was computed from.

    On the CPU XLA fuses cheap work with each of its readers, again for every one. In a residual
    stream, and in its gradient, each block reads the sum of all before it, so that the work grows
    with the square of the depth: more than half of a ViT-Ti step. `optimization_barrier` is dropped
    before fusion there; a call that may not be inlined is not. Other compilers fuse within limits
    of their own, and several devices need their partitioner to see through: there, and outside of a
    mesh, this is `x` itself.
    """
    if jax.sharding.get_abstract_mesh().size != 1:
        return x
    return jax.lax.platform_dependent(x, cpu=_called, default=_itself)


@jax.jit
def _itself(x: jax.Array) -> jax.Array:
    return x


def _called(x: jax.Array) -> jax.Array:
    with set_xla_metadata(inlineable="false"):
        return _itself(x)
