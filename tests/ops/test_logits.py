"""Streamed sums over logits against float64 NumPy, finite differences and the dense form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax import mesh
from facejax.config import MeshShape
from facejax.ops import logits, ring
from facejax.ops.logits import Totals, log_totals, softplus_sums


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(ring, "CHUNK", 3)


def made(A=16, M=13, D=4, seed=0, owners=5, scale=1.0):
    """Columns are also nobody's (-1)."""
    rng = np.random.default_rng(seed)
    owner, k_owner = rng.integers(0, owners, A), rng.integers(-1, owners, M)
    return {
        "q": scale * rng.normal(size=(A, D)),
        "k": rng.normal(size=(M, D)),
        "owner": owner.astype(np.int32),
        "k_owner": k_owner.astype(np.int32),
        "group": rng.integers(0, 3, A).astype(np.int32),
        "k_group": rng.integers(0, 3, M).astype(np.int32),
    }


def totals_reference(q, k, owner, k_owner, group, k_group):
    s = q.astype(np.float64) @ k.astype(np.float64).T
    meet = owner[:, None] != k_owner[None]
    kin = meet & (group[:, None] == k_group[None])
    e = np.where(meet, np.exp(s), 0)
    with np.errstate(divide="ignore"):
        rows, columns = np.log(e.sum(1)), np.log(e.sum(0))
    return Totals(rows, columns, np.where(kin, s, 0).sum(1), kin.sum(1))


def softplus_reference(q, k, owner, k_owner, bias):
    s = q.astype(np.float64) @ k.astype(np.float64).T + bias[:, None]
    return np.where(owner[:, None] != k_owner[None], np.log1p(np.exp(s)), 0).sum(1)


def with_bias(given):
    given = {name: given[name] for name in ("q", "k", "owner", "k_owner")}
    return {**given, "bias": np.random.default_rng(9).normal(size=len(given["q"]))}


def cast(given, dtype):
    return {n: jnp.asarray(x, dtype if x.dtype == np.float64 else None) for n, x in given.items()}


both = functools.partial(log_totals, both=True)


def test_totals_are_their_definition():
    given = made()
    want = totals_reference(**given)
    with jax.enable_x64(True):
        got = jax.jit(both)(**cast(given, jnp.float64))
        for name, value in zip(Totals._fields, got):
            assert value.dtype == jnp.float64
            np.testing.assert_allclose(value, getattr(want, name), rtol=1e-10)
    got = jax.jit(both)(**cast(given, jnp.float32))
    for name, value in zip(Totals._fields, got):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, getattr(want, name), rtol=1e-5, atol=1e-5)


def test_what_was_not_asked_for_is_none():
    given = cast(made(), jnp.float32)
    plain = {name: given[name] for name in ("q", "k", "owner", "k_owner")}
    found = jax.jit(log_totals)(**plain)
    assert found[1:] == (None, None, None)
    np.testing.assert_allclose(found.rows, jax.jit(both)(**given).rows, rtol=1e-6)


def test_softplus_sums_are_their_definition():
    given = with_bias(made())
    want = softplus_reference(**given)
    with jax.enable_x64(True):
        got = jax.jit(softplus_sums)(**cast(given, jnp.float64))
        np.testing.assert_allclose(got, want, rtol=1e-10)
    got = jax.jit(softplus_sums)(**cast(given, jnp.float32))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5)


def weighted(output, given):
    """A scalar with another cotangent for every element of one output."""
    value = softplus_sums(**given) if output == "softplus" else getattr(both(**given), output)
    return jnp.sum(value * jnp.sin(1.0 + jnp.arange(len(value))))


@pytest.mark.parametrize("output", ["rows", "columns", "kin", "softplus"])
def test_gradients_are_finite_differences(output):
    given = with_bias(made()) if output == "softplus" else made()
    names = [n for n in ("q", "k", "bias") if n in given]
    with jax.enable_x64(True):
        given = cast(given, jnp.float64)

        @jax.jit
        def value(moved):
            return weighted(output, {**given, **moved})

        at = {n: given[n] for n in names}
        grads = jax.jit(jax.grad(value))(at)
        for name in names:
            way = jnp.asarray(np.random.default_rng(1).normal(size=at[name].shape))
            ahead, behind = (value({**at, name: at[name] + h * way}) for h in (1e-6, -1e-6))
            slope = jnp.vdot(grads[name], way)
            assert abs(slope) > 1e-3
            np.testing.assert_allclose((ahead - behind) / 2e-6, slope, rtol=1e-6)


def dense(output, given):
    s = logits.product(given["q"], given["k"])
    meet = given["owner"][:, None] != given["k_owner"][None]
    if output == "softplus":
        value = jnp.where(meet, jax.nn.softplus(s + given["bias"][:, None]), 0.0).sum(1)
    elif output == "kin":
        kin = meet & (given["group"][:, None] == given["k_group"][None])
        value = jnp.where(kin, s, 0.0).sum(1)
    else:
        axis = 1 if output == "rows" else 0
        value = jax.nn.logsumexp(jnp.where(meet, s, -jnp.inf), axis)
    return jnp.sum(value * jnp.sin(1.0 + jnp.arange(len(value))))


@pytest.mark.parametrize(
    ("devices", "A", "M"), [(1, 16, 13), (2, 16, 16), (8, 16, 16), (8, 16, 13), (8, 13, 16)]
)
@pytest.mark.parametrize("output", ["rows", "columns", "kin", "softplus"])
def test_meshes_agree_with_the_dense_form(output, devices, A, M):
    """The last two: columns, then rows, that the devices don't share evenly."""
    grid = mesh.make(MeshShape(-1, min(devices, 2)), jax.devices()[:devices])
    given = made(A, M, seed=1)
    given = cast(with_bias(given) if output == "softplus" else given, jnp.float32)
    names = [n for n in ("q", "k", "bias") if n in given]
    at, rest = {n: given[n] for n in names}, {n: given[n] for n in given if n not in names}

    def of(form):
        return lambda at: form(output, {**rest, **at})

    want = jax.jit(jax.value_and_grad(of(dense)))(at)

    def place(x):
        even = len(x) % devices == 0
        return jax.device_put(x, mesh.batch_sharding(grid) if even else mesh.replicated(grid))

    got = jax.jit(mesh.within(grid, jax.value_and_grad(of(weighted))))(jax.tree.map(place, at))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
    for name in names:
        if A % devices == 0 and len(at[name]) % devices == 0:
            assert got[1][name].sharding.is_equivalent_to(mesh.batch_sharding(grid), at[name].ndim)
            parts = {s.data.shape[0] for s in got[1][name].addressable_shards}
            assert parts == {len(at[name]) // devices}


def test_who_meets_nobody_totals_nothing_and_passes_no_gradient():
    given = made()
    given["owner"][0], given["k_owner"][:] = 7, 7
    given["owner"][1:] = 7
    given["owner"][5] = 8
    given = cast(given, jnp.float32)
    found = jax.jit(both)(**given)
    assert np.isneginf(np.delete(found.rows, 5)).all()
    assert np.isfinite(found.rows[5])
    np.testing.assert_array_equal(np.delete(found.count, 5), 0)

    def cost(q, k):
        t = both(**{**given, "q": q, "k": k})
        return jnp.sum(jax.nn.softplus(t.rows)) + jnp.sum(t.kin), t

    to_q, to_k = jax.jit(jax.grad(cost, (0, 1), has_aux=True))(given["q"], given["k"])[0]
    assert np.isfinite(to_q).all()
    assert np.isfinite(to_k).all()
    assert (np.delete(to_q, 5, 0) == 0).all()
    assert np.abs(to_q[5]).max() > 0


def test_without_columns_there_is_nothing():
    given = cast(made(M=0), jnp.float32)
    found = jax.jit(both)(**given)
    assert np.isneginf(found.rows).all()
    assert found.columns.shape == (0,)
    given = cast(with_bias(made(M=0)), jnp.float32)
    np.testing.assert_array_equal(jax.jit(softplus_sums)(**given), 0)


@pytest.mark.parametrize("output", ["rows", "columns", "kin", "softplus"])
def test_large_logits_stay_finite(output):
    given = made(scale=1e4)
    given = cast(with_bias(given) if output == "softplus" else given, jnp.float32)
    value, grads = jax.jit(
        jax.value_and_grad(lambda q, k: weighted(output, {**given, "q": q, "k": k}), (0, 1))
    )(given["q"], given["k"])
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)


def test_half_precision_is_summed_in_fp32():
    given = cast(made(), jnp.bfloat16)
    got = jax.jit(both)(**given)
    want = totals_reference(**{n: np.asarray(x, np.float64) if n in "qk" else np.asarray(x)
                               for n, x in given.items()})  # fmt: skip
    for name, value in zip(Totals._fields, got):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, getattr(want, name), rtol=1e-5, atol=1e-5)
    to_k = jax.jit(jax.grad(lambda k: weighted("rows", {**given, "k": k})))(given["k"])
    assert to_k.dtype == jnp.bfloat16


def test_mean_column_is_that_of_the_softmax():
    given = made(scale=30.0)
    q, k, there = given["q"], given["k"], np.arange(13) % 4 > 0
    s = np.where(there[None], q @ k.T, -np.inf)
    e = np.exp(s - s.max(1, keepdims=True))
    want = (e / e.sum(1, keepdims=True)) @ k
    at = (jnp.float32(q), jnp.float32(k), jnp.asarray(there))
    np.testing.assert_allclose(jax.jit(logits.mean_column)(*at), want, atol=1e-5)
    slope = jax.jit(jax.grad(lambda *x: jnp.sum(logits.mean_column(*x)), argnums=(0, 1)))(*at)
    assert all((x == 0).all() for x in slope)
