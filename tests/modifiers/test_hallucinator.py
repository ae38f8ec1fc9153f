"""Hallucinator: its formula, the baseline that it contains, and what doubles."""

import dataclasses

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
from made_up import B, Case, Rewriting, assert_gradient, base, wide

from facejax.modifiers import hallucinator
from facejax.objectives import simclr
from facejax.ops import similarity

WIDTH = 6


def copying(case: Rewriting) -> Rewriting:
    """A generator whose output is q, whatever e is: q and -q through the ReLUs, subtracted."""
    eye, none = np.eye(WIDTH), np.zeros((WIDTH, WIDTH))
    kernels = (
        np.block([[eye, -eye], [none, none]]),
        np.eye(2 * WIDTH),
        np.concatenate([eye, -eye]),
    )
    zeros = jax.tree.map(jnp.zeros_like, case.vars.params["generator"])
    generator = {
        f"fc_{i}": {**zeros[f"fc_{i}"], "kernel": jnp.asarray(kernel, jnp.float32)}
        for i, kernel in enumerate(kernels)
    }
    return dataclasses.replace(
        case, vars=dataclasses.replace(case.vars, params={"generator": generator})
    )


@pytest.fixture(scope="module")
def case() -> Rewriting:
    return Rewriting.of(hallucinator, WIDTH)


@pytest.fixture(scope="module")
def given(case):
    return case.inputs(made_up.unit(made_up.pairs(WIDTH)))


def test_hallucinated_queries_are_their_formula(case, given):
    p = jax.tree.map(np.float64, given["params"]["generator"])
    with jax.enable_x64(True):
        u = 0.1 * np.float64(jax.random.uniform(made_up.DRAW.fold("reach").key))
        out, _ = case(wide(given))
        assert out.q.dtype == jnp.float64
    q, k = np.float64(given["pairs"].q), np.float64(given["pairs"].k[:, 0])
    x = np.concatenate([q, (1 + u) * q - u * k], axis=1)
    for i in range(3):
        x = x @ p[f"fc_{i}"]["kernel"] + p[f"fc_{i}"]["bias"]
        x = np.maximum(x, 0) if i < 2 else x
    h = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(out.q[::2], q, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(out.q[1::2], h, rtol=1e-6, atol=1e-9)
    assert 0 < u < 0.1
    found, loss = case(given)
    np.testing.assert_allclose(found.q[::2], q, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.q[1::2], axis=1), 1, rtol=1e-5)
    alike = (found.q[::2] * found.q[1::2]).sum(1).mean()
    np.testing.assert_allclose(loss.metrics["similarity"].value(), alike, rtol=1e-4)


def test_what_belongs_to_an_anchor_and_what_a_queue_takes_doubles(case, given):
    pairs = dataclasses.replace(
        given["pairs"], tau=jnp.full((B, 1), 0.2), allowed=jnp.ones((B, 16), bool),
        qp=given["pairs"].q[:, None],
    )  # fmt: skip
    out, _ = case(given | {"pairs": pairs})
    for name in ("k", "owner", "positive", "weight", "allowed", "tau", "enqueue"):
        ours, theirs = getattr(out, name), getattr(pairs, name)
        np.testing.assert_array_equal(ours, np.repeat(theirs, 2, axis=0), err_msg=name)
    np.testing.assert_array_equal(out.qp[:, 0], out.q)
    np.testing.assert_array_equal(out.neg, pairs.neg)
    # Without the hallucinated ones this is the base.
    np.testing.assert_allclose(similarity.info_nce(out)[::2], similarity.info_nce(pairs), rtol=1e-6)


@pytest.mark.parametrize("kind", ["queue", "two views", "no negatives"])
def test_with_a_copying_generator_it_is_the_base(case, kind):
    pairs = made_up.unit(made_up.pairs(WIDTH))
    if kind == "two views":
        pairs = made_up.two_views(WIDTH)
    elif kind == "no negatives":
        pairs = made_up.alone(pairs)
    found = copying(case)
    value = jax.jit(found.value)(found.inputs(pairs))
    np.testing.assert_allclose(value, base(pairs), rtol=1e-6)
    plain = jax.jit(case.value)(case.inputs(pairs))
    assert abs(plain - base(pairs)) > 1e-3


def test_under_simclr_the_scale_stays():
    """Every anchor twice, by a generator that copies, is the same loss."""
    own = Case.of(simclr)
    inputs = own.inputs()
    arguments = (inputs.params, inputs.ema, inputs.state, inputs.feats, inputs.batch)
    case = copying(Rewriting.of(hallucinator, WIDTH))

    def loss(modify):
        # The copying generator is made for WIDTH; SimCLR's tiny projections are wider.
        config = dataclasses.replace(own.config, out=WIDTH)
        params = simclr.init(config, jax.random.key(0), own.spec).params
        ctx = dataclasses.replace(own.ctx(inputs.draw), modify=modify)
        return simclr.loss(config, params, *arguments[1:], ctx).terms["nt_xent"].value()

    plain = jax.jit(lambda: loss(lambda pairs: pairs))()
    doubled = jax.jit(lambda: loss(lambda pairs: case(case.inputs(pairs))[0]))()
    np.testing.assert_allclose(doubled, plain, rtol=1e-6)


def test_an_anchor_is_pushed_away_from_its_positive():
    q, k = made_up.maker("ordinary", 0)(2, B, WIDTH)
    np.testing.assert_array_equal(hallucinator.pushed(q, k, jnp.float32(0)), q)
    far = hallucinator.pushed(q, k, jnp.float32(0.1))
    np.testing.assert_allclose(far - q, 0.1 * (q - k), atol=1e-6)


def test_the_generator_learns_and_gradients_stop_where_the_base_stops_them(case, given):
    grads = jax.jit(case.grads)(given)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads["params"]))

    def value(k, stop):
        k = jax.lax.stop_gradient(k) if stop else k
        pairs = dataclasses.replace(given["pairs"], k=k)
        return case.value(given | {"pairs": pairs})

    gradient = jax.jit(jax.grad(value), static_argnums=1)
    assert (np.asarray(gradient(given["pairs"].k, True)) == 0).all()
    assert np.abs(gradient(given["pairs"].k, False)).max() > 0


def test_gradient_is_that_of_the_loss(case, given):
    assert_gradient(case, given, rtol=1e-5)
