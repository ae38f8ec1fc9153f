"""What every objective that offers `Pairs` does with those that a modifier gives back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import finite, load
from made_up import B, Case, moved, rewritten

from facejax.losses import sum_terms

OFFER = ("simclr", "moco", "mocov3", "byol", "simsiam", "barlow", "vicreg", "swav")
EXCHANGE = [name for name in OFFER if name != "swav"]  # its codes are those of whole views


class Base:
    """An objective on made-up features, compiled once per way of rewriting its pairs."""

    def __init__(self, name):
        self.name = name
        self.case = moved(Case.of(load("objective", name)))
        self.given = self.case.inputs()
        plain, self.offered = jax.jit(self.as_it_is)(self.given)
        self.plain = float(plain)

    def as_it_is(self, given):
        seen = []
        loss = rewritten(self.case, given, lambda pairs: seen.append(pairs) or pairs)
        return sum_terms(loss), seen

    def value(self, rewrite):
        return jax.jit(lambda given: sum_terms(rewritten(self.case, given, rewrite)))(self.given)

    def weighted(self):
        """The value as a function of a weight per image."""

        def value(weight):
            def rewrite(pairs):
                return dataclasses.replace(pairs, weight=weight[pairs.owner])

            return sum_terms(rewritten(self.case, self.given, rewrite))

        return jax.jit(value)


@pytest.fixture(scope="module", params=OFFER)
def base(request):
    return Base(request.param)


def test_offers_pairs_of_its_width_owned_by_images(base):
    for pairs in base.offered:
        (A, D), (_, P, _), (M, _) = pairs.q.shape, pairs.k.shape, pairs.neg.shape
        assert base.case.vars.pairs == D
        assert (pairs.k.shape, pairs.neg.shape) == ((A, P, D), (M, D))
        assert (pairs.owner.shape, pairs.neg_owner.shape) == ((A,), (M,))
        assert (pairs.positive.shape, pairs.weight.shape) == ((A, P), (A,))
        assert jnp.issubdtype(pairs.neg_owner.dtype, jnp.integer)
        assert pairs.allowed is None, "dense similarities"
        np.testing.assert_array_equal(np.bincount(pairs.owner, minlength=B), A // B)
        np.testing.assert_array_equal(pairs.weight, 1)


def test_zero_weights_switch_the_loss_off_and_others_scale_it(base):
    weighted = base.weighted()
    np.testing.assert_allclose(weighted(jnp.ones(B)), base.plain, rtol=1e-5)
    np.testing.assert_allclose(weighted(3 * jnp.ones(B)), 3 * base.plain, rtol=1e-5)
    assert float(weighted(jnp.zeros(B))) == 0

    def off(params):
        given = dataclasses.replace(base.given, params=params)
        zero = rewritten(
            base.case, given, lambda p: dataclasses.replace(p, weight=jnp.zeros_like(p.weight))
        )
        return sum_terms(zero)

    grads = jax.jit(jax.grad(off))(base.given.params)
    assert finite(grads)
    assert all((g == 0).all() for g in jax.tree.leaves(grads))


def test_weights_add_up_over_images(base):
    if base.name == "barlow":
        pytest.skip("its weights are shares of a correlation")
    weighted, part = base.weighted(), jnp.linspace(0.1, 0.9, B)
    halves = weighted(part), weighted(1 - part)
    np.testing.assert_allclose(sum(halves), base.plain, rtol=1e-4)
    assert abs(halves[0] - base.plain / 2) > 1e-3 * abs(base.plain)


def exchange(base):
    if base.name not in EXCHANGE:
        pytest.skip("reads the weights alone")


def test_positives_that_do_not_exist_change_nothing(base):
    exchange(base)

    def rewrite(pairs):
        k = jnp.concatenate([pairs.k, 100.0 + pairs.k], axis=1)
        positive = jnp.concatenate([pairs.positive, ~pairs.positive], axis=1)
        return dataclasses.replace(pairs, k=k, positive=positive)

    np.testing.assert_allclose(base.value(rewrite), base.plain, rtol=1e-5)


def test_more_anchors_are_averaged(base):
    exchange(base)
    if base.name == "simclr":
        pytest.skip("a sum over anchors, divided by the batch")

    def rewrite(pairs):
        names = ("q", "k", "owner", "positive", "weight")
        twice = {n: jnp.concatenate([getattr(pairs, n)] * 2) for n in names}
        return dataclasses.replace(pairs, **twice)

    np.testing.assert_allclose(base.value(rewrite), base.plain, rtol=1e-5)


def test_positives_may_have_queries_of_their_own(base):
    exchange(base)

    def rewrite(scale):
        def with_queries(pairs):
            own = jnp.broadcast_to(pairs.q[:, None], pairs.k.shape)
            return dataclasses.replace(pairs, qp=scale * own)

        return with_queries

    np.testing.assert_allclose(base.value(rewrite(1.0)), base.plain, rtol=1e-5)
    assert abs(base.value(rewrite(-1.0)) - base.plain) > 1e-3
