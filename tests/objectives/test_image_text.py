"""CLIP and SigLIP: values, what stands in a batch, locked towers; on one device and eight."""

import math

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
from made_up import B, Case, assert_gradient, assert_value, moved
from support import TEXT, assert_close, leaves, program_of, resolve, steps

from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.objectives import clip, siglip
from facejax.ops.similarity import clip_softmax, sigmoid_loss

THERE = np.arange(B) != 3


def reference(case: Case, given) -> tuple[np.ndarray, float, float]:
    """Cosines of the rows that have a text, the scale and the bias, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), given.params)
    sides = []
    for side in ("image", "text"):
        x = np.asarray(given.feats[side].pooled, np.float64)[THERE]
        x = x @ p[side]["kernel"] if side in p else x
        sides.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    return sides[0] @ sides[1].T, math.exp(p["logit_scale"]), float(p.get("logit_bias", 0.0))


def test_clip_is_its_equation():
    case = moved(Case.of(clip))
    given = case.inputs()
    cosines, scale, _ = reference(case, given)
    s = scale * cosines

    def cross(s):
        return np.mean(np.log(np.exp(s).sum(1)) - np.diag(s))

    assert_value(case, given, (cross(s) + cross(s.T)) / 2)
    assert_gradient(case, given, 1e-5)


def test_siglip_is_its_equation():
    case = moved(Case.of(siglip))
    given = case.inputs()
    cosines, scale, bias = reference(case, given)
    s = (scale * cosines + bias) * (2 * np.eye(len(cosines)) - 1)
    assert_value(case, given, np.log1p(np.exp(-s)).sum() / len(s))
    assert_gradient(case, given, 1e-5)


def test_what_losses_are_at_the_start():
    x, y = jnp.eye(64)[:, :32] + 0.0, jnp.zeros((64, 32))
    np.testing.assert_allclose(clip_softmax(x, y, 14.0).mean(), math.log(64), rtol=1e-6)
    start = jax.jit(lambda z: sigmoid_loss(z, z, 10.0, -10.0).mean())
    np.testing.assert_allclose(start(jnp.zeros((1024, 4))), 10.046, atol=1e-3)
    a, b = made_up.maker("ordinary", 0)(16, 8), made_up.maker("ordinary", 1)(16, 8)
    for loss in (lambda *p: clip_softmax(*p, 2.0), lambda *p: sigmoid_loss(*p, 2.0, -1.0)):
        np.testing.assert_allclose(loss(a, b).mean(), loss(b, a).mean(), rtol=1e-6)


@pytest.mark.parametrize("loss", [clip_softmax, sigmoid_loss])
def test_pairs_that_are_not_there_count_for_nothing(loss):
    """In value and gradient as if their rows had been taken out, whatever they hold."""
    x, y = made_up.maker("ordinary", 0)(B, 8), made_up.maker("ordinary", 1)(B, 8)
    extra = (2.0,) if loss is clip_softmax else (2.0, jnp.float32(-1.0))

    @jax.jit
    def some(x, y):
        return jnp.sum(loss(x, y, *extra, there=jnp.asarray(THERE)))

    @jax.jit
    def fewer(x, y):
        return jnp.sum(loss(x[THERE], y[THERE], *extra))

    x = x.at[3].set(1e4)
    np.testing.assert_allclose(some(x, y), fewer(x, y), rtol=1e-6)
    for a, b in zip(*(jax.grad(f, argnums=(0, 1))(x, y) for f in (some, fewer))):
        np.testing.assert_allclose(a, b, atol=1e-6)
    none = jax.grad(lambda x: jnp.sum(loss(x, y, *extra, there=jnp.zeros(B, bool))))(x)
    assert (none == 0).all()


def test_the_scale_is_clamped_after_the_step():
    for module in (clip, siglip):
        params = {"logit_scale": jnp.float32(9.0), "image": jnp.ones(2)}
        after, _ = module.update(module.Config(), params, {}, None, None)
        np.testing.assert_allclose(jnp.exp(after["logit_scale"]), 100.0, rtol=1e-5)
        assert after["image"] is params["image"]


RUN = {"encoder_text": TEXT}


def distance(a, b) -> float:
    return np.abs(a - b).max()


@pytest.mark.parametrize("name", ["clip", pytest.param("siglip", marks=pytest.mark.slow)])
def test_one_device_eight_and_micro_batches_agree(name):
    """On eight the texts go round the ring; on one the loss is in chunks; the sums are the same."""
    # A small weight: gradients of the tiny text tower are in the tens.
    options = {"weight": 0.05} | ({"out": 6} if name == "clip" else {})
    run = resolve({name: options}, global_batch=16, **RUN)
    one, history = steps(run)
    for other in (
        steps(run, devices=8),
        steps(resolve({name: options}, global_batch=16, micro_batch=8, **RUN)),
    ):
        assert_close(one, other[0], atol=1e-5)
        for a, b in zip(history, other[1]):
            assert_close(a, b, atol=1e-5, rtol=1e-5)
    first, _ = steps(run, 0)
    for tower in ("encoder", "encoder_text"):
        moves = jax.tree.map(distance, one.params[tower], first.params[tower])
        assert min(leaves(moves).values()) > 0


def test_a_locked_image_tower_stays_as_it_is():
    cfg = vit.Config(variant="Ti", width=8, depth=1, heads=1, patch=8, size=16)
    frozen = {"teacher": vit.init(cfg, jax.random.key(7), TowerSpec())}
    before = jax.tree.map(np.array, frozen)
    keys = {"optimizer": {"name": "adamw", "lr": 0.01, "rules": LOCK}}
    run = resolve({"clip": {"out": 6, "frozen": "teacher"}}, **RUN, **keys)
    known = {"frozen": {"teacher": (vit, cfg)}, "frozen_params": frozen}
    start, _ = steps(run, 0, **known)
    after, history = steps(run, 2, **known)
    assert_close(before, frozen, atol=0)
    # The run's own image tower has no part, and the rule keeps decay from it.
    assert_close(after.params["encoder"], start.params["encoder"], atol=0)
    for part in ("encoder_text", "objective"):
        assert max(leaves(jax.tree.map(distance, after.params[part], start.params[part])).values())
    _, other = steps(run, 1, **{**known, "frozen_params": jax.tree.map(lambda x: x + 1, frozen)})
    assert abs(history[0]["loss"] - other[0]["loss"]) > 1e-3
    cached = resolve({"siglip": {"cached": "feature"}}, **RUN)
    assert program_of(cached).fields() == ("feature", "image", "text")
    assert np.isfinite(steps(cached, 1)[1][0]["loss"])


LOCK = ({"pattern": "^encoder/", "frozen_until": -1},)


def test_towers_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"config\.encoder_text: missing"):
        program_of(resolve({"clip": {}}))
    wide = {"encoder_text": {**TEXT, "width": 12}}
    with pytest.raises(UserError, match=r"config\.objective\.siglip\.project: images end in 8"):
        program_of(resolve({"siglip": {}}, **wide))
    with pytest.raises(UserError, match="no such choice 'images'; did you mean 'image'"):
        program_of(resolve({"clip": {"project": "images"}}, **RUN))
