"""Hydra against its loss in float64 NumPy, one pair of classes at a time."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
from made_up import DRAW, SPEC, B, Rewriting, assert_gradient, base, wide

from facejax.contracts import Draw
from facejax.errors import UserError
from facejax.losses import sum_terms
from facejax.modifiers import hydra

WIDTH = 6
gates = jax.jit(hydra.gates, static_argnums=(0, 4))
LABELS = np.array([0, 0, 1, 1, 1, 2, 3, -1])


def inputs(case: Rewriting, pairs=None, labels=LABELS):
    pairs = made_up.unit(made_up.pairs(WIDTH)) if pairs is None else pairs
    batch = {"identity": jnp.asarray(labels, jnp.int32)}
    return case.inputs(made_up.unit(pairs), batch=batch)


@pytest.fixture(scope="module")
def case() -> Rewriting:
    return Rewriting.of(hydra, WIDTH)


def partners_of(case, labels, draw=DRAW):
    if case.config.pairing == "identical":
        return np.asarray(labels)
    return np.asarray(hydra.partners(draw, jnp.asarray(labels)))


def reference(case, given):
    """The mean over positive pairs and their gates, with the gates as the module gives them."""
    cfg, pairs = case.config, given["pairs"]
    q, k = np.float64(pairs.q), np.float64(pairs.k[:, 0])
    labels, image = np.asarray(given["batch"]["identity"]), np.asarray(pairs.owner)
    y, other = labels[image], partners_of(case, labels)[image]
    safe = [jnp.asarray(np.maximum(x, 0)) for x in (y, other)]
    g = np.float64(gates(cfg, given["params"], *safe, WIDTH))
    tau, losses = cfg.tau or float(pairs.tau), []
    for i in range(len(q)):
        if y[i] < 0 or other[i] < 0 or (cfg.pairing == "distinct" and y[i] == other[i]):
            continue
        scaled, keys = g[i] * q[i], g[i] * k
        cosine = keys @ scaled / np.linalg.norm(scaled) / np.linalg.norm(keys, axis=1) / tau
        mine = [j for j in range(len(k)) if j == i or image[j] != image[i]]
        rest = [j for j in mine if y[j] >= 0 and y[j] not in (y[i], other[i])]
        for j in mine:
            if y[j] == other[i]:
                losses.append(np.log1p(sum(np.exp(cosine[m] - cosine[j]) for m in rest)))
    return np.mean(losses), len(losses)


OPTIONS = [
    {},
    {"pairing": "distinct", "beta": 3.0, "tau": 0.5},
    {"pairing": "identical", "product": True},
]


@pytest.mark.parametrize(
    ("options", "kind"), [(OPTIONS[0], "two views"), *((o, "queue") for o in OPTIONS)]
)
def test_loss_is_its_formula(options, kind):
    case = Rewriting.of(hydra, WIDTH, **options)
    given = inputs(case, made_up.two_views(WIDTH) if kind == "two views" else None)
    with jax.enable_x64(True):
        exact = wide(given)
        want, count = reference(case, exact)
        term = case(exact)[1].terms["class_pairs"]
        assert term.sum.dtype == jnp.float64
        np.testing.assert_allclose(term.value(), want, rtol=1e-6)
    assert count > 3
    assert term.count == count
    found = case(given)[1].terms["class_pairs"]
    np.testing.assert_allclose(found.value(), reference(case, given)[0], rtol=1e-5)
    beta = case.config.beta
    assert float(found.weight) == pytest.approx(beta / (1 + beta))


def test_an_open_gate_is_the_ordinary_cosine():
    z, k = (made_up.maker("ordinary", s)(n, WIDTH) for s, n in ((0, 5), (1, 9)))
    plain = (z / jnp.linalg.norm(z, axis=1, keepdims=True)) @ (
        k / jnp.linalg.norm(k, axis=1, keepdims=True)
    ).T
    np.testing.assert_allclose(hydra.gated(z, k, jnp.ones((5, WIDTH))), plain, atol=1e-6)
    g = jax.random.uniform(jax.random.key(0), (5, WIDTH))
    some = hydra.gated(z, k, g)
    assert np.abs(some - plain).max() > 0.05
    # Only the gate's direction counts.
    np.testing.assert_allclose(hydra.gated(z, k, 0.3 * g), some, atol=1e-6)
    direct = [[jnp.vdot(a * x, a * y) / jnp.linalg.norm(a * x) / jnp.linalg.norm(a * y)
               for y in k] for a, x in zip(g, z)]  # fmt: skip
    np.testing.assert_allclose(some, np.array(direct), atol=1e-6)


@pytest.mark.parametrize("product", [False, True])
def test_each_unordered_pair_of_classes_has_one_gate(product):
    case = Rewriting.of(hydra, WIDTH, product=product)
    pairs = np.array(list(itertools.product(range(4), repeat=2)))
    found = gates(case.config, case.vars.params, *jnp.asarray(pairs.T), WIDTH)
    assert 0 < found.min() < found.max() < 1
    square = np.asarray(found).reshape(4, 4, WIDTH)
    np.testing.assert_allclose(square, square.swapaxes(0, 1), atol=1e-6)
    rows = np.stack([square[a, b] for a, b in itertools.combinations_with_replacement(range(4), 2)])
    assert len(np.unique(rows.round(5), axis=0)) == 4 * 5 // 2


def test_equal_features_cost_the_log_of_the_rivals(case):
    pairs = made_up.unit(made_up.pairs(WIDTH, "equal"))
    pairs = dataclasses.replace(pairs, k=pairs.q[:, None])
    given = inputs(case, pairs)
    other, logs = partners_of(case, LABELS), []
    for i in range(B):
        positives = sum(other[i] == LABELS) if LABELS[i] >= 0 and other[i] >= 0 else 0
        rivals = sum((LABELS >= 0) & (LABELS[i] != LABELS) & (other[i] != LABELS))
        logs += [np.log1p(rivals)] * positives
    found = case(given)[1].terms["class_pairs"].value()
    np.testing.assert_allclose(found, np.mean(logs), rtol=1e-5)


def test_the_base_and_the_class_pairs_share_the_weight(case):
    given = inputs(case)
    plain = base(given["pairs"])
    for beta in (0.0, 1.0, 3.0):
        own = Rewriting.of(hydra, WIDTH, beta=beta, gamma=0.0)
        out, loss = own(given)
        pairs = loss.terms["class_pairs"].value()
        want = (plain + beta * pairs) / (1 + beta)
        np.testing.assert_allclose(base(out) + sum_terms(loss), want, rtol=1e-6)
        if not beta:
            assert base(out) == plain
            assert sum_terms(loss) == 0


def test_entropy_is_that_of_the_gates_of_single_classes(case):
    given = inputs(case)
    params = {**given["params"], "gate": jax.tree.map(jnp.zeros_like, given["params"]["gate"])}
    terms = case(given | {"params": params})[1].terms
    np.testing.assert_allclose(terms["entropy"].value(), np.log(2), rtol=1e-6)
    assert terms["entropy"].count == 7  # the unlabelled image has no gate of its own
    known = jnp.asarray(LABELS[LABELS >= 0])
    labels = np.where(LABELS >= 0, LABELS, 0)
    g = np.float64(gates(case.config, given["params"], *[jnp.asarray(labels)] * 2, WIDTH))
    g = g[: len(known)]
    want = (-g * np.log(g) - (1 - g) * np.log(1 - g)).mean()
    found = case(given)[1]
    np.testing.assert_allclose(found.terms["entropy"].value(), want, rtol=1e-5)
    np.testing.assert_allclose(found.metrics["open"].value(), g.mean(), rtol=1e-5)


def test_second_classes_are_those_of_the_batch_in_an_order_of_the_global_rows():
    labels = jnp.arange(B)
    found = [np.asarray(hydra.partners(Draw(k, DRAW.rows), labels))
             for k in jax.random.split(jax.random.key(0), 50)]  # fmt: skip
    assert all(sorted(f) == list(range(B)) for f in found)
    assert len({tuple(f) for f in found}) > 45
    order = np.random.default_rng(0).permutation(B)
    moved = hydra.partners(Draw(DRAW.key, DRAW.rows[order]), labels[order])
    np.testing.assert_array_equal(moved, hydra.partners(DRAW, labels)[order])


@pytest.mark.parametrize("labels", [[-1] * B, [0] * B, [0] + [-1] * (B - 1)])
def test_no_labels_or_one_class_give_a_finite_loss(case, labels):
    given = inputs(case, labels=np.array(labels))
    loss = case(given)[1]
    assert np.isfinite(sum_terms(loss))
    np.testing.assert_allclose(loss.terms["class_pairs"].value(), 0, atol=1e-6)
    grads = jax.jit(case.grads)(given)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_effective_rank_counts_the_dimensions_that_vary():
    rng = np.random.default_rng(0)
    spread = jnp.asarray(rng.normal(size=(5000, 8)), jnp.float32)
    np.testing.assert_allclose(hydra.effective_rank(spread), 8, rtol=0.02)
    two = spread @ jnp.eye(8).at[2:].set(0)
    np.testing.assert_allclose(hydra.effective_rank(two), 2, rtol=0.02)
    assert hydra.effective_rank(jnp.ones((5, 8))) == 0


def test_a_run_without_classes_is_refused():
    spec = dataclasses.replace(SPEC, classes={})
    with pytest.raises(UserError, match="hydra needs classes"):
        Rewriting.of(hydra, WIDTH, spec=spec)


@pytest.mark.parametrize("options", [{}, {"product": True, "gamma": 0.0}])
def test_gradient_is_that_of_the_loss(options):
    case = Rewriting.of(hydra, WIDTH, **options)
    assert_gradient(case, inputs(case), rtol=1e-5)
