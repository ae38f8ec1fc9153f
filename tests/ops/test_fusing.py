"""A residual stream is computed once on one CPU; values and gradients never change."""

import jax
import jax.numpy as jnp
import numpy as np

from facejax import layers, mesh
from facejax.config import MeshShape
from facejax.ops import fusing

ONE = mesh.make(MeshShape(1, 1), jax.devices()[:1])


def test_nothing_happens_without_a_mesh_or_on_several_devices():
    x = jnp.ones((8, 3))
    assert fusing.apart(x) is x
    several = mesh.make(MeshShape(2, 4), jax.devices())
    lowered = jax.jit(mesh.within(several, fusing.apart)).lower(x)
    assert "inlineable" not in lowered.as_text()


def test_no_fusion_reads_more_than_its_own_block():
    """Left to itself the last block's gradient sums those of all after it, once per reader."""
    D, depth = 32, 6
    block = layers.Block(D, 2)
    x = jax.random.normal(jax.random.key(0), (4, 6, D))
    params = [block.init(jax.random.key(i), x)["params"] for i in range(depth)]

    def loss(params, x):
        for own in params:
            x = block.apply({"params": own}, x)
        return jnp.mean(x**2)

    both = jax.value_and_grad(loss)
    plain = jax.jit(both).lower(params, x).compile()
    apart = jax.jit(mesh.within(ONE, both)).lower(params, x).compile()
    assert _most_operands(apart.as_text()) * 2 < _most_operands(plain.as_text())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7),
        apart(params, x),
        plain(params, x),
    )


def _most_operands(hlo: str) -> int:
    fusions = [line for line in hlo.splitlines() if " fusion(" in line]
    return max(line.split(" fusion(")[1].split(")")[0].count("%") for line in fusions)
