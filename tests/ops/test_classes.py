"""The softmax over class centres: chunked and spread, it is the dense one in value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax import mesh
from facejax.config import MeshShape
from facejax.ops import classes, groups
from facejax.ops.similarity import l2_normalize
from facejax.planning import hlo

C, G, B, D = 45, 8, 16, 8
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(B, D)), jnp.float32)
# All of one group but for one that is unknown and one of the last classes.
LABELS = jnp.asarray([*RNG.integers(0, 6, B - 2), -1, 44], jnp.int32)


def centres(rate):
    n, _ = groups.sizes(C, G, rate, B)
    rows = groups.sample(LABELS[:3], C, G, rate, jax.random.key(0))
    value = np.random.default_rng(1).normal(size=(G * n, D)).astype(np.float32)
    return jnp.asarray(value)[rows], rows


def logits(cosines, aux):
    """What depends on the image's own cosine, as CurricularFace's do."""
    return aux["scale"] * cosines * (aux["own"] + cosines)


def spread(x, w, rows, labels):
    x = l2_normalize(x)
    own, w = classes.at_labels(x, w, rows, labels)
    aux = {"own": own, "scale": jnp.full_like(own, 4.0)}
    log, peak = classes.log_others(x, w, rows, labels, C, logits, aux)
    return jnp.sum(jnp.logaddexp(log, 6 * own) - 6 * own), (own, log, peak)


def dense(x, w, rows, labels):
    cosines = jnp.einsum("bd,cd->bc", l2_normalize(x), l2_normalize(w), precision="highest")
    hit = rows[None] == labels[:, None]
    own = jnp.sum(jnp.where(hit, cosines, 0.0), 1)
    others = jnp.where(hit | (rows >= C)[None], -jnp.inf, 4 * cosines * (own[:, None] + cosines))
    log = jax.nn.logsumexp(others, 1)
    return jnp.sum(jnp.logaddexp(log, 6 * own) - 6 * own), (own, log, others.max(1))


def grad(function):
    return jax.value_and_grad(function, argnums=(0, 1), has_aux=True)


def close(got, want, atol):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5)


@pytest.fixture(params=[2**28, 4 * B * 2], ids=["whole", "chunks"])
def chunk(request, monkeypatch):
    monkeypatch.setattr(classes, "CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_on_one_device_it_is_the_dense_one(rate):
    w, rows = centres(rate)
    got = jax.jit(grad(spread))(X, w, rows, LABELS)
    close(got, grad(dense)(X, w, rows, LABELS), 1e-5)


@pytest.mark.usefixtures("chunk")
def test_in_float64_it_is_the_dense_one():
    with jax.enable_x64(True):
        x, (w, rows) = X.astype(jnp.float64), centres(1.0)
        w = w.astype(jnp.float64)
        got = jax.jit(grad(spread))(x, w, rows, LABELS)
        close(got, grad(dense)(x, w, rows, LABELS), 1e-12)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize("shape", [(2, 1), (2, 4), (1, 8)])
def test_over_devices_it_is_the_dense_one(shape, rate):
    devices = mesh.make(MeshShape(*shape), jax.devices()[: shape[0] * shape[1]])
    split = mesh.batch_sharding(devices)
    w, rows = centres(rate)
    arrays = [jax.device_put(a, split) for a in (X, w, rows, LABELS)]
    got = jax.jit(mesh.within(devices, grad(spread)))(*arrays)
    close(got, grad(dense)(X, w, rows, LABELS), 2e-5)
    assert got[1][1].sharding.is_equivalent_to(split, 2)


def test_gradient_of_images_on_centres_or_without_any_other_class():
    w, rows = centres(1.0)
    x = w[jnp.maximum(LABELS, 0)]
    got = jax.jit(grad(spread))(x, w, rows, LABELS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    # One class in all: nothing to be told from.
    alone = functools.partial(spread, labels=jnp.zeros(B, jnp.int32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.C", 1)
        (value, (_, log, peak)), pulled = jax.jit(grad(lambda x, w: alone(x, w, rows)))(x, w)
    assert value == 0
    assert np.isneginf(log).all()
    assert np.isneginf(peak).all()
    assert all((leaf == 0).all() for leaf in pulled)


def test_no_device_sees_all_centres_or_more_than_a_chunk_of_logits(monkeypatch):
    many, wide, images = 8 * 4096, 64, 64
    monkeypatch.setattr(classes, "CHUNK", 4 * images * 512)
    monkeypatch.setattr(f"{__name__}.C", many)
    devices = mesh.make(MeshShape(2, 4), jax.devices())
    split = mesh.batch_sharding(devices)

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=split)

    ints = functools.partial(array, dtype=jnp.int32)
    compiled = (
        jax.jit(mesh.within(devices, grad(spread)))
        .lower(array(images, wide), array(many, wide), ints(many), ints(images))
        .compile()
    )
    moved = hlo.collectives(hlo.parse(compiled.as_text()))
    assert moved
    # All embeddings and labels, for two uses in one message; never centres.
    assert max(c.bytes for c in moved) <= 2 * 4 * images * (wide + 1)
    # Beside the gradient of its own centres: chunks, and all embeddings with their gradient.
    memory = compiled.memory_analysis()
    chunks = 4 * 4 * images * 512 + 2 * 4 * 512 * wide
    assert memory.temp_size_in_bytes < chunks + 4 * 4 * images * wide + 2**16
