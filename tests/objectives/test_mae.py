"""MAE against its formulas in float64 NumPy, written from the paper."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import SPEC, Case, assert_gradient, features, moved, wide
from reference import decoder, linear, normalised_patches, patches_of, positions
from support import batch_of, program_of, resolve

from facejax import state
from facejax.contracts import Draw, Tower
from facejax.encoders import vit
from facejax.forward import forward
from facejax.layers import sincos_2d
from facejax.objectives import mae
from facejax.ops import masking

CONFIG = mae.Config.tiny()


def reference_prediction(params, feats, heads=1):
    p = jax.tree.map(np.float64, params)
    tokens, keep = linear(np.float64(feats.tokens), p["embed"]), np.asarray(feats.keep)
    B, N = feats.mask.shape
    x = np.tile(p["mask_token"], (B, N, 1))
    for b in range(B):
        x[b, keep[b]] = tokens[b]
    x += positions(x.shape[-1], math.isqrt(N))[None]
    x = np.concatenate([linear(np.float64(feats.prefix[:, :1]), p["embed"]), x], axis=1)
    return decoder(x, p["decoder"], heads)[:, 1:]


def reference_loss(params, feats, patch):
    error = reference_prediction(params, feats) - normalised_patches(feats.view["image"], patch)
    removed = np.asarray(feats.mask) == 1
    return (error**2).mean(-1)[removed].sum() / removed.sum()


# --------------------------------------------------------------------------------------- tests


@pytest.fixture(scope="module")
def case() -> Case:
    return moved(Case.of(mae))


@pytest.fixture(scope="module")
def exact(case) -> Case:
    """The same, computing in float64; only inside `jax.enable_x64`."""
    return dataclasses.replace(case, config=dataclasses.replace(CONFIG, dtype="float64"))


def test_loss_is_its_formula(case, exact):
    given = case.inputs()
    want = reference_loss(given.params, given.feats["masked"], 4)
    with jax.enable_x64(True):
        got = jax.jit(exact.value)(wide(given))
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, want, rtol=1e-6)
    got = jax.jit(case.value)(given)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_gradient_is_that_of_the_loss(exact, monkeypatch):
    """With attention written out: JAX's own takes its softmax in float32 even here."""

    def plain(q, k, v, **_):
        scores = jnp.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1])
        return jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(scores), v)

    monkeypatch.setattr(jax.nn, "dot_product_attention", plain)
    assert_gradient(exact, exact.inputs(), rtol=1e-6)


def test_target_has_mean_0_and_unbiased_variance_near_1():
    image = np.random.default_rng(0).normal(size=(2, 16, 16, 3)) * 1e-3
    with jax.enable_x64(True):
        found = np.asarray(mae.target(CONFIG, jnp.asarray(image), 4))
    np.testing.assert_allclose(found, normalised_patches(image, 4), rtol=1e-9)
    np.testing.assert_allclose(found.mean(-1), 0, atol=1e-12)
    v = patches_of(image, 4).var(-1, ddof=1)
    assert (v < 3e-6).all()  # small enough for the 1e-6 to show
    np.testing.assert_allclose(found.var(-1, ddof=1), v / (v + 1e-6), rtol=1e-9)


def test_target_without_normalisation_is_the_pixels():
    image = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    plain = dataclasses.replace(CONFIG, norm_pixels=False)
    np.testing.assert_array_equal(mae.target(plain, jnp.asarray(image), 4), patches_of(image, 4))


def test_only_removed_patches_count(case, monkeypatch):
    """The gradient towards the prediction is 0 on visible patches, and no other is."""
    given = case.inputs()
    feats = given.feats["masked"]
    decode = mae.decode
    shift = jnp.zeros((*feats.mask.shape, 48))

    def gradient(shift):
        monkeypatch.setattr(mae, "decode", lambda *args: decode(*args) + shift)
        return case.value(given)

    found = np.asarray(jax.jit(jax.grad(gradient))(shift))
    removed = np.asarray(feats.mask) == 1
    assert (found[~removed] == 0).all()
    assert (found[removed] != 0).all()


def test_three_quarters_of_196_patches_are_exactly_147():
    spec = dataclasses.replace(
        SPEC, size=224, towers={"encoder": Tower(32, 32, 16, 1, size=224, depth=1)}
    )
    p = mae.passes(mae.Config(), spec)["masked"]
    drawn = p.mask({}, spec.towers["encoder"].grid(224), Draw(jax.random.key(0), jnp.arange(64)))
    mask = np.asarray(drawn.mask)
    assert mask.shape == (64, 196)
    assert (mask.sum(1) == 147).all()
    assert drawn.keep.shape == (64, 49)
    assert len(np.unique(mask, axis=0)) == 64
    np.testing.assert_allclose(mask.mean(0), 0.75, atol=0.25)


def test_the_encoder_never_sees_removed_patches():
    """From the batch's pixels to the latent, through the forward of a whole program."""
    still = {"scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0, "decoder_depth": 1}
    tiny = dataclasses.asdict(vit.Config.tiny())
    program = program_of(resolve({"mae": still}, encoder={"name": "vit", **tiny}))
    current = state.initial(program)

    @jax.jit
    def encode(images):
        draw = Draw(jax.random.key(0), jnp.arange(8))
        args = (current.params, current.stats, current.ema, {}, {"image": images})
        return next(iter(forward(program, *args, draw)[0].values()))

    images = batch_of(program.run)["image"]
    found = encode(images)
    removed = np.asarray(found.mask)[..., None] == 1
    assert removed.sum() == 8 * 12
    patches = np.asarray(masking.patchify(images, 4))
    for name, where in (("removed", removed), ("visible", ~removed)):
        changed = np.where(where, 255 - patches, patches)
        other = encode(np.asarray(masking.unpatchify(changed, 4, (4, 4))))
        np.testing.assert_array_equal(other.mask, found.mask)
        same = np.array_equal(other.tokens, found.tokens)
        assert same == (name == "removed")
        assert np.array_equal(other.prefix, found.prefix) == same


def decoder_input(monkeypatch, params, feats, config=CONFIG, spec=SPEC):
    """What the decoder's blocks get: [B, 1 + N, D]."""
    seen = []

    def keep(variables, x):
        seen.append(x)
        return x

    own = mae._decoder(config, spec)
    monkeypatch.setattr(
        mae, "_decoder", lambda *_: types.SimpleNamespace(width=own.width, apply=keep)
    )
    mae.decode(config, params, feats, spec)
    return np.asarray(seen[0])


def test_decoder_positions_are_columns_then_rows(case, monkeypatch):
    """With everything else zero, the decoder's input is its positions; the class token has none."""
    feats = features(case.passes["masked"], kind="zero")
    params = jax.tree.map(jnp.zeros_like, case.vars.params)
    x = decoder_input(monkeypatch, params, feats)
    assert x.shape == (8, 17, 32)
    np.testing.assert_array_equal(x[:, 0], 0)
    np.testing.assert_allclose(x[0, 1:], positions(32, 4), atol=1e-6)
    plane = x[0, 1:].reshape(4, 4, 32)
    np.testing.assert_array_equal(plane[..., :16], np.broadcast_to(plane[:1, :, :16], (4, 4, 16)))
    np.testing.assert_array_equal(plane[..., 16:], np.broadcast_to(plane[:, :1, 16:], (4, 4, 16)))
    assert len(np.unique(plane.reshape(16, 32).round(6), axis=0)) == 16
    np.testing.assert_array_equal(sincos_2d(32, (4, 4)), x[0, 1:].astype(np.float32))


def test_decoder_sees_kept_tokens_at_their_places_and_the_mask_token_elsewhere(case, monkeypatch):
    feats = case.inputs().feats["masked"]
    x = decoder_input(monkeypatch, case.vars.params, feats)[:, 1:] - positions(32, 4)[None]
    p = jax.tree.map(np.float64, case.vars.params)
    for b, keep in enumerate(np.asarray(feats.keep)):
        np.testing.assert_allclose(
            x[b, keep], linear(np.float64(feats.tokens[b]), p["embed"]), atol=1e-5
        )
        rest = np.setdiff1d(np.arange(16), keep)
        np.testing.assert_allclose(x[b, rest], np.tile(p["mask_token"][0], (12, 1)), atol=1e-6)


def test_without_a_class_token_the_decoder_sees_patches_alone():
    spec = dataclasses.replace(SPEC, towers={"encoder": Tower(8, 8, 4, 0, size=16, depth=1)})
    case = Case.of(mae, spec=spec)
    given = case.inputs()
    pred = mae.decode(case.config, given.params, given.feats["masked"], spec)
    assert pred.shape == (8, 16, 48)
    assert np.isfinite(case.value(given))


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_preview_puts_mean_and_deviation_back(case, monkeypatch, norm_pixels):
    """A decoder that predicts its target exactly gives the picture back."""
    config = dataclasses.replace(CONFIG, norm_pixels=norm_pixels)
    given = case.inputs()
    feats = given.feats["masked"]
    image = feats.view["image"]
    monkeypatch.setattr(mae, "decode", lambda *_: mae.target(config, image, 4))
    shown = mae.preview(config, given.params, given.feats, case.ctx(given.draw))
    assert list(shown) == ["input", "seen", "reconstruction"]
    np.testing.assert_array_equal(shown["input"], image)
    np.testing.assert_allclose(shown["reconstruction"], image, atol=1e-5)
    removed = np.asarray(feats.mask) == 1
    seen, whole = (patches_of(np.asarray(x), 4) for x in (shown["seen"], image))
    assert (seen[removed] == 0).all()
    np.testing.assert_array_equal(seen[~removed], whole[~removed])


def test_preview_leaves_visible_patches_as_they_were(case):
    given = case.inputs()
    shown = mae.preview(CONFIG, given.params, given.feats, case.ctx(given.draw))
    removed = np.asarray(given.feats["masked"].mask) == 1
    out, whole = (patches_of(np.asarray(shown[k]), 4) for k in ("reconstruction", "input"))
    np.testing.assert_array_equal(out[~removed], whole[~removed])
    assert np.abs(out[removed] - whole[removed]).max() > 0.1


def test_decoder_follows_the_encoder_unless_told():
    def shape(width=None, heads=None, encoder=192):
        tower = Tower(encoder, encoder, 16, 1, size=224, depth=12)
        spec = dataclasses.replace(SPEC, size=224, towers={"encoder": tower})
        own = mae._decoder(mae.Config(decoder_width=width, decoder_heads=heads), spec)
        return own.width, own.heads, own.depth, own.out

    assert shape() == (96, 3, 8, 768)
    assert shape(encoder=768) == (384, 12, 8, 768)
    assert shape(512, 16) == (512, 16, 8, 768)


def test_flops_are_those_that_xla_counts():
    """At a width at which products outweigh softmax, norm and GELU, which are left out."""
    tower = Tower(768, 768, 16, 1, size=224, depth=12)
    spec = dataclasses.replace(SPEC, size=224, towers={"encoder": tower})
    config = mae.Config(decoder_width=1024, decoder_depth=2)
    params = jax.eval_shape(lambda: mae.init(config, jax.random.key(0), spec).params)
    feats = jax.eval_shape(lambda: features(mae.passes(config, spec)["masked"], spec))
    lowered = jax.jit(lambda p, f: mae.decode(config, p, f, spec)).lower(params, feats)
    counted = lowered.cost_analysis()["flops"] / len(feats.mask)
    np.testing.assert_allclose(mae.flops(config, spec), counted, rtol=0.02)


def test_computing_in_bfloat16_keeps_the_loss_in_float32(case):
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    narrow = dataclasses.replace(case, config=config)
    given = case.inputs()
    loss = jax.jit(narrow.loss)(given)
    assert loss.terms["pixels"].sum.dtype == jnp.float32
    want = reference_loss(given.params, given.feats["masked"], 4)
    np.testing.assert_allclose(loss.terms["pixels"].value(), want, rtol=0.02)
