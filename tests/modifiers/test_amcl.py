"""AMCL against its equations in float64 NumPy, one head and one anchor at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
from made_up import B, Rewriting, assert_gradient, base, wide

from facejax.errors import UserError
from facejax.losses import sum_terms
from facejax.modifiers import amcl
from facejax.ops import similarity

WIDTH = 6


def pairs_of(kind: str):
    """What a base offers: a queue, the batch's two views, or one view and no negatives."""
    if kind == "two views":
        return made_up.unit(made_up.two_views(WIDTH))
    pairs = made_up.unit(made_up.pairs(WIDTH))
    return made_up.unit(made_up.alone(pairs)) if kind == "no negatives" else pairs


def moved(case: Rewriting) -> Rewriting:
    """All parameters away from where they start, so that temperatures differ."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + jnp.asarray(0.5 * rng.normal(size=x.shape), jnp.float32), case.vars.params
    )
    return dataclasses.replace(case, vars=dataclasses.replace(case.vars, params=params))


def mlp(p, x):
    h = np.maximum(x @ p["fc_0"]["kernel"] + p["fc_0"]["bias"], 0)
    return h @ p["fc_1"]["kernel"] + p["fc_1"]["bias"]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def temperature(cfg, p, a, b):
    if cfg.tau is not None:
        return cfg.tau
    agreement = (mlp(p["tau"], a) * mlp(p["tau"], b)).sum(-1)
    return cfg.tau_min + (cfg.tau_max - cfg.tau_min) / (1 + np.exp(agreement))


def omega(cfg, tau):
    return cfg.out / 2 * np.log(tau) + 1 / tau


def reference(cfg, params, pairs):
    p = jax.tree.map(np.float64, params)
    q, k, neg = (np.float64(x) for x in (pairs.q, pairs.k[:, 0], pairs.neg))
    total, A = 0.0, len(q)
    for c in range(cfg.heads):
        head = p[f"head_{c}"]
        if cfg.form == "correlate":
            total += correlation(cfg, p, *(mlp(head, x) for x in (q, k)))
            continue
        z, key, negs = (unit(mlp(head, x)) for x in (q, k, neg))
        for a in range(A):
            tau = temperature(cfg, p, z[a], key[a])
            pull, s = z[a] @ key[a] / tau, z[a] @ key[a]
            if not len(neg):
                total += (-pull + 2 * cfg.beta * omega(cfg, tau)) / A
                continue
            met = np.asarray(similarity.meets(pairs))[a]
            rivals, taus = negs[met] @ z[a], temperature(cfg, p, z[a][None], negs[met])
            taus = np.broadcast_to(taus, rivals.shape)
            if cfg.include_positive:
                rivals, taus = np.append(rivals, s), np.append(taus, tau)
            cost = rivals / taus - cfg.beta * cfg.negative_omega * omega(cfg, taus)
            if cfg.reduce == "max":
                push = cost[np.argmax(rivals)]
            else:
                push = np.log(np.exp(cost - cost.max()).sum()) + cost.max()
            total += (-pull + push + cfg.beta * omega(cfg, tau)) / A
    return total


def correlation(cfg, p, a, b):
    a, b = (unit((x - x.mean(0)).T) for x in (a, b))
    total = 0.0
    for i in range(cfg.out):
        for j in range(cfg.out):
            c, tau = a[i] @ b[j], temperature(cfg, p, a[i], b[j])
            if i == j:
                total += (1 - c / tau) ** 2 + cfg.beta * omega(cfg, tau)
            else:
                total += cfg.redundancy * c**2 / tau
                total -= cfg.beta * cfg.negative_omega * omega(cfg, tau)
    return total


FORMS = {
    "max": ("queue", {}),
    "max over two views": ("two views", {"negative_omega": False, "include_positive": True}),
    "logsumexp": ("two views", {"reduce": "logsumexp"}),
    "attract": ("no negatives", {}),
    "correlate": ("no negatives", {"form": "correlate", "beta": 1e-3}),
}


@pytest.mark.parametrize("name", FORMS)
def test_loss_is_its_equation(name):
    kind, options = FORMS[name]
    case = moved(Rewriting.of(amcl, WIDTH, **options))
    given = case.inputs(pairs_of(kind))
    want = reference(case.config, given["params"], given["pairs"])
    run = case
    with jax.enable_x64(True):
        got = sum_terms(run(wide(given))[1])
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, want, rtol=1e-6)
    out, loss = run(given)
    np.testing.assert_allclose(sum_terms(loss), want, rtol=2e-5)
    # The base has no say any more.
    assert (np.asarray(out.weight) == 0).all()
    assert base(out) == 0


def per_anchor(options, kind="queue"):
    case = Rewriting.of(amcl, WIDTH, heads=1, hidden=32, tau=0.2, beta=0.0, **options)
    pairs = pairs_of(kind)
    given = case.inputs(pairs)
    head = jax.tree.map(np.float64, case.vars.params["head_0"])
    parts = (unit(mlp(head, np.float64(x))) for x in (pairs.q, pairs.k, pairs.neg))
    features = dict(zip(("q", "k", "neg"), map(jnp.float32, parts)))
    return case, given, dataclasses.replace(pairs, **features)


def test_one_head_at_a_constant_temperature_is_similarities_alone():
    """max: -s+ / tau + max s- / tau; logsumexp: NT-Xent with negatives alone below the line."""
    case, given, z = per_anchor({})
    s = np.einsum("ad,ad->a", z.q, z.k[:, 0])
    negative = np.where(similarity.meets(z), z.q @ z.neg.T, -np.inf)
    hard = (-s + negative.max(1)) / 0.2
    np.testing.assert_allclose(sum_terms(case(given)[1]), hard.mean(), rtol=1e-5)
    soft = np.log(np.exp(negative / 0.2).sum(1)) - s / 0.2
    case, given, _ = per_anchor({"reduce": "logsumexp"})
    np.testing.assert_allclose(sum_terms(case(given)[1]), soft.mean(), rtol=1e-5)
    gap = soft - hard
    assert (gap >= 0).all()
    assert (gap <= np.log(np.asarray(similarity.meets(z)).sum(1))).all()


@pytest.mark.parametrize("kind", ["queue", "two views"])
def test_with_the_positive_among_the_rivals_it_is_infonce(kind):
    case, given, z = per_anchor({"reduce": "logsumexp", "include_positive": True}, kind)
    want = jnp.mean(similarity.info_nce(dataclasses.replace(z, tau=jnp.float32(0.2))))
    np.testing.assert_allclose(sum_terms(case(given)[1]), want, rtol=1e-5)
    with jax.enable_x64(True):
        pairs = wide(given["pairs"])
        head = wide(case.vars.params["head_0"])
        parts = {
            n: similarity.l2_normalize(
                amcl._head(case.config, WIDTH).apply({"params": head}, getattr(pairs, n))
            )
            for n in ("q", "k", "neg")
        }
        exact = jnp.mean(similarity.info_nce(dataclasses.replace(pairs, tau=0.2, **parts)))
        np.testing.assert_allclose(sum_terms(case(wide(given))[1]), exact, rtol=1e-6)


@pytest.mark.parametrize("name", ["max", "attract", "correlate"])
def test_identical_heads_add_up(name):
    kind, options = FORMS[name]
    one, three = (Rewriting.of(amcl, WIDTH, heads=n, **options) for n in (1, 3))
    params = {f"head_{c}": one.vars.params["head_0"] for c in range(3)}
    params["tau"] = one.vars.params["tau"]
    given = one.inputs(pairs_of(kind))
    want = 3 * sum_terms(one(given)[1])
    np.testing.assert_allclose(sum_terms(three(given | {"params": params})[1]), want, rtol=1e-5)


def test_temperatures_keep_their_bounds():
    cfg = amcl.Config()
    found = amcl.temperature(cfg, jnp.array([-1e4, -3.0, 0.0, 3.0, 1e4]))
    assert (np.diff(found) <= 0).all()  # the more alike, the colder
    np.testing.assert_allclose(found[jnp.array([0, 2, 4])], [2.0, 1.025, 0.05], rtol=1e-6)
    constant = dataclasses.replace(cfg, tau=0.3)
    np.testing.assert_allclose(amcl.temperature(constant, found), 0.3)


def test_omega_is_least_at_2_over_the_width_and_likely_at_the_right_place():
    with jax.enable_x64(True):
        tau = jnp.exp(jnp.linspace(np.log(1e-4), np.log(2), 200001))
        best = tau[jnp.argmin(amcl.omega(tau, 512))]
        np.testing.assert_allclose(best, 0.00390625, rtol=1e-4)
        # With beta 1 the positive part is a likelihood, whose best temperature is 2 (1 - s) / d'.
        for s in (0.3, 0.9):
            best = tau[jnp.argmin(-s / tau + amcl.omega(tau, 128))]
            np.testing.assert_allclose(best, 2 * (1 - s) / 128, rtol=1e-4)


def test_logged_temperatures_are_those_that_were_used():
    case = moved(Rewriting.of(amcl, WIDTH))
    given = case.inputs(pairs_of("queue"))
    metrics = case(given)[1].metrics
    assert metrics["log_tau_positive"].counts.sum() == 2 * B  # heads times anchors
    assert metrics["log_tau_negative"].counts.sum() == 2 * B  # the hardest of each
    soft = moved(Rewriting.of(amcl, WIDTH, reduce="logsumexp"))
    met = int(similarity.meets(given["pairs"]).sum())
    assert soft(given)[1].metrics["log_tau_negative"].counts.sum() == 2 * met
    p, z = jax.tree.map(np.float64, case.vars.params), given["pairs"]
    taus = []
    for c in range(2):
        q, k = (unit(mlp(p[f"head_{c}"], np.float64(x))) for x in (z.q, z.k[:, 0]))
        taus.append(temperature(case.config, p, q, k))
    want, _ = np.histogram(np.log(taus), 64, (np.log(0.05), np.log(2)))
    found = np.asarray(metrics["log_tau_positive"].counts)
    assert np.abs(np.cumsum(found) - np.cumsum(want)).max() <= 1


def test_only_a_teacher_s_side_passes_no_gradient():
    """With a queue the heads learn from the anchors alone, under SimCLR from both sides."""

    def grads(kind, stop):
        case = moved(Rewriting.of(amcl, WIDTH, heads=1))
        given = case.inputs(pairs_of(kind))

        def value(params):
            pairs = given["pairs"]
            if stop:  # what the anchors' side has no hand in
                pairs = dataclasses.replace(pairs, q=jnp.zeros_like(pairs.q))
            return sum_terms(case(given | {"params": params, "pairs": pairs})[1])

        return jax.jit(jax.grad(value))(case.vars.params)["head_0"]["fc_0"]["kernel"]

    # A kernel meets zeros only on the anchors' side, so its gradient is that of the other side.
    assert (np.asarray(grads("queue", stop=True)) == 0).all()
    assert np.abs(grads("queue", stop=False)).max() > 1e-3
    assert np.abs(grads("two views", stop=True)).max() > 1e-3


def test_heads_stay_different_while_they_learn():
    case = Rewriting.of(amcl, WIDTH)
    given = case.inputs(pairs_of("two views"))
    step = jax.jit(
        lambda params: jax.tree.map(
            lambda p, g: p - 0.1 * g, params, case.grads(given | {"params": params})["params"]
        )
    )
    params = case.vars.params
    first = float(case.value(given))
    for _ in range(10):
        params = step(params)
    a, b = (params[f"head_{c}"]["fc_0"]["kernel"] for c in range(2))
    assert np.abs(a - b).max() > 0.1
    assert case.value(given | {"params": params}) < first


def test_forms_that_do_not_fit_are_refused():
    correlate = Rewriting.of(amcl, WIDTH, form="correlate")
    with pytest.raises(UserError, match="the base offers 16 anchors"):
        correlate(correlate.inputs(pairs_of("two views")))
    contrast = Rewriting.of(amcl, WIDTH, form="contrast")
    with pytest.raises(UserError, match="no negatives"):
        contrast(contrast.inputs(pairs_of("no negatives")))


def test_lonely_anchors_cost_nothing_and_break_nothing():
    for options in ({}, {"reduce": "logsumexp", "include_positive": True}):
        case = Rewriting.of(amcl, WIDTH, **options)
        pairs = pairs_of("queue")
        pairs = dataclasses.replace(
            pairs,
            positive=pairs.positive.at[0].set(False),
            allowed=jnp.ones((B, 16), bool).at[1].set(False),
        )
        given = case.inputs(pairs)
        grads = jax.jit(case.grads)(given)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
        assert (np.asarray(grads["q"])[:2] == 0).all()


@pytest.mark.parametrize("name", ["max", "logsumexp", "correlate"])
def test_gradient_is_that_of_the_loss(name):
    kind, options = FORMS[name]
    case = moved(Rewriting.of(amcl, WIDTH, **options))
    pairs = pairs_of(kind)
    if name == "max":
        pairs = dataclasses.replace(pairs, enqueue=None)  # else one side is stopped
    assert_gradient(case, case.inputs(pairs), rtol=1e-5)
