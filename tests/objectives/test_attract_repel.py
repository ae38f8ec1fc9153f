"""Attract and repel against its recursion in float64 NumPy, one class at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import SPEC, B, Case, assert_gradient, moved, take, wide

from facejax.contracts import Tower
from facejax.errors import UserError
from facejax.objectives import _labels, attract_repel

CONFIG = attract_repel.Config.tiny()
OPTIONS = [{}, {"of": "features", "repel": 0.25}, {"field": "attributes", "attract": 0.5}]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def prototypes(anchor, count, x, label, right, repel=1.0):
    anchor, count = np.float64(anchor), np.float64(count)
    for c in range(len(count)):
        pos, neg = x[right & (label == c)], x[right & (label != c)]
        if len(pos):
            n = count[c] + len(pos) + repel * len(neg)
            anchor[c] = (count[c] * anchor[c] + pos.sum(0) - repel * neg.sum(0)) / n
            count[c] = n
    return anchor, count


def reference(config, params, state, feats, batch):
    """The loss, and anchor and count of every label."""
    p = jax.tree.map(np.float64, params["head"])
    pooled = np.float64(feats["image"].pooled)
    values, L = np.asarray(batch[config.field]).reshape(B, -1), len(state["count"])
    logits = (pooled @ p["kernel"] + p["bias"]).reshape(B, L, -1)
    entropy, pulls, counted, anchors, counts = 0.0, [], 0, [], []
    for a in range(L):
        known = np.asarray(batch[f"has_{config.field}"])
        if config.field == "attributes":
            known, label = known & (values[:, a] != 0), (values[:, a] > 0).astype(int)
        else:
            known, label = known & (values[:, a] >= 0), np.maximum(values[:, a], 0)
        own = logits[:, a]
        log_p = own - np.log(np.exp(own).sum(1, keepdims=True))
        entropy -= log_p[np.arange(B), label][known].sum()
        counted += known.sum()
        right = known & (own.argmax(1) == label)
        x = own if config.of == "logits" else pooled
        state_of = state["anchor"][a], state["count"][a]
        anchor, count = prototypes(*state_of, x, label, right, config.repel)
        pulls += [1 - unit(anchor[label[i]]) @ unit(x[i]) for i in np.flatnonzero(right)]
        anchors.append(anchor)
        counts.append(count)
    attract = np.mean(pulls) if pulls else 0.0
    return entropy / counted + config.attract * attract, np.array(anchors), np.array(counts)


def case_of(**options) -> Case:
    """Half of the samples are predicted correctly, and prototypes have moved before."""
    case = moved(Case.of(attract_repel, dataclasses.replace(CONFIG, **options)))
    rng = np.random.default_rng(0)
    state = {
        "anchor": jnp.asarray(rng.normal(size=case.vars.state["anchor"].shape), jnp.float32),
        "count": jnp.asarray(rng.integers(0, 5, case.vars.state["count"].shape), jnp.float32),
    }
    return dataclasses.replace(case, vars=dataclasses.replace(case.vars, state=state))


def logits(given) -> np.ndarray:
    p = jax.tree.map(np.float64, given.params["head"])
    return np.float64(given.feats["image"].pooled) @ p["kernel"] + p["bias"]


def labelled(given, label, known=None):
    fields = {"identity": jnp.asarray(label, jnp.int32)}
    if known is not None:
        fields["has_identity"] = jnp.asarray(known)
    return dataclasses.replace(given, batch=given.batch | fields)


def inputs(case: Case):
    given = case.inputs()
    if case.config.field != "identity":
        return given
    label = np.where(np.arange(B) % 2 == 0, logits(given).argmax(1), given.batch["identity"])
    label[2], label[5] = label[0], -1
    return labelled(given, label)


@pytest.mark.parametrize("options", OPTIONS)
def test_loss_and_prototypes_are_their_formulas(options):
    case = case_of(**options)
    given = inputs(case)
    want, anchor, count = reference(
        case.config, given.params, given.state, given.feats, given.batch
    )
    assert (count != np.asarray(given.state["count"])).any()
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(case.value)(wide(given)), want, rtol=1e-6)
    loss = jax.jit(case.loss)(given)
    np.testing.assert_allclose(jax.jit(case.value)(given), want, rtol=1e-5)
    ctx = case.ctx(given.draw)
    params, state = attract_repel.update(case.config, given.params, given.state, loss.stats, ctx)
    assert params is given.params
    np.testing.assert_allclose(state["anchor"], anchor, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state["count"], count, rtol=1e-6)


@pytest.mark.parametrize("options", OPTIONS)
def test_gradient_is_that_of_the_loss_with_prototypes_fixed(options, monkeypatch):
    """The prototypes depend on the features, but no gradient goes that way."""
    case = case_of(**options)
    given = inputs(case)
    with jax.enable_x64(True):
        whole = jax.jit(case.grads)(wide(given))
        held = jax.jit(case.loss)(wide(given)).stats
    monkeypatch.setattr(attract_repel, "prototypes", lambda *_: held)
    assert_gradient(case, given, rtol=1e-6)
    with jax.enable_x64(True):
        fixed = jax.jit(case.grads)(wide(given))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), whole, fixed)


def only_one_right(case: Case):
    """Sample 0 has its right class and all others have a wrong one."""
    given = inputs(case)
    found = logits(given)
    return labelled(given, np.where(np.arange(B) == 0, found.argmax(1), found.argmin(1)))


def test_a_sample_at_its_prototype_costs_nothing():
    """A class that starts with one sample has that sample for its prototype, at any length."""
    case = Case.of(attract_repel)
    given = only_one_right(case)
    loss = jax.jit(case.loss)(given)
    np.testing.assert_allclose(loss.terms["attract"].value(), 0, atol=1e-6)
    assert float(loss.metrics["accuracy"].value()) == 1 / B
    longer = dataclasses.replace(given, state={**given.state, "anchor": 7 * loss.stats["anchor"]})
    again = jax.jit(case.loss)(longer).terms["attract"].value()
    np.testing.assert_allclose(again, 0, atol=1e-6)


def test_with_one_class_the_prototype_is_the_running_mean():
    spec = dataclasses.replace(SPEC, classes={"identity": 1})
    case = Case.of(attract_repel, dataclasses.replace(CONFIG, of="features"), spec)
    state, seen, step = case.vars.state, [], jax.jit(case.loss)
    for seed in range(3):
        given = labelled(case.inputs(seed=seed), np.zeros(B))
        state = step(dataclasses.replace(given, state=state)).stats
        seen.append(given.feats["image"].pooled)
        np.testing.assert_allclose(state["anchor"][0, 0], np.concatenate(seen).mean(0), atol=1e-6)
        assert float(state["count"][0, 0]) == B * len(seen)


def test_without_a_correct_sample_nothing_attracts_and_nothing_moves():
    case = case_of()
    given = only_one_right(case)
    wrong = labelled(given, given.batch["identity"], np.arange(B) > 0)
    loss = jax.jit(case.loss)(wrong)
    assert float(loss.metrics["accuracy"].value()) == 0
    assert float(loss.terms["attract"].value()) == 0
    jax.tree.map(np.testing.assert_array_equal, loss.stats, given.state)


def test_unknown_labels_take_no_part():
    case = case_of()
    given = inputs(case)
    few = np.array([0, 2, 3, 6])
    compiled = jax.jit(lambda g: (case.loss(g), case.grads(g)))
    got, _ = compiled(labelled(given, given.batch["identity"], np.isin(np.arange(B), few)))
    want = jax.jit(case.loss)(take(given, few))
    for name, term in want.terms.items():
        np.testing.assert_allclose(got.terms[name].value(), term.value(), rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got.stats, want.stats)
    none, grads = compiled(labelled(given, given.batch["identity"], np.zeros(B, bool)))
    assert all(float(t.value()) == 0 for t in none.terms.values())
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_a_field_without_classes_is_named():
    with pytest.raises(UserError, match="field: no source has classes of 'expresion'") as error:
        _labels.shape(SPEC, "expresion")
    assert error.value.where == "field"
    assert attract_repel.fields(attract_repel.Config(field="expression")) == ("expression",)


def test_flops_are_those_that_xla_counts():
    tower = Tower(512, 512, 16, 1, size=224, depth=12)
    spec = dataclasses.replace(SPEC, classes={"identity": 4000}, towers={"encoder": tower})
    config = attract_repel.Config(of="features")
    params = jax.eval_shape(lambda: attract_repel.init(config, jax.random.key(0), spec).params)
    x = jax.ShapeDtypeStruct((B, 512), jnp.float32)
    head = jax.jit(lambda p, x: x @ p["head"]["kernel"] + p["head"]["bias"][None])
    counted = head.lower(params, x).cost_analysis()["flops"] / B
    np.testing.assert_allclose(attract_repel.flops(config, spec), counted, rtol=0.02)
