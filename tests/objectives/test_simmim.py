"""SimMIM against its formula in float64 NumPy, pixel by pixel."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import SPEC, B, Case, assert_gradient, features, moved, wide

from facejax.contracts import Tower
from facejax.errors import UserError
from facejax.objectives import simmim

CONFIG = simmim.Config.tiny()


def reference(params, feats, patch=4):
    """Sum of |x - x'| over the masked pixels of a mask [B, H, W], over 3 and over their number."""
    kernel, bias = (np.float64(params["head"][k]) for k in ("kernel", "bias"))
    x = np.float64(feats.view["image"])
    pred, mask = np.zeros_like(x), np.zeros(x.shape[:3])
    side = x.shape[1] // patch
    for b in range(len(x)):
        for n in range(side * side):
            r, c = (patch * i for i in divmod(n, side))
            token = np.float64(feats.tokens[b, n])
            pred[b, r : r + patch, c : c + patch] = (token @ kernel + bias).reshape(patch, patch, 3)
            mask[b, r : r + patch, c : c + patch] = feats.mask[b, n]
    return (np.abs(x - pred) * mask[..., None]).sum() / mask.sum() / 3


@pytest.fixture(scope="module")
def case() -> Case:
    return moved(Case.of(simmim))


@pytest.fixture(scope="module")
def exact(case) -> Case:
    return dataclasses.replace(case, config=dataclasses.replace(CONFIG, dtype="float64"))


def test_loss_is_its_formula(case, exact):
    given = case.inputs()
    want = reference(given.params, given.feats["masked"])
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(exact.value)(wide(given)), want, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(case.value)(given), want, rtol=1e-5)


def test_gradient_is_that_of_the_loss(exact):
    assert_gradient(exact, exact.inputs(), rtol=1e-6)


def test_the_encoder_computes_every_patch_and_cells_are_masked_whole(case):
    p = case.passes["masked"]
    assert p.replaces
    feats = features(p)
    assert feats.keep is None
    assert feats.tokens.shape[1] == 16
    cells = np.asarray(feats.mask).reshape(B, 2, 2, 2, 2)
    np.testing.assert_array_equal(cells.min((2, 4)), cells.max((2, 4)))
    assert (cells[:, :, 0, :, 0].sum((1, 2)) == 3).all()


def test_unmasked_pixels_and_tokens_have_no_part(case):
    given = case.inputs()
    feats = given.feats["masked"]

    def value(image, tokens):
        shown = {**feats.view, "image": image}
        changed = dataclasses.replace(feats, view=shown, tokens=tokens)
        return case.value(dataclasses.replace(given, feats={"masked": changed}))

    both = jax.jit(jax.grad(value, argnums=(0, 1)))
    to_image, to_tokens = map(np.asarray, both(feats.view["image"], feats.tokens))
    removed = np.asarray(feats.mask) == 1
    pixels = removed.reshape(B, 4, 4).repeat(4, 1).repeat(4, 2)
    assert (to_image[~pixels] == 0).all()
    assert (to_image[pixels] != 0).all()
    assert (to_tokens[~removed] == 0).all()
    assert (np.abs(to_tokens[removed]).max(-1) > 0).all()


def test_cells_that_do_not_fit_are_refused():
    spec = dataclasses.replace(SPEC, size=64, towers={"encoder": Tower(8, 8, 16, 1, 64, 1)})
    p = simmim.passes(simmim.Config(cell=24), spec)["masked"]
    with pytest.raises(UserError, match=r"mask\.cell"):
        features(p, spec)


def test_preview_shows_predictions_under_the_mask_alone(case):
    given = case.inputs()
    shown = simmim.preview(CONFIG, given.params, given.feats, case.ctx(given.draw))
    removed = np.asarray(given.feats["masked"].mask).reshape(B, 4, 4) == 1
    pixels = removed.repeat(4, 1).repeat(4, 2)
    image = np.asarray(shown["input"])
    np.testing.assert_array_equal(image, given.feats["masked"].view["image"])
    np.testing.assert_array_equal(np.asarray(shown["reconstruction"])[~pixels], image[~pixels])
    assert (np.asarray(shown["seen"])[pixels] == 0).all()
    pred = np.asarray(simmim.decode(CONFIG, given.params, given.feats["masked"], SPEC))
    want = pred.reshape(B, 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(image.shape)
    np.testing.assert_array_equal(np.asarray(shown["reconstruction"])[pixels], want[pixels])


def test_flops_are_those_that_xla_counts():
    tower = Tower(256, 256, 16, 1, size=64, depth=1)
    spec = dataclasses.replace(SPEC, size=64, towers={"encoder": tower})
    config = simmim.Config()
    params = simmim.init(config, jax.random.key(0), spec).params
    feats = features(simmim.passes(config, spec)["masked"], spec)
    lowered = jax.jit(lambda p, f: simmim.decode(config, p, f, spec)).lower(params, feats)
    counted = lowered.cost_analysis()["flops"] / B
    np.testing.assert_allclose(simmim.flops(config, spec), counted, rtol=0.01)


def test_computing_in_bfloat16_keeps_the_loss_in_float32(case):
    narrow = dataclasses.replace(case, config=dataclasses.replace(CONFIG, dtype="bfloat16"))
    given = case.inputs()
    term = jax.jit(narrow.loss)(given).terms["pixels"]
    assert term.sum.dtype == jnp.float32
    np.testing.assert_allclose(term.value(), reference(given.params, given.feats["masked"]), 0.02)
