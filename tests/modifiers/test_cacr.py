"""CACR against its two competitions in float64 NumPy, and the bases that it contains."""

import dataclasses

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
from made_up import B, Rewriting, assert_gradient, base, wide

from facejax.losses import sum_terms
from facejax.modifiers import _anchors, cacr
from facejax.ops import similarity

WIDTH = 6


def pairs_of(positives: int = 3, seed: int = 0):
    """Anchors with several positives, some of which are missing, and uneven weights."""
    pairs = made_up.unit(made_up.pairs(WIDTH, seed=seed, positives=positives))
    there = np.ones((B, positives), bool)
    if positives > 1:
        there[2, 1] = there[5, 0] = False
    weight = jnp.asarray(np.random.default_rng(3).uniform(0.5, 1.5, B), jnp.float32)
    return dataclasses.replace(pairs, positive=jnp.asarray(there), weight=weight)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def reference(pairs, cfg):
    """Attraction and repulsion, one anchor at a time."""
    q, k, neg = (np.float64(x) for x in (pairs.q, pairs.k, pairs.neg))
    weight, owner = np.float64(pairs.weight), np.asarray(pairs.owner)
    neg_owner = np.asarray(pairs.neg_owner)
    if cfg.intra_batch:
        neg, neg_owner = np.concatenate([neg, q]), np.concatenate([neg_owner, owner])
    pull, push = [], []
    for a in range(len(q)):
        near = ((q[a] - k[a]) ** 2).sum(-1)[np.asarray(pairs.positive)[a]]
        pull.append((softmax(cfg.t_positive * near) * near).sum())
        far = ((q[a] - neg[neg_owner != owner[a]]) ** 2).sum(-1)
        share = softmax(-cfg.t_negative * far)
        if cfg.cost == "rbf":
            push.append((share * np.exp(-2 * far)).sum())
        else:
            push.append(((share * far).sum() - cfg.debias * near.mean()) / (1 - cfg.debias))
    attraction = (weight * pull).mean()
    if cfg.cost == "rbf":
        return attraction, np.log((weight * push).sum() / weight.sum())
    return attraction, -(weight * push).mean()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 0.7, "beta": 1.3, "t_positive": 2.0, "t_negative": 0.9, "debias": 0.1},
        {"intra_batch": True, "cost": "rbf", "detach": True},
    ],
)
def test_the_two_terms_are_their_formulas(options):
    case = Rewriting.of(cacr, WIDTH, **options)
    given = case.inputs(pairs_of())
    want = dict(zip(("attraction", "repulsion"), reference(given["pairs"], case.config)))
    run = case
    with jax.enable_x64(True):
        out, loss = run(wide(given))
        for name, value in want.items():
            found = loss.terms[name].value()
            assert found.dtype == jnp.float64
            np.testing.assert_allclose(found, value, rtol=1e-6)
    out, loss = run(given)
    for name, value in want.items():
        np.testing.assert_allclose(loss.terms[name].value(), value, rtol=1e-5)
    weights = {name: float(t.weight) for name, t in loss.terms.items()}
    own = {"attraction": case.config.alpha, "repulsion": case.config.beta}
    assert weights == pytest.approx(own)
    # The base has no say any more.
    assert base(out) == 0


def test_without_competition_it_is_mean_attraction_less_mean_repulsion():
    case = Rewriting.of(cacr, WIDTH, t_positive=0.0, t_negative=0.0)
    pairs = dataclasses.replace(pairs_of(), positive=jnp.ones((B, 3), bool), weight=jnp.ones(B))
    _, loss = case(case.inputs(pairs))
    near = ((pairs.q[:, None] - pairs.k) ** 2).sum(-1)
    far = np.asarray(((pairs.q[:, None] - pairs.neg[None]) ** 2).sum(-1))
    met = np.asarray(similarity.meets(pairs))
    repelled = np.mean([far[a][met[a]].mean() for a in range(B)])
    np.testing.assert_allclose(sum_terms(loss), near.mean() - repelled, rtol=1e-5)


def test_far_positives_and_near_negatives_are_moved_most():
    """With weights held fixed, the gradient at a positive is 2 pi (k - q)."""
    case = Rewriting.of(cacr, WIDTH, detach=True)
    given = case.inputs(dataclasses.replace(pairs_of(), weight=jnp.ones(B)))
    grads = jax.jit(case.grads)(given)
    pairs = given["pairs"]
    near = np.sqrt(((pairs.q[:, None] - pairs.k) ** 2).sum(-1))
    share = np.linalg.norm(grads["k"], axis=-1) / (2 * near / B)
    there = np.asarray(pairs.positive)
    for a in range(B):
        order = np.argsort(near[a][there[a]])
        assert (np.diff(share[a][there[a]][order]) > 0).all()
        np.testing.assert_allclose(share[a][there[a]].sum(), 1, rtol=1e-4)
    # One anchor meets each of these negatives at its own distance.
    far = ((pairs.q[:, None] - pairs.neg[None]) ** 2).sum(-1)

    def push(neg):
        one = _anchors.each(dataclasses.replace(pairs, neg=neg), lambda x: x[:1])
        return case(given | {"pairs": one})[1].terms["repulsion"].value()

    strength = np.linalg.norm(jax.grad(push)(pairs.neg), axis=1) / np.sqrt(far[0])
    met = np.asarray(similarity.meets(pairs))[0]
    assert (np.diff(strength[met][np.argsort(far[0][met])]) < 0).all()
    assert strength[~met] == 0


def test_rotations_and_the_order_of_views_change_nothing():
    case = Rewriting.of(cacr, WIDTH)
    given = case.inputs(pairs_of())
    value = jax.jit(case.value)
    want = value(given)
    turn = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0])
    turn = turn.astype(jnp.float32)
    pairs = given["pairs"]
    turned = dataclasses.replace(pairs, q=pairs.q @ turn, k=pairs.k @ turn, neg=pairs.neg @ turn)
    np.testing.assert_allclose(value(given | {"pairs": turned}), want, rtol=1e-5)
    order = jnp.array([2, 0, 1])
    views = dataclasses.replace(pairs, k=pairs.k[:, order], positive=pairs.positive[:, order])
    np.testing.assert_allclose(value(given | {"pairs": views}), want, rtol=1e-5)


def test_one_positive_has_weight_1():
    case = Rewriting.of(cacr, WIDTH, t_positive=5.0)
    pairs = dataclasses.replace(pairs_of(1), weight=jnp.ones(B))
    _, loss = case(case.inputs(pairs))
    near = ((pairs.q - pairs.k[:, 0]) ** 2).sum(-1).mean()
    np.testing.assert_allclose(loss.terms["attraction"].value(), near, rtol=1e-5)


def test_weights_are_differentiable_or_not():
    given = Rewriting.of(cacr, WIDTH).inputs(pairs_of())
    found = {}
    for detach in (False, True):
        case = Rewriting.of(cacr, WIDTH, detach=detach)
        found[detach] = np.asarray(jax.jit(case.grads)(given)["q"])
    assert np.abs(found[True] - found[False]).max() > 1e-3


def test_no_negatives_no_repulsion_and_lonely_anchors_break_nothing():
    case = Rewriting.of(cacr, WIDTH)
    pairs = made_up.alone(pairs_of())
    assert set(case(case.inputs(pairs))[1].terms) == {"attraction"}
    pairs = pairs_of()
    lonely = dataclasses.replace(
        pairs,
        positive=pairs.positive.at[0].set(False),
        allowed=jnp.ones((B, 16), bool).at[1].set(False),
        neg_owner=jnp.full(16, -1),
    )
    given = case.inputs(lonely)
    grads = jax.jit(case.grads)(given)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert (np.asarray(grads["k"])[0] == 0).all()


# ------------------------------------------------------------------ the base's loss, weighted


def ordinary(pairs):
    """Per anchor and positive: the cross-entropy against the negatives that the anchor meets."""
    q, k, neg = (np.float64(x) for x in (pairs.q, pairs.k, pairs.neg))
    met, tau = np.asarray(similarity.meets(pairs)), float(pairs.tau)
    positive = np.einsum("ad,apd->ap", q, k) / tau
    rest = np.array([np.exp(neg[met[a]] @ q[a] / tau).sum() for a in range(len(q))])
    return np.log(np.exp(positive) + rest[:, None]) - positive


def test_with_one_positive_of_one_anchor_weights_are_the_base_bit_for_bit():
    case = Rewriting.of(cacr, WIDTH, form="weights")
    for pairs in (pairs_of(1), made_up.two_views(WIDTH)):
        out, loss = case(case.inputs(pairs))
        np.testing.assert_array_equal(out.weight, pairs.weight)
        assert base(out) == base(pairs)
        assert not loss.terms


def test_several_positives_of_an_anchor_compete():
    case = Rewriting.of(cacr, WIDTH, form="weights")
    pairs = pairs_of()
    out, _ = case(case.inputs(pairs))
    near = np.float64(((pairs.q[:, None] - pairs.k) ** 2).sum(-1)) / float(pairs.tau)
    there, each, total = np.asarray(pairs.positive), ordinary(pairs), 0.0
    for a in range(B):
        share = softmax(near[a][there[a]])
        total += float(pairs.weight[a]) * (share * each[a][there[a]]).sum()
    np.testing.assert_allclose(base(out), total / B, rtol=1e-5)
    assert abs(base(out) - base(pairs)) > 1e-3


def test_queries_of_several_views_compete_for_a_key():
    """One view's keys as MoCo v3 offers them, with the queries of two other views."""
    case = Rewriting.of(cacr, WIDTH, form="weights")
    make = made_up.maker("ordinary", 4)
    q = similarity.l2_normalize(make(2 * B, WIDTH))
    k = similarity.l2_normalize(make(B, WIDTH))
    image = jnp.arange(B)
    pairs = dataclasses.replace(
        made_up.two_views(WIDTH), q=q, k=jnp.tile(k, (2, 1))[:, None], neg=k, neg_owner=image,
        tau=jnp.float32(0.2), positive=jnp.ones((2 * B, 1), bool).at[3].set(False),
    )  # fmt: skip
    out, _ = case(case.inputs(pairs))
    far = np.float64(((q - jnp.tile(k, (2, 1))) ** 2).sum(-1)) / 0.2
    each, total = ordinary(pairs)[:, 0], 0.0
    for i in range(B):
        share = softmax(far[[i, i + B]]) * 2
        if i == 3:
            share = np.array([0.0, 1.0])
        np.testing.assert_allclose(out.weight[jnp.array([i, i + B])], share, rtol=1e-4)
        total += (share * each[[i, i + B]]).sum()
    np.testing.assert_allclose(base(out), total / (2 * B), rtol=1e-5)


def test_no_gradient_passes_the_weights():
    case = Rewriting.of(cacr, WIDTH, form="weights")
    given = case.inputs(pairs_of())

    def weights(q):
        pairs = dataclasses.replace(given["pairs"], q=q)
        return jnp.sum(jnp.sin(case(given | {"pairs": pairs})[0].weight))

    assert (np.asarray(jax.grad(weights)(given["pairs"].q)) == 0).all()


@pytest.mark.parametrize("options", [{}, {"cost": "rbf", "intra_batch": True, "debias": 0.1}])
def test_gradient_is_that_of_the_loss(options):
    case = Rewriting.of(cacr, WIDTH, **options)
    assert_gradient(case, case.inputs(pairs_of()), rtol=1e-5)
