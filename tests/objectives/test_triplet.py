"""Triplets against loops over anchors, positives and negatives in float64 NumPy."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import B, Case, assert_gradient, assert_value
from numpy_heads import unit

from facejax.contracts import Frozen
from facejax.errors import UserError
from facejax.objectives import triplet

LABELS = np.array([3, 1, 3, 0, 1, 3, 7, 0])
ALL = np.ones(B, bool)


def given_of(case, labels=LABELS, has=ALL, **pooled):
    given = case.inputs()
    feats = {
        name: dataclasses.replace(f, pooled=jnp.asarray(pooled.get(name, f.pooled)))
        for name, f in given.feats.items()
    }
    batch = {**given.batch, "identity": jnp.asarray(labels), "has_identity": jnp.asarray(has)}
    return dataclasses.replace(given, feats=feats, batch=batch)


def case_of(**options):
    return Case.of(triplet, dataclasses.replace(triplet.Config(), **options))


def combination(a, p, n, labels, has, margin, across):
    """Losses of all pairs; 0 without a semi-hard negative, else with the nearest one."""
    found = []
    for i, j in itertools.product(range(B), repeat=2):
        if not (has[i] and has[j]) or labels[i] != labels[j] or (i == j and not across):
            continue
        to_p = np.sum((a[i] - p[j]) ** 2)
        to_n = [np.sum((a[i] - n[k]) ** 2) for k in range(B) if has[k] and labels[k] != labels[i]]
        near = [d for d in to_n if to_p < d < to_p + margin]
        found.append(to_p - min(near) + margin if near else 0.0)
    return found


def reference(case, given):
    cfg, labels = case.config, np.asarray(given.batch["identity"])
    has = np.asarray(given.batch["has_identity"])
    versions = {name: unit(np.float64(f.pooled)) for name, f in given.feats.items()}
    total = 0.0
    for kinds in itertools.product(versions, repeat=3):
        if set(kinds) == {"old"}:
            continue
        a, p, n = (versions[kind] for kind in kinds)
        found = combination(a, p, n, labels, has, cfg.margin, kinds[0] != kinds[1])
        weight = 1.0 if set(kinds) == {"new"} else cfg.harmonic / 6
        total += weight * (np.mean(found))
    return total


@pytest.mark.parametrize(
    "options", [{"margin": 1.0}, {"margin": 1.0, "old": "a/run", "harmonic": 3.0}]
)
@pytest.mark.parametrize("has", [ALL, np.array([1, 1, 1, 1, 0, 1, 1, 1], bool)])
def test_loss_is_its_formula(options, has):
    case = case_of(**options)
    given = given_of(case, has=has)
    want = reference(case, given)
    assert want > 0.05
    assert_value(case, given, want)


@pytest.mark.parametrize("pick", ["nearest", "random"])
def test_gradient_is_that_of_the_loss(pick):
    case = case_of(margin=1.0, pick=pick)
    assert_gradient(case, given_of(case), rtol=1e-5)


def test_only_the_new_encoder_learns():
    case = case_of(margin=1.0, old="a/run")
    assert case.passes["old"].weights == Frozen("a/run")
    assert case.passes["old"].view == case.passes["new"].view
    given = given_of(case)
    grads = jax.jit(case.grads)(given)["feats"]
    assert np.abs(grads["new"]["pooled"]).max() > 0
    # Equal old and new embeddings: an image's own old embedding is the nearest positive there is.
    same = given_of(case, old=given.feats["new"].pooled)
    terms = jax.jit(case.loss)(same).terms
    assert len(terms) == 7
    plain = jax.jit(case_of(margin=1.0).loss)(given_of(case_of())).terms["triplet"]
    np.testing.assert_allclose(terms["triplet"].value(), plain.value(), rtol=1e-6)


def test_a_random_negative_is_one_of_the_semi_hard():
    case, nearest = case_of(margin=1.0, pick="random"), case_of(margin=1.0)
    given = given_of(case)
    values = {float(jax.jit(case.value)(given)) for _ in range(2)}
    assert len(values) == 1
    most = jax.jit(nearest.value)(given)
    other = dataclasses.replace(given, draw=given.draw.fold("again"))
    values |= {float(jax.jit(case.value)(other))}
    assert len(values) == 2
    assert all(0 < v <= most for v in values)


def test_pairs_without_a_semi_hard_negative_add_nothing():
    case = case_of(margin=0.2)
    # Two persons, far apart: every negative is easy.
    pooled = np.zeros((B, 8), np.float32)
    pooled[:, 0] = np.where(np.arange(B) % 2, 1.0, -1.0)
    easy = given_of(case, labels=np.arange(B) % 2, new=pooled)
    assert jax.jit(case.value)(easy) == 0
    # Everybody at one point: no negative is farther than the positive.
    flat = given_of(case, new=np.ones((B, 8), np.float32))
    grads = jax.jit(case.grads)(flat)["feats"]["new"]["pooled"]
    assert jax.jit(case.value)(flat) == 0
    assert (grads == 0).all()
    metrics = jax.jit(case.loss)(flat).metrics
    assert metrics["semi_hard"].value() == 0
    np.testing.assert_allclose(metrics["pos_sim"].value(), 1, rtol=1e-6)


def test_old_embeddings_of_another_width_are_told():
    case = case_of(old="a/run")
    given = given_of(case, old=np.ones((B, 5), np.float32))
    with pytest.raises(UserError, match="5 wide, the new ones 8") as caught:
        case.value(given)
    assert caught.value.where == "old"
