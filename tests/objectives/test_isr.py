"""ISR against its formulas in float64 NumPy, with scipy's matching."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import SPEC, B, Case, assert_gradient, batch, features, moved, wide
from scipy.optimize import linear_sum_assignment

from facejax.contracts import Tower
from facejax.objectives import isr
from facejax.ops import matching

CONFIG = isr.Config.tiny()
CLIP, FRAME = np.arange(B) // 4, np.arange(B) // 2 % 2
matches = jax.jit(isr.matches, static_argnums=0)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def reference_matches(z, clip, frame, config):
    """(earlier, later, reliability) of every match."""
    found, weight = [], z @ z.T
    for c in np.unique(clip):
        for t in np.unique(frame):
            x = np.flatnonzero((clip == c) & (frame == t))
            y = np.flatnonzero((clip == c) & (frame == t + config.delta))
            w = weight[np.ix_(x, y)]
            for i, j in zip(*linear_sum_assignment(np.maximum(w, 0), maximize=True)):
                if w[i, j] > 0:
                    r = 1.0
                    if config.tau_r:
                        sharp = w / config.tau_r
                        r = (softmax(sharp[i])[j] + softmax(sharp[:, j])[i]) / 2
                    found.append((x[i], y[j], r))
    return found


def projections(params, feats):
    return unit(np.float64(feats["crop"].pooled) @ np.float64(params["projector"]["kernel"]))


def reference(config, params, feats, clip, frame):
    z = projections(params, feats)
    value = total = 0.0
    for i, j, r in reference_matches(z, clip, frame, config):
        for anchor, other in ((i, j), (j, i)):
            positive = np.exp(z[anchor] @ z[other] / config.tau)
            rest = [k for k in range(len(z)) if k not in (anchor, other)]
            if not config.uncertain:
                sure = (clip != clip[anchor]) | (frame == frame[anchor])
                rest = [k for k in rest if sure[k]]
            negative = sum(np.exp(z[anchor] @ z[k] / config.tau) for k in rest)
            value -= r * np.log(positive / (positive + negative))
            total += r
    return value / total


def case_of(**options) -> Case:
    return moved(Case.of(isr, dataclasses.replace(CONFIG, **options)))


def inputs(case: Case, frame=FRAME):
    """Later crops of a clip are its earlier ones in the other order, and noise."""
    given, rng = case.inputs(), np.random.default_rng(1)
    x = np.array(given.feats["crop"].pooled)
    for clip in range(2):
        first, later = 4 * clip, 4 * clip + 2
        x[later : later + 2] = x[[first + 1, first]] + 0.7 * rng.normal(size=(2, 8))
    crop = dataclasses.replace(given.feats["crop"], pooled=jnp.asarray(x, jnp.float32))
    frames = {"frame": jnp.asarray(frame, jnp.int32)}
    return dataclasses.replace(given, feats={"crop": crop}, batch=given.batch | frames)


@pytest.mark.parametrize(
    ("options", "frame"),
    [
        ({}, FRAME),
        ({"tau_r": None, "tau": 0.3}, FRAME),
        ({"uncertain": False}, FRAME),
        ({"delta": 5, "uncertain": False}, 5 * FRAME),
        ({"uncertain": False}, np.array([0, 1, 2, 3, 0, 0, 0, 1])),  # a chain; three for one
    ],
)
def test_loss_is_its_formula(options, frame):
    case = case_of(**options)
    given = inputs(case, frame)
    want = reference(case.config, given.params, given.feats, CLIP, frame)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(case.value)(wide(given)), want, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(case.value)(given), want, rtol=1e-5)


def test_gradient_is_that_of_the_loss_with_matching_and_reliability_fixed(monkeypatch):
    case = case_of()
    given = inputs(case)
    with jax.enable_x64(True):
        whole = jax.jit(case.grads)(wide(given))
        z = wide(given).feats["crop"].pooled @ wide(given).params["projector"]["kernel"]
        z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
        held = matches(case.config, z, CLIP, FRAME, np.ones(B, bool))
    monkeypatch.setattr(isr, "matches", lambda *_: held)
    assert_gradient(case, given, rtol=1e-6)
    with jax.enable_x64(True):
        fixed = jax.jit(case.grads)(wide(given))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), whole, fixed)


def test_order_of_the_later_crops_is_undone():
    rng = np.random.default_rng(0)
    people = unit(rng.normal(size=(12, 16)))
    order = rng.permutation(12)
    z = np.concatenate([people, unit(people + 0.1 * rng.normal(size=people.shape))[order]])
    frame = np.arange(24) // 12
    arguments = np.float32(z), np.zeros(24, np.int32), frame, np.ones(24, bool)
    match, reliability = matches(CONFIG, *arguments)
    np.testing.assert_array_equal(match[:12], 12 + np.argsort(order))
    np.testing.assert_array_equal(match[12:], -1)
    assert (np.asarray(reliability)[:12] > 0.9).all()
    np.testing.assert_array_equal(reliability[12:], 0)


def test_a_person_who_left_is_matched_with_low_reliability():
    rng = np.random.default_rng(1)
    z = unit(rng.normal(size=(16, 32)))
    z[8:15] = unit(z[:7] + 0.02 * rng.normal(size=(7, 32)))  # person 7 left, and a stranger came
    z[15] = unit(z[15] + 0.2 * z[7])
    match, r = matches(CONFIG, np.float32(z), np.zeros(16), np.arange(16) // 8, np.ones(16, bool))
    np.testing.assert_array_equal(match[:8], np.arange(8, 16))
    assert np.asarray(r)[:7].min() > 0.95
    assert float(r[7]) < 0.8


def test_with_equal_weights_it_is_the_mean_info_nce():
    """And a match that is weighed down counts less."""
    case = case_of(tau_r=None)
    given = inputs(case)
    z = projections(given.params, given.feats)
    logits = z @ z.T / CONFIG.tau
    np.fill_diagonal(logits, -np.inf)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    found = reference_matches(z, CLIP, FRAME, case.config)
    assert len(found) == 4
    want = -np.mean([log_p[pair] for i, j, _ in found for pair in ((i, j), (j, i))])
    np.testing.assert_allclose(jax.jit(case.value)(given), want, rtol=1e-5)


def test_crops_of_other_clips_and_times_are_never_matched():
    z = np.float32(unit(np.ones((6, 4))))
    clip, frame = np.array([0, 1, 0, 0, 2, 2]), np.array([0, 1, 2, 0, 1, 0])
    match, _ = matches(CONFIG, z, clip, frame, np.ones(6, bool))
    np.testing.assert_array_equal(match, [-1, -1, -1, -1, -1, 4])
    known = np.array([1, 1, 1, 1, 0, 1], bool)
    np.testing.assert_array_equal(matches(CONFIG, z, clip, frame, known)[0], -1)


def test_without_a_match_the_loss_is_0_and_finite():
    case = case_of()
    given = inputs(case, np.zeros(B))
    value, grads = jax.jit(lambda g: (case.value(g), case.grads(g)))(given)
    assert float(value) == 0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


def test_reliable_matches_teach_more_than_all_alike():
    """Three of ten people leave between the frames and strangers come, whom they are matched with.

    A linear map that learns which part of the features is noise retrieves unseen people.
    """
    people, width, kept = 32, 24, 8
    tower = Tower(width, width, 4, 1, size=16, depth=1)
    spec = dataclasses.replace(SPEC, towers={"encoder": tower})
    faces = np.random.default_rng(0).normal(size=(500, width)) * (np.arange(width) < kept)
    noise = np.where(np.arange(width) < kept, 0.2, 1.0)

    def crops(who, rng):
        return np.float32(faces[who] + noise * rng.normal(size=(len(who), width)))

    fields = {"clip": np.zeros(2 * people, np.int32), "frame": np.arange(2 * people) // people}
    known = {f"has_{name}": np.ones(2 * people, bool) for name in fields}

    def recall(tau_r):
        case = Case.of(isr, dataclasses.replace(CONFIG, tau_r=tau_r), spec)
        given = dataclasses.replace(case.inputs(), batch=fields | known)

        @jax.jit
        def step(params, x):
            crop = dataclasses.replace(given.feats["crop"], pooled=x)
            grads = case.grads(dataclasses.replace(given, params=params, feats={"crop": crop}))
            return jax.tree.map(lambda p, g: p - 2.0 * g, params, grads["params"])

        rng, params = np.random.default_rng(1), given.params
        for _ in range(100):
            who = rng.permutation(200)[:people]
            strangers = 200 + rng.permutation(200)[:people]
            later = np.where(np.arange(people) < 0.3 * people, strangers, who)
            params = step(params, np.concatenate([crops(who, rng), crops(later, rng)]))
        unseen = np.arange(400, 500)
        kernel = np.asarray(params["projector"]["kernel"])
        probe, gallery = (unit(crops(unseen, rng) @ kernel) for _ in range(2))
        return np.mean((probe @ gallery.T).argmax(1) == np.arange(len(unseen)))

    weighted, alike = recall(0.1), recall(None)
    assert weighted > 0.85
    assert alike < weighted - 0.15


def test_flops_are_those_that_xla_counts(monkeypatch):
    """Without the rounds of the auction, whose number depends on the data."""
    tower = Tower(512, 512, 16, 1, size=224, depth=12)
    spec = dataclasses.replace(SPEC, towers={"encoder": tower})
    config = isr.Config()
    params = jax.eval_shape(lambda: isr.init(config, jax.random.key(0), spec).params)
    case = Case(isr, config, None, spec)
    crop = jax.eval_shape(lambda: features(case.passes["crop"], spec))
    monkeypatch.setattr(matching, "assign_blocks", lambda weight, _: jnp.zeros(B, jnp.int32))

    def loss(params, feats):
        return isr.loss(config, params, {}, {}, feats, batch(), case.ctx(None)).terms

    counted = jax.jit(loss).lower(params, {"crop": crop}).cost_analysis()["flops"] / B
    np.testing.assert_allclose(isr.flops(config, spec), counted, rtol=0.02)
