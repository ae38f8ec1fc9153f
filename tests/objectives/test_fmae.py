"""Vec2Face's feature MAE against its formula in float64 NumPy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import products
from made_up import SPEC, B, Case, moved, wide
from reference import decoder, linear, norm
from scipy import stats
from support import program_of, resolve

from facejax.contracts import Draw, Frozen
from facejax.objectives import fmae

CONFIG = fmae.Config.tiny()


def reference_sequence(params, vectors):
    p = jax.tree.map(np.float64, params)
    e = linear(np.float64(vectors), p["expand"])
    w, b = p["spread"]["kernel"][0], p["spread"]["bias"]
    tokens = [[w[n] * e[i] + b[n] for n in range(len(w))] for i in range(len(e))]
    return np.concatenate([e[:, None], np.array(tokens)], axis=1)


def reference(params, vectors, keep, masked, has):
    p = jax.tree.map(np.float64, params)
    target = reference_sequence(params, vectors)
    losses = []
    for i in np.flatnonzero(has):
        x = target[i].copy()
        x[1:][masked[i]] = x[0]
        x = norm(x + p["pos_embed"], p["embed_norm"])
        seen = decoder(x[[0, *(keep[i] + 1)]][None], p["encoder"], heads=2)
        seen = linear(seen, p["decoder_embed"])[0]
        full = np.tile(seen[0], (len(x), 1))
        for place, token in zip(keep[i], seen[1:]):
            if not masked[i][place]:
                full[place + 1] = token
        out = decoder((full + p["decoder_pos_embed"])[None], p["decoder"], heads=2)[0]
        losses.append(((out - target[i]) ** 2).mean())
    return np.mean(losses)


@pytest.fixture(scope="module")
def case() -> Case:
    return moved(Case.of(fmae))


@pytest.fixture(scope="module")
def exact(case) -> Case:
    """The same, computing in float64; only inside `jax.enable_x64`."""
    return dataclasses.replace(case, config=dataclasses.replace(CONFIG, dtype="float64"))


def masks(case, key=1, rows=B):
    draw = Draw(jax.random.key(key), jnp.arange(rows))
    return tuple(np.asarray(x) for x in fmae.drawn(case.config, case.ctx(draw)))


def test_loss_is_its_formula(case, exact):
    given = case.inputs()
    keep, masked = masks(case)
    assert (masked.sum(1) > 4).all()
    assert not masked.all()
    has = np.asarray(given.batch["has_feature"])
    assert not has.all()
    vectors = given.feats["identity"].pooled
    want = reference(given.params, vectors, keep, masked, has)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(exact.value)(wide(given)), want, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(case.value)(given), want, rtol=1e-5)


def test_tokens_are_targets_without_a_gradient(exact):
    """The gradient is that of the loss with its target held fixed, here at float64."""
    with jax.enable_x64(True):
        case, given = exact, wide(exact.inputs())
        keep, masked = masks(case)
        vectors = given.feats["identity"].pooled
        held = fmae.expanded(case.config, given.params, vectors)

        def value(params):
            sequence = fmae.expanded(case.config, params, vectors)
            out = fmae.rebuilt(case.config, params, sequence, keep, masked)
            error = ((out - held) ** 2).mean((1, 2))
            return jnp.sum(jnp.where(given.batch["has_feature"], error, 0)) / (B - 1)

        want = jax.jit(jax.grad(value))(given.params)
        found = jax.jit(case.grads)(given)["params"]
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want)):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        way = jax.tree.map(lambda x: np.random.default_rng(0).normal(size=x.shape), given.params)
        ahead, behind = (
            jax.tree.map(lambda x, d, s=s: x + s * 1e-6 * d, given.params, way) for s in (1, -1)
        )
        slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(want), jax.tree.leaves(way)))
        both = jax.jit(value)
        np.testing.assert_allclose((both(ahead) - both(behind)) / 2e-6, slope, rtol=1e-6)


def test_half_of_the_tokens_are_skipped_and_one_rate_holds_for_the_batch(case):
    counts = []
    for key in range(40):
        keep, masked = masks(case, key)
        assert keep.shape == (B, 5)
        assert len(set(masked.sum(1))) == 1
        for row, hidden in zip(keep, masked):
            skipped = np.setdiff1d(np.arange(9), row)
            assert hidden[skipped].all()
        counts.append(masked[0].sum())
    assert min(counts) >= 4
    assert len(set(counts)) > 2


def test_rates_follow_the_truncated_normal():
    case = Case(fmae, fmae.Config(tokens=1000), None, SPEC)
    rates = [masks(case, key, rows=1)[1].mean() for key in range(300)]
    law = stats.truncnorm((0.5 - 0.75) / 0.25, (1 - 0.75) / 0.25, 0.75, 0.25)
    assert stats.kstest(rates, law.cdf).pvalue > 1e-3


def test_micro_batches_share_the_rate(case):
    draw = Draw(jax.random.key(3), jnp.arange(B))
    whole = fmae.drawn(case.config, case.ctx(draw))
    part = fmae.drawn(case.config, case.ctx(Draw(draw.key, draw.rows[1::2])))
    for a, b in zip(whole, part):
        np.testing.assert_array_equal(a[1::2], b)


def test_the_papers_sizes_keep_24_of_49():
    assert fmae.Config().kept == 24
    assert math.ceil(0.5 * 49) == 49 - 24


def test_vectors_come_from_a_field_or_from_a_frozen_encoder():
    assert fmae.passes(CONFIG, SPEC)["identity"].cached == "feature"
    frozen = fmae.passes(dataclasses.replace(CONFIG, path="run"), SPEC)["identity"]
    assert frozen.weights == Frozen("run")
    assert frozen.cached is None
    program = program_of(resolve({"fmae": dataclasses.asdict(CONFIG)}))
    assert program.fields() == ("feature", "image")


def test_flops_are_those_of_the_products():
    config = fmae.Config(dim=256, width=512, heads=8, depth=1, decoder_depth=1, decoder_heads=8)
    spec = SPEC
    params = jax.eval_shape(lambda: fmae.init(config, jax.random.key(0), spec).params)

    def forward(params, vectors):
        keep, masked = jnp.zeros((B, 24), jnp.int32), jnp.zeros((B, 49), bool)
        return fmae.rebuilt(config, params, fmae.expanded(config, params, vectors), keep, masked)

    shapes = jax.ShapeDtypeStruct((B, 256), jnp.float32)
    counted = products(jax.make_jaxpr(forward)(params, shapes).jaxpr) / B
    np.testing.assert_allclose(fmae.flops(config, spec), counted, rtol=0.02)
