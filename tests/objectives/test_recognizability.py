"""Recognizability: its index, its directions, and what its head learns of unrecognisable faces."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from made_up import B, Case, assert_gradient
from numpy_heads import unit

from facejax.contracts import Ema
from facejax.losses import sum_terms
from facejax.objectives import recognizability

CONFIG = dataclasses.replace(recognizability.Config.tiny(), dropout=0.0)


def case_of(**options) -> Case:
    case = Case.of(recognizability, dataclasses.replace(CONFIG, **options))
    centres = case.vars.sparse["centres"]
    longer = dataclasses.replace(centres, value=100 * centres.value)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32), case.vars.params
    )
    variables = dataclasses.replace(case.vars, params=params, sparse={"centres": longer})
    return dataclasses.replace(case, vars=variables)


def directed(case, given):
    """With a direction of unrecognisable faces that earlier batches left."""
    u = np.random.default_rng(5).normal(size=8)
    state = {"direction": unit(u), "mean": 0.1, "deviation": 0.4}
    return dataclasses.replace(given, state=jax.tree.map(jnp.float32, state))


def test_terms_are_their_formulas():
    case = case_of(rate=0.25)
    given = directed(case, case.inputs())
    found = jax.jit(case.loss)(given)
    cfg, params = case.config, jax.tree.map(np.float64, given.params)
    v = unit(np.float64(given.feats["image"].pooled))
    poor = unit(np.float64(given.feats["poor"].pooled))

    def head(x):
        return (x @ params["index"]["kernel"] + params["index"]["bias"])[:, 0]

    u = unit(0.75 * np.float64(given.state["direction"]) + 0.25 * poor.mean(0))
    mean = 0.75 * 0.1 + 0.25 * head(poor).mean()
    deviation = 0.75 * 0.4 + 0.25 * head(poor).std()
    for name, want in (("direction", u), ("mean", mean), ("deviation", deviation)):
        np.testing.assert_allclose(found.stats[name], want, rtol=1e-5)

    cosine = v @ unit(np.float64(case.vars.sparse["centres"].value)[:12]).T
    labels = np.asarray(given.batch["identity"])
    own = np.arccos(cosine[np.arange(B), labels])
    other = np.arccos([np.delete(c, y).max() for c, y in zip(cosine, labels)])
    xi = (1 - v @ u) * other / (own + other)
    gap = np.abs(head(v) - xi)
    smooth = np.where(gap < 0.75, gap**2 / 1.5, gap - 0.375)
    np.testing.assert_allclose(found.terms["index"].value(), smooth.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.metrics["xi"].value(), xi.mean(), rtol=1e-5)
    short = np.maximum(0, cfg.gap - (head(v) - mean) / deviation)
    np.testing.assert_allclose(found.terms["diversion"].value(), short.mean(), rtol=1e-5)

    tokens, attention = np.float64(given.feats["image"].tokens), params["attention"]
    score = tokens @ attention["score"]["kernel"] + attention["score"]["bias"]
    weight = np.exp(score) / np.exp(score).sum(1, keepdims=True)
    pooled = (weight * tokens).sum(1) @ attention["out"]["kernel"] + attention["out"]["bias"]
    clear = v - (v @ u)[:, None] * u
    np.testing.assert_allclose(clear @ u, 0, atol=1e-12)
    want = np.mean((pooled - clear) ** 2)
    np.testing.assert_allclose(found.terms["attention"].value(), want, rtol=1e-5)


def test_gradient_is_that_of_the_loss_where_targets_stand_still():
    # Its targets move with the embedding and pass no gradient, so only the heads can be compared.
    case = case_of(weight_index=0.0, weight_attention=0.0)
    given = directed(case, case.inputs())
    # What is known of unrecognisable faces depends on the head: nothing new is learned here.
    still = dataclasses.replace(case, config=dataclasses.replace(case.config, rate=0.0))
    assert_gradient(still, given, rtol=1e-5)


def test_no_gradient_reaches_targets_or_unrecognisable_faces():
    case = case_of()
    given = directed(case, case.inputs())
    assert isinstance(case.passes["poor"].weights, Ema)
    grads = jax.jit(case.grads)(given)["feats"]
    assert (grads["poor"]["pooled"] == 0).all()

    def attention_alone(pooled):
        images = dataclasses.replace(given.feats["image"], pooled=pooled)
        now = dataclasses.replace(given, feats={**given.feats, "image": images})
        return case.loss(now).terms["attention"].value()

    assert (jax.jit(jax.grad(attention_alone))(given.feats["image"].pooled) == 0).all()


def test_the_index_follows_each_distance():
    base = {"to_poor": 1.0, "own": 0.6, "other": 1.3}
    values = {k: jnp.float32(v) for k, v in base.items()}
    slope = jax.grad(lambda at: recognizability.index(**at))(values)
    assert slope["to_poor"] > 0
    assert slope["other"] > 0
    assert slope["own"] < 0
    assert recognizability.index(jnp.float32(1), jnp.float32(0), jnp.float32(0)) == 0


def test_the_first_batch_sets_what_is_known_of_unrecognisable_faces():
    case = case_of(rate=0.01)
    stats = jax.jit(case.loss)(case.inputs()).stats
    poor = unit(np.float64(case.inputs().feats["poor"].pooled))
    np.testing.assert_allclose(stats["direction"], unit(poor.mean(0)), rtol=1e-4)


def test_the_head_learns_to_place_unrecognisable_faces_below_the_others():
    case = case_of(dropout=0.2)
    rng = np.random.default_rng(2)
    away = np.float32(unit(rng.normal(size=(B, 8))))
    together = np.float32(unit(rng.normal(size=8)) + 0.1 * rng.normal(size=(B, 8)))
    given = case.inputs()
    feats = {
        "image": dataclasses.replace(given.feats["image"], pooled=jnp.asarray(away)),
        "poor": dataclasses.replace(given.feats["poor"], pooled=jnp.asarray(together)),
    }
    given = dataclasses.replace(given, feats=feats)

    @jax.jit
    def step(params, state):
        now = dataclasses.replace(given, params=params, state=state)

        def value(params):
            loss = case.loss(now, {**case.trained(now), "params": params})
            return sum_terms(loss), loss.stats

        grads, state = jax.grad(value, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), state

    params, state = given.params, given.state
    for _ in range(200):
        params, state = step(params, state)
    sharp, poor = (recognizability.predict(params, jnp.asarray(unit(x))) for x in (away, together))
    assert poor.max() < sharp.mean()
    assert poor.mean() + 2 * poor.std() < sharp.mean()
