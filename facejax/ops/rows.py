"""Where the rows of a batch lie while an encoder works on them."""

import jax
from jax.sharding import PartitionSpec


def stay(x: jax.Array) -> jax.Array:
    """`x` [B, ...], each row on the device that holds its image; `x` itself outside of a mesh.

    A product of rows that are split over all devices and weights that are split over some of them
    can move either. XLA decides for each product alone, inside loops for moving rows: for ViT-L on
    256 chips seven times the bytes of the weights. With this around it only the weights can move.
    An array whose first axis does not divide over the devices holds no rows and is left alone.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.size or x.shape[0] % mesh.size:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(mesh.axis_names))
