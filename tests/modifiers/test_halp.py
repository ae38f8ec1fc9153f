"""HaLP: its geometry, its loss in float64 NumPy, and the prototypes that it keeps."""

import dataclasses

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
from made_up import DRAW, SPEC, B, Rewriting, assert_gradient, base, wide

from facejax.contracts import Ctx
from facejax.losses import sum_terms
from facejax.modifiers import halp
from facejax.ops import similarity

WIDTH = 6


def prototypes(count: int = 4, seed: int = 5) -> jax.Array:
    return similarity.l2_normalize(made_up.maker("ordinary", seed)(count, WIDTH))


@pytest.fixture(scope="module")
def case() -> Rewriting:
    """With prototypes; gradients are taken of the anchors, which alone may have one."""
    case = Rewriting.of(halp, WIDTH)
    state = {**case.vars.state, "prototypes": prototypes()}
    return dataclasses.replace(
        case, vars=dataclasses.replace(case.vars, state=state), fields=("q",)
    )


@pytest.fixture(scope="module")
def given(case):
    pairs = made_up.unit(made_up.pairs(WIDTH))
    weight = jnp.asarray(np.random.default_rng(3).uniform(0.5, 1.5, B), jnp.float32)
    return case.inputs(dataclasses.replace(pairs, weight=weight))


# ----------------------------------------------------------------------------------- geometry


def angles(seed: int, n: int = 200, D: int = 5):
    """Unit keys [n, D], their nearest prototypes and others that are farther."""
    rng = np.random.default_rng(seed)
    k, a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in rng.normal(size=(3, n, D)))
    nearer = ((k * a).sum(-1) > (k * b).sum(-1))[:, None]
    return k, np.where(nearer, a, b), np.where(nearer, b, a)


def test_t_max_of_a_known_triangle():
    k, own, p = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0.6, 0.8]])
    t = halp.reach(*(jnp.float32(x @ y) for x, y in ((k, p), (k, own), (p, own))))
    np.testing.assert_allclose(t, 0.570447, atol=1e-6)
    a, b = halp.parts(jnp.float32(k @ p), t)
    z = np.float64(a) * k + np.float64(b) * p
    np.testing.assert_allclose([z @ p, z @ own], 0.780869, atol=1e-6)


def test_latent_positives_lie_on_the_sphere_between_key_and_border():
    k, own, p = angles(0)
    cos, cos_own, between = ((x * y).sum(-1) for x, y in ((k, p), (k, own), (p, own)))
    with jax.enable_x64(True):
        t_max = np.asarray(halp.reach(*map(jnp.asarray, (cos, cos_own, between))))
        assert (t_max > 0).all()
        assert (t_max < 1).all()
        for share in (0.0, 0.3, 1.0):
            a, b = (np.asarray(x)[:, None] for x in halp.parts(jnp.asarray(cos), share * t_max))
            z = a * k + b * p
            np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-9)
            lead = (z * own).sum(-1) - (z * p).sum(-1)
            if share == 0:
                np.testing.assert_allclose(z, k, atol=1e-9)
            np.testing.assert_allclose(lead, 0, atol=1e-9) if share == 1 else None
            assert share == 1 or (lead > 0).all()


def test_t_max_is_what_a_search_finds():
    k, own, p = angles(1, 20)
    cos, cos_own, between = ((x * y).sum(-1) for x, y in ((k, p), (k, own), (p, own)))
    low, high = np.zeros(20), np.ones(20)
    for _ in range(60):
        middle = (low + high) / 2
        omega = np.arccos(cos)
        a, b = np.sin((1 - middle) * omega), np.sin(middle * omega)
        ahead = a * cos_own + b * between > a * cos + b
        low, high = np.where(ahead, middle, low), np.where(ahead, high, middle)
    with jax.enable_x64(True):
        found = halp.reach(*map(jnp.asarray, (cos, cos_own, between)))
        np.testing.assert_allclose(found, low, atol=1e-9)


def test_parallel_and_opposite_vectors_stay_finite():
    cos = jnp.array([1.0, -1.0, 1 + 1e-7, 1 - 1e-7])
    t = halp.reach(cos, jnp.ones(4), cos)
    a, b = halp.parts(cos, 0.5 * t)
    assert np.isfinite(jnp.stack([t, a, b])).all()
    np.testing.assert_array_equal(a, 1)
    np.testing.assert_array_equal(b, 0)


# --------------------------------------------------------------------------------------- loss


def reference(case, given):
    """mean over counting z of -<q, z> / tau, one latent positive at a time; and how many count."""
    cfg, pairs = case.config, given["pairs"]
    q, k = np.float64(pairs.q), np.float64(pairs.k[:, 0])
    P, weight = np.float64(given["state"]["prototypes"]), np.float64(pairs.weight)
    which, hardness = (np.asarray(x) for x in halp._drawn(cfg, DRAW, pairs.owner))
    losses = []
    for i in range(B):
        own = int(np.argmax(P @ k[i]))
        others = [p for p in range(len(P)) if p != own]
        for s in range(cfg.samples):
            p = P[others[which[i, s]]]
            omega = np.arccos(k[i] @ p)
            kappa = (1 - p @ P[own]) / (k[i] @ (P[own] - p))
            t_max = np.arctan2(np.sin(omega), kappa + np.cos(omega)) / omega
            t = (1 - cfg.spread * np.float64(hardness[i, s])) * t_max
            z = (np.sin((1 - t) * omega) * k[i] + np.sin(t * omega) * p) / np.sin(omega)
            if np.argmax(P @ z) == own:
                losses.append(-weight[i] * (q[i] @ z) / float(pairs.tau))
    return np.mean(losses), len(losses)


def test_loss_is_its_formula(case, given):
    with jax.enable_x64(True):
        exact = wide(given)
        want, count = reference(case, exact)
        term = case(exact)[1].terms["latent"]
        assert term.sum.dtype == jnp.float64
        np.testing.assert_allclose(term.value(), want, rtol=1e-6)
    out, loss = case(given)
    want, count = reference(case, given)
    assert 0 < count < B * case.config.samples
    np.testing.assert_allclose(loss.terms["latent"].value(), want, rtol=1e-5)
    np.testing.assert_allclose(loss.metrics["counted"].value(), count / B / 8, rtol=1e-6)
    assert loss.terms["latent"].weight == 2
    assert base(out) == base(given["pairs"])


def test_t_lies_between_a_share_of_t_max_and_t_max(case):
    cfg = dataclasses.replace(case.config, samples=2000, prototypes=20)
    which, hardness = halp._drawn(cfg, DRAW, jnp.arange(B))
    assert set(np.unique(which)) == set(range(19))
    t = 1 - cfg.spread * hardness
    assert 0.2 < t.min() < 0.21
    assert 0.99 < t.max() <= 1


def test_gradient_goes_through_the_anchor_alone(case, given):
    def value(features, state):
        pairs = dataclasses.replace(given["pairs"], **features)
        return sum_terms(case(given | {"pairs": pairs, "state": {**given["state"], **state}})[1])

    features = {name: getattr(given["pairs"], name) for name in ("q", "k", "neg")}
    grads = jax.jit(jax.grad(value))(features, {"prototypes": prototypes()})
    assert np.abs(grads["q"]).max() > 0
    assert (np.asarray(grads["k"]) == 0).all()
    assert (np.asarray(grads["neg"]) == 0).all()


def test_gradient_is_that_of_the_loss(case, given):
    assert_gradient(case, given, rtol=1e-5)


def test_without_prototypes_or_without_a_sample_that_counts_it_is_0(case, given):
    start = Rewriting.of(halp, WIDTH)
    assert sum_terms(start(start.inputs(given["pairs"]))[1]) == 0
    # Every key is its own nearest prototype's opposite pole: no way leads anywhere.
    P = jnp.concatenate([jnp.eye(WIDTH)[:1], -jnp.eye(WIDTH)[:1]] * 2)
    k = jnp.tile(jnp.eye(WIDTH)[:1], (B, 1))[:, None]
    pairs = dataclasses.replace(given["pairs"], k=k)
    state = {**given["state"], "prototypes": P}
    lost = given | {"pairs": pairs, "state": state}
    assert case(lost)[1].metrics["counted"].value() == 0
    assert sum_terms(case(lost)[1]) == 0
    grads = jax.jit(case.grads)(lost)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_mu_of_0_is_the_base(given):
    case = Rewriting.of(halp, WIDTH, mu=0.0)
    assert case.value(given | {"params": {}}) == base(given["pairs"])


# --------------------------------------------------------------------------------- prototypes


def updated(case, state, keys, step):
    ctx = Ctx(jnp.int32(step), DRAW, SPEC)
    return halp.update(case.config, {}, state, keys, ctx)[1]


def test_the_newest_keys_come_first_and_are_clustered_when_it_is_due():
    case = Rewriting.of(halp, WIDTH, every=2)
    state, seen = case.vars.state, []
    step = jax.jit(lambda state, keys, n: updated(case, state, keys, n))
    for n in range(6):
        keys = similarity.l2_normalize(made_up.maker("ordinary", n)(B, WIDTH))
        new = step(state, keys, jnp.int32(n))
        seen = [*np.asarray(keys), *seen][:16]
        np.testing.assert_allclose(new["recent"][: len(seen)], seen, atol=1e-6)
        assert new["seen"] == min(8 * (n + 1), 16)
        changed = bool((new["prototypes"] != state["prototypes"]).any())
        # 16 keys are there from step 1 on, and even steps are due.
        assert changed == (n in (2, 4))
        state = new
    np.testing.assert_allclose(np.linalg.norm(state["prototypes"], axis=1), 1, rtol=1e-5)


def test_keys_are_what_enters_the_queue_or_the_positives(case, given):
    np.testing.assert_array_equal(case(given)[1].stats, given["pairs"].enqueue)
    pairs = made_up.two_views(WIDTH)
    np.testing.assert_array_equal(case(case.inputs(pairs))[1].stats, pairs.k[:, 0])


def test_clustering_finds_planted_clusters():
    cfg = halp.Config(prototypes=3, iterations=20)
    rng = np.random.default_rng(0)
    centres = np.eye(WIDTH)[:3]
    x = np.repeat(centres, 40, axis=0) + 0.05 * rng.normal(size=(120, WIDTH))
    x = jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32)
    run = jax.jit(lambda key: halp.clustered(cfg, key, x))
    # The start may put two centres into one cluster; of several starts most do not.
    best = max(
        (run(key) for key in jax.random.split(jax.random.key(0), 8)),
        key=lambda found: float(jnp.sum(jnp.max(x @ found.T, axis=1))),
    )
    overlap = np.asarray(best) @ centres.T
    assert sorted(np.argmax(overlap, axis=1)) == [0, 1, 2]
    assert (overlap.max(axis=1) > 0.99).all()


def test_clustering_never_lengthens_the_way_and_copes_with_copies():
    x = similarity.l2_normalize(made_up.maker("ordinary", 0)(40, WIDTH))
    fits = []
    for n in (0, 1, 3, 10):
        cfg = halp.Config(prototypes=5, iterations=n)
        found = halp.clustered(cfg, jax.random.key(0), x)
        fits.append(float(jnp.sum(jnp.max(x @ found.T, axis=1))))
    assert fits == sorted(fits)
    assert fits[0] < fits[-1]
    same = halp.clustered(cfg, jax.random.key(0), jnp.tile(x[:1], (40, 1)))
    np.testing.assert_allclose(same, jnp.tile(x[:1], (5, 1)), atol=1e-5)
