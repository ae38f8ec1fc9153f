"""Feature transformation: the identity of its scores, what it contains, and what it logs."""

import dataclasses

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
from made_up import B, Rewriting, assert_gradient, base, wide

from facejax.contracts import Draw
from facejax.modifiers import feature_transform
from facejax.ops import similarity

WIDTH = 6


@pytest.fixture(scope="module")
def case() -> Rewriting:
    return Rewriting.of(feature_transform, WIDTH)


def queue_pairs(seed: int = 0, positives: int = 1):
    """What MoCo offers: negatives that are nobody's."""
    pairs = made_up.unit(made_up.pairs(WIDTH, seed=seed, positives=positives))
    return dataclasses.replace(pairs, neg_owner=jnp.full(16, -1))


@pytest.fixture(scope="module")
def given(case):
    return case.inputs(queue_pairs())


@pytest.mark.parametrize("share", [1.0, 1.2, 1.5, 2.0])
@pytest.mark.parametrize("positives", [1, 3])
def test_extrapolated_positives_score_by_the_closed_form(case, share, positives):
    with jax.enable_x64(True):
        pairs = made_up.unit(wide(queue_pairs(positives=positives)))
        out = feature_transform.extrapolated(case.config, pairs, jnp.array([share]))
        S = np.einsum("ad,apd->ap", pairs.q, pairs.k)
        score = np.einsum("apd,apd->ap", out.qp, out.k)
        np.testing.assert_allclose(score, S + 2 * share * (1 - share) * (1 - S), rtol=1e-9)
        assert (score <= S + 1e-12).all()
        assert share == 1 or (score < S - 1e-3).any()


def test_positives_that_agree_stay(case):
    pairs = queue_pairs()
    pairs = dataclasses.replace(pairs, k=pairs.q[:, None])
    out = feature_transform.extrapolated(case.config, pairs, jnp.array([1.7]))
    np.testing.assert_allclose(jnp.sum(out.qp * out.k, -1), 1, rtol=1e-5)


def test_interpolated_negatives_are_their_formula(case):
    pairs = queue_pairs()
    order, share = jnp.asarray(np.random.default_rng(0).permutation(16)), jnp.array([0.7])
    out = feature_transform.interpolated(case.config, pairs, share, order)
    neg = np.float64(pairs.neg)
    np.testing.assert_allclose(out.neg, 0.7 * neg + 0.3 * neg[np.asarray(order)], atol=1e-6)
    assert out.allowed is None
    # Scored by the anchor itself, and what enters the queue is untouched.
    np.testing.assert_array_equal(out.q, pairs.q)
    np.testing.assert_array_equal(out.enqueue, pairs.enqueue)
    normal = dataclasses.replace(case.config, normalize=True)
    out = feature_transform.interpolated(normal, pairs, share, order)
    np.testing.assert_allclose(np.linalg.norm(out.neg, axis=1), 1, rtol=1e-5)


def test_negatives_of_images_beside_a_queue_stay(case):
    pairs = made_up.unit(made_up.pairs(WIDTH))  # the first 8 of 16 negatives are the anchors'
    order = jnp.arange(16)[::-1]
    out = feature_transform.interpolated(case.config, pairs, jnp.array([0.5]), order)
    np.testing.assert_array_equal(out.neg[:B], pairs.neg[:B])
    np.testing.assert_array_equal(out.neg[B:], pairs.neg[B:])
    order = jnp.concatenate([jnp.arange(B), B + jnp.arange(B)[::-1]])
    out = feature_transform.interpolated(case.config, pairs, jnp.array([0.5]), order)
    np.testing.assert_array_equal(out.neg[:B], pairs.neg[:B])
    assert (np.abs(out.neg[B:] - pairs.neg[B:]).max(axis=1) > 0.1).all()


def test_without_a_queue_nobody_meets_a_mixture_of_itself(case):
    pairs = made_up.two_views(WIDTH)
    order = jnp.asarray(np.random.default_rng(1).permutation(2 * B))
    mix = jax.jit(feature_transform.interpolated, static_argnums=0)
    out = mix(case.config, pairs, jnp.array([0.6]), order)
    image = np.asarray(pairs.owner)
    for a in range(2 * B):
        for m in range(2 * B):
            mine = image[a] in (image[m], image[order[m]])
            assert bool(similarity.meets(out)[a, m]) != mine
    untouched = mix(case.config, pairs, jnp.array([1.0]), order)
    np.testing.assert_array_equal(similarity.meets(untouched), similarity.meets(pairs))


def test_shares_of_1_are_the_base(case):
    """Bit for bit under MoCo; where a mask is needed the similarities are summed another way."""
    order = jnp.asarray(np.random.default_rng(0).permutation(16))
    for pairs, rtol in ((queue_pairs(), 0), (made_up.two_views(WIDTH), 1e-6)):
        out = feature_transform.extrapolated(case.config, pairs, jnp.ones(1))
        out = feature_transform.interpolated(case.config, out, jnp.ones(1), order)
        want = similarity.info_nce(pairs)
        np.testing.assert_allclose(similarity.info_nce(out), want, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(("start", "first"), [(0.5, 5), (3.0, 3), (0.0, 0)])
def test_it_sets_in_when_it_is_told(given, start, first):
    case = Rewriting.of(feature_transform, WIDTH, start=start)
    plain = base(given["pairs"])
    assert [n for n in range(10) if base(case(given, n)[0]) != plain] == list(range(first, 10))


def test_shares_follow_their_distributions(case):
    draw = jax.jit(
        jax.vmap(
            lambda key: [
                feature_transform._share(case.config, a, queue_pairs(), Draw(key, jnp.arange(B)))
                for a in (2.0, 1.6)
            ]
        )
    )
    for alpha, found in zip((2.0, 1.6), draw(jax.random.split(jax.random.key(0), 4000))):
        assert found.shape == (4000, 1)
        assert 0 <= found.min() < 0.1 < 0.9 < found.max() <= 1
        np.testing.assert_allclose(found.mean(), 0.5, atol=0.02)
        np.testing.assert_allclose(found.var(), 1 / (4 * (2 * alpha + 1)), rtol=0.08)


def test_one_share_a_step_or_one_a_dimension(given):
    for per_dimension, n in ((False, 1), (True, WIDTH)):
        case = Rewriting.of(feature_transform, WIDTH, per_dimension=per_dimension)
        out, _ = case(given)
        q, k = given["pairs"].q[:, None], given["pairs"].k
        share = np.asarray((out.qp - k) / (q - k))[:, 0]
        np.testing.assert_allclose(share, np.tile(share[:1], (B, 1)), rtol=1e-2)
        assert len(np.unique(share[0].round(3))) == n
        assert 1 <= share.min() <= share.max() <= 2


def reference_scores(pairs):
    """The logged statistics, one anchor at a time."""
    q, k, neg = (np.float64(x) for x in (pairs.q, pairs.k, pairs.neg))
    qp = q[:, None] if pairs.qp is None else np.float64(pairs.qp)
    positive = (qp * k).sum(-1)[np.asarray(pairs.positive)]
    found = {"mean": [], "var": [], "exp": []}
    for a in range(len(q)):
        s = (neg @ q[a])[np.asarray(similarity.meets(pairs))[a]]
        for name, value in (("mean", s.mean()), ("var", s.var()), ("exp", np.exp(s / 0.2).mean())):
            found[name].append(value)
    return {
        "positive_mean": positive.mean(),
        "positive_var": positive.var(),
        "positive_exp": np.exp(positive / 0.2).mean(),
        **{f"negative_{name}": np.mean(values) for name, values in found.items()},
    }


@pytest.mark.parametrize("kind", ["queue", "two views", "several positives"])
def test_logged_scores_are_those_that_the_loss_sees(case, kind):
    pairs = made_up.two_views(WIDTH) if kind == "two views" else queue_pairs()
    if kind == "several positives":
        pairs = queue_pairs(positives=3)
        pairs = dataclasses.replace(pairs, positive=pairs.positive.at[:4, 1].set(False))
    out, loss = case(case.inputs(pairs))
    want = reference_scores(out)
    assert loss.metrics.keys() == want.keys()
    assert not loss.terms
    for name, term in loss.metrics.items():
        np.testing.assert_allclose(term.value(), want[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_off_logs_the_base_and_extrapolation_lowers_the_positive_scores(given):
    found = {}
    for name, options in (("off", {"off": True}), ("on", {})):
        case = Rewriting.of(feature_transform, WIDTH, **options)
        out, loss = case(given)
        found[name] = {k: float(t.value()) for k, t in loss.metrics.items()}
        assert bool((out.k == given["pairs"].k).all()) == (name == "off")
    assert found["on"]["positive_mean"] < found["off"]["positive_mean"] - 0.01
    assert found["on"]["negative_var"] < found["off"]["negative_var"]


def test_a_base_without_negatives_has_its_positives_moved(case):
    pairs = made_up.alone(queue_pairs())
    out, loss = case(case.inputs(pairs))
    assert set(loss.metrics) == {"positive_mean", "positive_var", "positive_exp"}
    assert base(out) > base(pairs)


def test_gradient_reaches_q_through_both_and_not_a_stopped_key(case, given):
    def value(q, k, part):
        pairs = dataclasses.replace(given["pairs"], q=q, k=jax.lax.stop_gradient(k))
        out = feature_transform.extrapolated(case.config, pairs, jnp.array([1.5]))
        parts = {"qp": out.qp, "k": out.k}
        return jnp.sum(jnp.sin(parts[part]))

    for part, factor in (("qp", 1.5), ("k", -0.5)):
        q, k = given["pairs"].q, given["pairs"].k
        to_q, to_k = jax.grad(value, (0, 1))(q, k, part)
        assert (np.asarray(to_k) == 0).all()
        assert (np.sign(np.asarray(to_q)).mean() > 0) == (factor > 0)


def test_gradient_is_that_of_the_loss(given):
    case = Rewriting.of(feature_transform, WIDTH, normalize=True, per_dimension=True)
    assert_gradient(case, given, rtol=1e-5)
