"""GenView: quality against NumPy's own principal component, weights, and what it looks at."""

import dataclasses

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
from made_up import SPEC, B, Rewriting, base
from support import assert_close, batch_of, program_of, resolve, steps

from facejax import state
from facejax.contracts import Aug, Ema, Features, Frozen, Pass, Student, TowerSpec, View
from facejax.encoders import toy
from facejax.errors import UserError
from facejax.modifiers import genview
from facejax.objectives import simclr
from facejax.ops import masking
from facejax.step import train_step

WIDTH, N, D = 6, 16, 5


@pytest.fixture(scope="module")
def case() -> Rewriting:
    return Rewriting.of(genview, WIDTH)


def tokens(seed: int = 0) -> dict[str, Features]:
    """Patches of two views: a bright middle and a changing edge, along one direction."""
    rng = np.random.default_rng(seed)
    middle = np.zeros((4, 4))
    middle[1:3, 1:3] = 3.0
    made = rng.normal(size=(2, B, N, D)) + middle.ravel()[:, None] * rng.normal(size=D)
    return {name: Features(tokens=jnp.asarray(x, jnp.float32)) for name, x in zip("ab", made)}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(a, b):
    """Similarities of the foregrounds and of the backgrounds, with the axis from an SVD."""
    every = np.concatenate([a, b]).reshape(-1, D)
    axis = np.linalg.svd(every - every.mean(0))[2][0]
    place = np.arange(4) - 1.5
    near = -(place[:, None] ** 2 + place[None] ** 2).ravel()
    if np.corrcoef(every @ axis, np.tile(near, 2 * B))[0, 1] < 0:
        axis = -axis
    pooled = {"front": [], "back": []}
    for view in (a, b):
        score = view @ axis
        low, high = score.min(1, keepdims=True), score.max(1, keepdims=True)
        share = (score - low) / (high - low)
        for name, s in (("front", share), ("back", 1 - share)):
            weight = s / s.sum(1, keepdims=True)
            pooled[name].append(unit((weight[..., None] * view).sum(1)))
    return [(x * y).sum(-1) for x, y in pooled.values()]


@pytest.mark.parametrize("gamma", [1.0, 4.0])
def test_weights_are_their_formula(gamma):
    case = Rewriting.of(genview, WIDTH, gamma=gamma)
    feats, pairs = tokens(), made_up.unit(made_up.pairs(WIDTH))
    a, b = (np.float64(feats[name].tokens) for name in "ab")
    front, back = reference(a, b)
    score = np.exp(gamma * (front - back))
    want = B * score / score.sum()
    out, loss = case(case.inputs(pairs, feats=feats))
    np.testing.assert_allclose(out.weight, want, rtol=1e-4)
    np.testing.assert_allclose(jnp.sum(out.weight), B, rtol=1e-6)
    np.testing.assert_allclose(loss.metrics["foreground"].value(), front.mean(), rtol=1e-4)
    np.testing.assert_allclose(loss.metrics["background"].value(), back.mean(), rtol=1e-4)
    np.testing.assert_allclose(loss.metrics["largest_weight"].value(), want.max(), rtol=1e-4)
    assert loss.metrics["quality"].counts.sum() == B
    assert not loss.terms
    with jax.enable_x64(True):
        wide = made_up.wide(feats)
        found = genview.quality(wide["a"].tokens, wide["b"].tokens)
        np.testing.assert_allclose(found, (front, back), rtol=1e-6)


def test_each_anchor_has_the_weight_of_its_image(case):
    plain, _ = case(case.inputs(made_up.pairs(WIDTH), feats=tokens()))
    pairs = made_up.two_views(WIDTH)
    pairs = dataclasses.replace(pairs, weight=0.5 * pairs.weight)
    out, _ = case(case.inputs(pairs, feats=tokens()))
    np.testing.assert_allclose(out.weight, 0.5 * np.tile(plain.weight, 2), rtol=1e-6)
    rows = np.arange(2 * B)[::-1] // 2
    mixed = dataclasses.replace(pairs, owner=jnp.asarray(rows))
    out, _ = case(case.inputs(mixed, feats=tokens()))
    np.testing.assert_allclose(out.weight, 0.5 * np.asarray(plain.weight)[rows], rtol=1e-6)


def test_equal_quality_or_gamma_0_is_the_base(case):
    pairs = made_up.unit(made_up.pairs(WIDTH))
    same = {name: Features(tokens=jnp.tile(f.tokens[:1], (B, 1, 1)))
            for name, f in tokens().items()}  # fmt: skip
    out, _ = case(case.inputs(pairs, feats=same))
    np.testing.assert_allclose(out.weight, 1, rtol=1e-5)
    flat = Rewriting.of(genview, WIDTH, gamma=0.0)
    out, _ = flat(flat.inputs(pairs, feats=tokens()))
    np.testing.assert_array_equal(out.weight, pairs.weight)
    assert base(out) == base(pairs)


def test_weight_rises_with_a_common_foreground_and_falls_with_a_common_background():
    front, back = np.random.default_rng(0).uniform(-1, 1, (2, B)).astype(np.float32)
    before = genview.weights(1.0, jnp.asarray(front), jnp.asarray(back))
    up = genview.weights(1.0, jnp.asarray(front).at[3].add(0.2), jnp.asarray(back))
    down = genview.weights(1.0, jnp.asarray(front), jnp.asarray(back).at[3].add(0.2))
    others = np.arange(B) != 3
    for found, sign in ((up, 1), (down, -1)):
        assert (found[3] - before[3]) * sign > 0
        assert ((found - before)[others] * sign < 0).all()
        np.testing.assert_allclose(found.sum(), B, rtol=1e-6)


def test_views_that_share_their_middle_are_a_better_pair():
    """Before different edges: an image's own middle in both views, against another image's."""
    rng = np.random.default_rng(0)
    inside = np.zeros(N, bool)
    inside[[5, 6, 9, 10]] = True
    faces = 3.0 + rng.normal(size=(B, 1, D))
    a, b = (np.where(inside[None, :, None], faces, rng.normal(size=(B, 1, D))) for _ in "ab")
    b[0] = np.where(inside[:, None], -faces[0] + 6, b[0])
    noise = 0.01 * rng.normal(size=(2, B, N, D))
    front, _ = genview.quality(*(jnp.float32(x + n) for x, n in zip((a, b), noise)))
    assert front[0] < front[1:].min()


def test_the_middle_of_the_views_is_foreground_whatever_the_sign():
    feats = tokens()
    a, b = (feats[name].tokens for name in "ab")
    front, back = genview.quality(a, b)
    mirrored = genview.quality(-a, -b)
    np.testing.assert_allclose(mirrored, (front, back), rtol=1e-4)
    axis = genview.principal(jnp.concatenate([a, b]).reshape(-1, D))
    share = genview.foreground(a, jnp.where(genview.centred(a @ axis) < 0, -axis, axis))
    inside = np.asarray(share).reshape(B, 4, 4)[:, 1:3, 1:3]
    assert inside.mean() > share.mean() + 0.2
    assert share.min() == 0
    np.testing.assert_allclose(share.max(1), 1)


def test_no_gradient_reaches_the_features(case):
    pairs = made_up.unit(made_up.pairs(WIDTH))
    grads = jax.grad(lambda feats: case.value(case.inputs(pairs, feats=feats)))(tokens())
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("kind", ["zero", "equal"])
def test_features_without_a_spread_weigh_all_alike(case, kind):
    x = made_up.maker(kind, 0)(B, N, D)
    feats = dict.fromkeys("ab", Features(tokens=x))
    out, _ = case(case.inputs(made_up.pairs(WIDTH), feats=feats))
    np.testing.assert_allclose(out.weight, 1, rtol=1e-6)


def test_it_looks_at_the_first_two_views_of_the_base():
    a, b, c = (View(aug=Aug(16), draw=draw) for draw in "abc")
    asked = {
        "masked": Pass(a, masking.Random(0.5)),
        "query_a": Pass(a),
        "query_b": Pass(b),
        "key_a": Pass(a, weights=Ema()),
        "key_c": Pass(c, weights=Ema()),
    }
    cfg = genview.Config(encoder="runs/clip")
    fixed = Frozen("runs/clip")
    assert genview.passes(cfg, asked, SPEC) == {
        "a": Pass(a, weights=fixed, outputs=("tokens",)),
        "b": Pass(b, weights=fixed, outputs=("tokens",)),
    }
    moco = {"query": Pass(a), "key_0": Pass(c, weights=Ema())}
    found = genview.passes(genview.Config(), moco, SPEC)
    assert [p.weights for p in found.values()] == [Student(), Ema()]
    with pytest.raises(UserError, match="one view only"):
        genview.passes(cfg, {"only": Pass(a), "again": Pass(a, weights=Ema())}, SPEC)


# ------------------------------------------------------------------------- through the step


def run_of(**keys):
    simclr = {"hidden": 16, "out": 8, "depth": 2, "norm": "none"}
    frozen = keys.pop("encoder", None)
    return resolve({"simclr": {**simclr, "modifiers": {"genview": {"encoder": frozen}}}}, **keys)


@pytest.fixture(scope="module")
def teacher():
    config = toy.Config.tiny()
    weights = toy.init(config, jax.random.key(7), TowerSpec())
    return {"frozen": {"teacher": (toy, config)}, "frozen_params": {"teacher": weights}}


def test_its_features_come_out_of_the_step(teacher):
    """The run's own patches, or a fixed encoder's, which is no part of the state."""
    own, (first,) = steps(run_of(), 1)
    other, (second,) = steps(run_of(encoder="teacher"), 1, **teacher)
    assert jax.tree.structure(own) == jax.tree.structure(other)
    for metrics in (first, second):
        assert metrics["simclr/genview.quality"].counts.sum() == 8
        assert 1 < metrics["simclr/genview.largest_weight"] < 8
    assert first["simclr/genview.foreground"] != second["simclr/genview.foreground"]


def test_an_objective_sees_its_own_features_alone(monkeypatch, teacher):
    loss, seen = simclr.loss, []

    def watched(cfg, params, ema, state, feats, batch, ctx):
        seen.append((set(feats), set(ctx.feats), {f.tokens is None for f in feats.values()}))
        return loss(cfg, params, ema, state, feats, batch, ctx)

    monkeypatch.setattr(simclr, "loss", watched)
    program = program_of(run_of(encoder="teacher"), teacher["frozen"])
    batch = {"image": batch_of(program.run)["image"]}
    jax.eval_shape(
        lambda now: train_step(program, now, batch, teacher["frozen_params"]), state.shapes(program)
    )
    assert seen
    for own, modifiers, bare in seen:
        assert (own, bare) == ({"a", "b"}, {True})
        assert modifiers == {"genview/a", "genview/b"}
    assert state.frozen_paths(program.run, program.spec) == ("teacher",)


def test_accumulation_keeps_its_features(teacher):
    run, parts = run_of(encoder="teacher"), run_of(encoder="teacher", micro_batch=2)
    whole, history = steps(run, 2, **teacher)
    pieces, other = steps(parts, 2, **teacher)
    assert_close(whole, pieces, atol=1e-5, rtol=1e-5)
    for a, b in zip(history, other):
        assert_close(a, b, atol=1e-5, rtol=1e-4)
