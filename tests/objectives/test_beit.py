"""BEiT against its formula in float64 NumPy, and its codebook against plain k-means."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import SPEC, B, Case, assert_gradient, moved, wide
from reference import linear, patches_of
from support import program_of, resolve

from facejax.contracts import Aug, Features, Tower
from facejax.objectives import beit

CONFIG = beit.Config.tiny()


def codes_of(image, centres, patch=4):
    """i64[B, N]: the nearest centre of each patch, one by one."""
    x = patches_of(np.float64(image), patch)
    away = ((x[:, :, None] - np.float64(centres)[None, None]) ** 2).sum(-1)
    return away.argmin(-1)


def reference(params, feats, codes):
    logits = linear(np.float64(feats.tokens), jax.tree.map(np.float64, params)["head"])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    places = np.argwhere(np.asarray(feats.mask) == 1)
    return -np.mean([log_p[b, n, codes[b, n]] for b, n in places])


@pytest.fixture(scope="module")
def case() -> Case:
    return moved(Case.of(beit))


@pytest.fixture(scope="module")
def exact(case) -> Case:
    return dataclasses.replace(case, config=dataclasses.replace(CONFIG, dtype="float64"))


@pytest.fixture(scope="module")
def loss_of(case):
    return jax.jit(case.loss)


def test_loss_is_its_formula(case, exact, loss_of):
    given = case.inputs()
    feats = given.feats["student"]
    codes = codes_of(feats.view["image"], given.state["centres"])
    want = reference(given.params, feats, codes)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(exact.value)(wide(given)), want, rtol=1e-6)
    loss = loss_of(given)
    np.testing.assert_allclose(loss.terms["codes"].value(), want, rtol=1e-5)
    masked = np.asarray(feats.mask) == 1
    assert float(loss.terms["codes"].count) == masked.sum()
    logits = linear(np.float64(feats.tokens), jax.tree.map(np.float64, given.params)["head"])
    accuracy = (logits.argmax(-1) == codes)[masked].mean()
    np.testing.assert_allclose(loss.metrics["accuracy"].value(), accuracy, rtol=1e-6)


def test_gradient_is_that_of_the_loss(exact):
    assert_gradient(exact, exact.inputs(), rtol=1e-6)


def test_zero_logits_give_log_k(case, loss_of):
    given = case.inputs("zero")
    zero = dataclasses.replace(given, params=jax.tree.map(jnp.zeros_like, given.params))
    np.testing.assert_allclose(loss_of(zero).terms["codes"].value(), np.log(6), rtol=1e-6)


def test_unmasked_patches_have_no_part(case):
    given = case.inputs()
    grads = np.asarray(jax.jit(case.grads)(given)["feats"]["student"]["tokens"])
    masked = np.asarray(given.feats["student"].mask) == 1
    assert (grads[~masked] == 0).all()
    assert (np.abs(grads[masked]).max(-1) > 0).all()


# ------------------------------------------------------------------------------------ codebook


def test_patches_are_described_at_low_resolution():
    image = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    found = np.asarray(beit.described(jnp.asarray(image), 16))
    want = image.reshape(2, 16, 2, 16, 2, 3).mean((2, 4))
    np.testing.assert_allclose(found, patches_of(want, 8), atol=1e-6)
    np.testing.assert_array_equal(beit.described(jnp.asarray(image), 4), patches_of(image, 4))
    assert [beit._side(p) for p in (14, 16, 7, 32)] == [7, 8, 7, 8]


@pytest.fixture(scope="module")
def updated(case):
    """(state, stats, step) -> state."""

    @jax.jit
    def update(state, stats, step=0):
        ctx = dataclasses.replace(case.ctx(case.inputs().draw), step=step)
        config = dataclasses.replace(CONFIG, learn=0.5)
        return beit.update(config, {}, state, stats, ctx)[1]

    return update


def trained(given, loss_of, updated, rounds):
    """State and distance of patches to their centres after each of some rounds on one batch."""
    state, distances = given.state, []
    for seed in range(rounds):
        draw = dataclasses.replace(given.draw, key=jax.random.key(seed))
        loss = loss_of(dataclasses.replace(given, state=state, draw=draw))
        distances.append(float(loss.metrics["distance"].value()))
        state = updated(state, loss.stats)
    return state, distances


def test_update_is_a_step_of_kmeans_with_decayed_counts(case, loss_of, updated):
    given = case.inputs()
    feats = given.feats["student"]
    count = jnp.arange(6.0) * 10
    found = updated({**given.state, "count": count}, loss_of(given).stats)
    codes = codes_of(feats.view["image"], given.state["centres"])
    x, masked = patches_of(np.float64(feats.view["image"]), 4), np.asarray(feats.mask) == 1
    for k in range(1, 6):
        own = x[masked & (codes == k)]
        before = 0.99 * 10 * k
        total = before * np.float64(given.state["centres"][k]) + own.sum(0)
        np.testing.assert_allclose(found["count"][k], before + len(own), rtol=1e-6)
        np.testing.assert_allclose(found["centres"][k], total / (before + len(own)), rtol=1e-4)


def test_a_centre_that_nothing_is_near_restarts_at_a_patch_of_the_batch(case, loss_of, updated):
    given = case.inputs()
    far = {"centres": given.state["centres"].at[1:].add(100.0), "count": jnp.zeros(6)}
    given = dataclasses.replace(given, state=far)
    feats = given.feats["student"]
    patches = patches_of(np.asarray(feats.view["image"]), 4)[np.asarray(feats.mask) == 1]
    first = np.asarray(trained(given, loss_of, updated, 1)[0]["centres"])
    restarted = [centre for centre in first[1:] if np.abs(centre).max() < 50]
    assert restarted
    for centre in restarted:
        assert np.abs(patches - centre).max(1).min() < 1e-6
    assert np.abs(trained(given, loss_of, updated, 30)[0]["centres"]).max() < 50


def test_codebook_is_frozen_after_its_share_of_the_run(case, loss_of, updated):
    given = case.inputs()
    stats = loss_of(given).stats
    for step, moves in ((0, True), (4, True), (5, False), (9, False)):
        found = updated(given.state, stats, step)
        changed = (np.asarray(found["centres"]) != np.asarray(given.state["centres"])).any()
        assert changed == moves, step


def test_repeated_updates_find_the_clusters_of_the_patches(case, loss_of, updated):
    """Six colours: after a few steps patches lie near their centres."""
    rng = np.random.default_rng(0)
    colours = rng.normal(size=(6, 3)) * 3
    squares = colours[rng.integers(0, 6, (B, 4, 4))].repeat(4, 1).repeat(4, 2)
    given = case.inputs()
    feats = given.feats["student"]
    shown = {**feats.view, "image": jnp.asarray(squares, jnp.float32)}
    given = dataclasses.replace(given, feats={"student": dataclasses.replace(feats, view=shown)})
    _, distances = trained(given, loss_of, updated, 20)
    assert distances[-1] < 0.05 * distances[0]


# --------------------------------------------------------------------------------- from a field


def test_codes_of_a_field_belong_to_the_whole_image_and_may_be_unknown():
    config = dataclasses.replace(CONFIG, codes="field")
    case = moved(Case.of(beit, config))
    assert not case.vars.state
    assert case.passes["codes"].cached == "codes"
    still = Aug(16, jitter=(0.4, 0.4, 0.4, 0.0), jitter_p=1.0, **SPEC.aug)
    assert case.passes["student"].view.aug == still
    given = case.inputs()
    codes = np.random.default_rng(0).integers(0, 6, (B, 16)).astype(np.int32)
    has = jnp.arange(B) != 3
    student = given.feats["student"]
    feats = {"student": student, "codes": Features(pooled=jnp.asarray(codes))}
    batch = {**given.batch, "has_codes": has}
    ctx = case.ctx(given.draw)
    loss = beit.loss(config, given.params, {}, {}, feats, batch, ctx)
    known = dataclasses.replace(student, mask=jnp.where(has[:, None], student.mask, 0))
    np.testing.assert_allclose(
        loss.terms["codes"].value(), reference(given.params, known, codes), rtol=1e-5
    )
    assert beit.update(config, given.params, {}, loss.stats, ctx) == (given.params, {})
    program = program_of(resolve({"beit": {"codes": "field"}}))
    assert "codes" in program.fields()


def test_flops_are_those_that_xla_counts():
    tower = Tower(256, 256, 16, 1, size=64, depth=1)
    spec = dataclasses.replace(SPEC, size=64, towers={"encoder": tower})
    config = beit.Config(vocabulary=512, ratio=0.5)
    tokens, x = jnp.zeros((B, 8, 256)), jnp.zeros((B, 8, 192))
    params = beit.init(config, jax.random.key(0), spec)
    head = jax.jit(lambda t: t @ params.params["head"]["kernel"]).lower(tokens)
    search = jax.jit(lambda x: beit.nearest(x, params.state["centres"])).lower(x)
    counted = [low.cost_analysis()["flops"] / B for low in (head, search)]
    want = counted[0] + counted[1] / 3
    np.testing.assert_allclose(beit.flops(config, spec), want, rtol=0.02)
