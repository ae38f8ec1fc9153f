"""SupCon against its definition in float64 NumPy, one anchor and one positive at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import (
    BROAD,
    SPEC,
    B,
    Case,
    assert_gradient,
    assert_value,
    counted_flops,
    moved,
    take,
)
from numpy_heads import mlp, unit
from support import program_of, resolve

from facejax.objectives import supcon
from facejax.ops import similarity

CONFIG = supcon.Config.tiny()
LABELS = jnp.array([3, 1, 3, 0, 1, 3, 7, 0])
ALL = jnp.ones(B, bool)


def projections(given):
    return [unit(mlp(given.params["projector"], given.feats[v].pooled)) for v in "ab"]


def reference(z, owner, tau):
    each = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        total = sum(np.exp(z[i] @ z[a] / tau) for a in others)
        positives = [a for a in others if owner[a] == owner[i]]
        costs = [-np.log(np.exp(z[i] @ z[p] / tau) / total) for p in positives]
        each.append(np.mean(costs) if costs else 0.0)
    return np.array(each)


def labelled(given, labels=LABELS, has=ALL, name="identity"):
    batch = {**given.batch, name: labels, f"has_{name}": has}
    return dataclasses.replace(given, batch=batch)


def case_of(**options) -> Case:
    return moved(Case.of(supcon, dataclasses.replace(CONFIG, **options)))


@pytest.mark.parametrize("options", [{}, {"depth": 1, "tau": 0.3, "label": "expression"}])
def test_loss_is_its_formula(options):
    case = case_of(**options)
    cfg, given = case.config, labelled(case.inputs(), name=case.config.label)
    z = np.concatenate(projections(given))
    want = cfg.tau / 0.07 * reference(z, np.tile(LABELS, 2), cfg.tau).mean()
    assert_value(case, given, want)


def test_gradient_is_that_of_the_loss():
    case = case_of()
    assert_gradient(case, labelled(case.inputs()), rtol=1e-5)


def test_distinct_classes_give_the_mean_over_anchors_of_simclr():
    case = case_of()
    given = labelled(case.inputs(), jnp.arange(B))
    z_a, z_b = (jnp.float32(z) for z in projections(given))
    want = similarity.nt_xent(z_a, z_b, CONFIG.tau) / 2
    value = jax.jit(case.value)
    np.testing.assert_allclose(value(given), want, rtol=1e-5)
    # So does having no labels at all, whatever their numbers say.
    unlabelled = labelled(case.inputs(), jnp.zeros(B, jnp.int32), ~ALL)
    np.testing.assert_allclose(value(unlabelled), want, rtol=1e-5)


def test_an_image_without_a_label_is_a_class_of_its_own():
    case = case_of()
    has = ALL.at[2].set(False)
    owner = np.array(LABELS)
    owner[2] = 99
    given = labelled(case.inputs(), has=has)
    want = reference(np.concatenate(projections(given)), np.tile(owner, 2), CONFIG.tau).mean()
    np.testing.assert_allclose(jax.jit(case.value)(given), want, rtol=1e-5)


def test_names_of_classes_mean_nothing():
    case = case_of()
    given, value = case.inputs(), jax.jit(case.value)
    want = value(labelled(given))
    renamed = jnp.array([5, 0, 5, 9, 0, 5, 2, 9])
    np.testing.assert_allclose(value(labelled(given, renamed)), want, rtol=1e-6)
    assert abs(value(labelled(given, LABELS[::-1])) - want) > 0.01
    order = np.random.default_rng(0).permutation(B)
    np.testing.assert_allclose(value(take(labelled(given), order)), want, rtol=1e-5)


@pytest.mark.parametrize("labels", [jnp.arange(B), jnp.zeros(B, jnp.int32), LABELS])
def test_where_all_are_equal_the_loss_is_that_of_guessing(labels):
    case = case_of()
    given = case.inputs("equal")
    given = dataclasses.replace(given, feats=dict.fromkeys("ab", given.feats["a"]))
    value, grads = jax.jit(lambda g: (case.value(g), case.grads(g)))(labelled(given, labels))
    np.testing.assert_allclose(value, np.log(2 * B - 1), rtol=1e-5)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_a_row_without_a_positive_costs_nothing():
    z = jnp.float32(unit(np.random.default_rng(0).normal(size=(4, 3))))
    owner = jnp.array([0, 0, 1, 2])
    each, back = jax.vjp(lambda z: similarity.sup_con(z, owner, 1.0), z)
    np.testing.assert_allclose(each, reference(np.float64(z), owner, 1.0), rtol=1e-5)
    np.testing.assert_array_equal(each[2:], 0)
    assert np.isfinite(back(jnp.ones(4))[0]).all()


def test_the_step_reads_the_field_that_is_named():
    assert program_of(resolve({"supcon": {}})).fields() == ("identity", "image")
    named = program_of(resolve({"supcon": {"label": "expression", "second": "twin"}}))
    assert named.fields() == ("expression", "image", "twin")


def test_flops_are_those_that_xla_counts():
    spec = dataclasses.replace(BROAD, global_batch=B)
    config = supcon.Config(hidden=512)
    counted = counted_flops(Case.of(supcon, config, spec))
    np.testing.assert_allclose(supcon.flops(config, spec), counted, rtol=0.02)
    assert SPEC.global_batch == B
