"""iBOT against its formula in float64 NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import BROAD, SPEC, B, Case, assert_value, counted_products, moved, take, wide
from numpy_heads import f64, mlp, softmax, unit
from support import resolve, teacher_gradients

from facejax.contracts import Ema, Tower
from facejax.errors import UserError
from facejax.objectives import ibot
from facejax.ops.masking import Block

CONFIG = ibot.Config.tiny()
K, N = CONFIG.prototypes, 16
CROPS = ("global_0", "global_1", "local_0")
SMALL = {"local_crops": 1, "prototypes": 16, "hidden": 16, "bottleneck": 8, "depth": 2}


def logits(params, x):
    kernel = f64(params["prototypes"]["kernel"])
    z = unit(mlp(params["projector"], x, activation="gelu"))
    return z @ (kernel / np.linalg.norm(kernel, axis=0))


def reference_image(given, tau=0.1, teacher_tau=0.04):
    h = [logits(given.params, given.feats[n].pooled) for n in CROPS]
    losses = []
    for t in range(2):
        g = logits(given.ema["teacher"], given.feats[f"teacher_global_{t}"].pooled)
        p = softmax((g - f64(given.state["centre"])) / teacher_tau)
        for s in range(3):
            if s != t:
                losses.append(-(p * np.log(softmax(h[s] / tau))).sum(-1).mean())
    return np.mean(losses)


def reference_patch(given, tau=0.1, teacher_tau=0.04):
    losses = []
    for name in CROPS[:2]:
        h = logits(given.params, given.feats[name].tokens)
        g = logits(given.ema["teacher"], given.feats[f"teacher_{name}"].tokens)
        p = softmax((g - f64(given.state["patch_centre"])) / teacher_tau)
        each = -(p * np.log(softmax(h / tau))).sum(-1)
        for b in range(B):
            masked = np.asarray(given.feats[name].mask[b]) == 1
            losses.append(each[b][masked].mean() if masked.any() else 0.0)
    return np.mean(losses)


@pytest.fixture(scope="module")
def case() -> Case:
    return moved(Case.of(ibot), by=0.3)


@pytest.fixture(scope="module")
def loss_of(case):
    return jax.jit(case.loss)


@pytest.fixture(scope="module")
def given(case):
    """With centres away from zero."""
    rng = np.random.default_rng(2)
    centres = {name: jnp.asarray(rng.normal(size=K) * 0.1, jnp.float32) for name in case.vars.state}
    return dataclasses.replace(case.inputs(), state=centres)


def test_loss_is_its_formula(case, given, loss_of):
    """At step 0, where the patches' temperature is still 0.04."""
    share = [float((given.feats[n].mask == 1).mean()) for n in CROPS[:2]]
    assert min(share) > 0
    assert any(np.asarray(given.feats["global_0"].mask).sum(1) == 0)
    assert_value(case, given, reference_image(given) + reference_patch(given))
    loss = loss_of(given)
    np.testing.assert_allclose(loss.terms["patch"].value(), reference_patch(given), rtol=1e-5)
    np.testing.assert_allclose(loss.metrics["masked"].value(), np.mean(share), rtol=1e-6)


def test_gradient_is_that_of_the_loss(case, given):
    """Towards the student alone: the teacher's share is cut off."""
    grads = jax.jit(case.grads)(given)
    for name in CROPS[:2]:
        for part in ("pooled", "tokens"):
            np.testing.assert_array_equal(grads["feats"][f"teacher_{name}"][part], 0)
    with jax.enable_x64(True):
        exact = wide(given)
        trained = case.trained(exact)
        rng = np.random.default_rng(1)
        way = jax.tree.map(lambda x: rng.normal(size=x.shape), trained)
        for name in list(way["feats"]):
            if name.startswith("teacher_"):
                way["feats"][name] = jax.tree.map(np.zeros_like, way["feats"][name])
        value = jax.jit(lambda t: case.value(exact, t))
        found = jax.jit(case.grads)(exact)
        ahead, behind = (
            jax.tree.map(lambda x, d, s=s: x + s * 1e-6 * d, trained, way) for s in (1, -1)
        )
        slope = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (found, way))))
        np.testing.assert_allclose((value(ahead) - value(behind)) / 2e-6, slope, rtol=1e-6)


def test_without_masks_it_is_dino(given, loss_of):
    feats = {
        n: dataclasses.replace(f, mask=jnp.zeros_like(f.mask)) if n in CROPS[:2] else f
        for n, f in given.feats.items()
    }
    terms = loss_of(dataclasses.replace(given, feats=feats)).terms
    assert float(terms["patch"].value()) == 0
    np.testing.assert_allclose(terms["image"].value(), reference_image(given), rtol=1e-5)


def test_unmasked_patches_have_no_gradient(case, given):
    grads = jax.jit(case.grads)(given)["feats"]
    for name in CROPS[:2]:
        masked = np.asarray(given.feats[name].mask) == 1
        to_tokens = np.asarray(grads[name]["tokens"])
        assert (to_tokens[~masked] == 0).all()
        assert (np.abs(to_tokens[masked]).max(-1) > 0).all()


def test_uniform_heads_give_log_k(case, given, loss_of):
    same = {"kernel": jnp.tile(given.params["prototypes"]["kernel"][:, :1], (1, K))}
    params = {**given.params, "prototypes": same}
    even = dataclasses.replace(given, params=params, ema={"teacher": params}, state=case.vars.state)
    terms = loss_of(even).terms
    np.testing.assert_allclose(terms["image"].value(), np.log(K), rtol=1e-5)
    some = [(np.asarray(given.feats[n].mask).sum(1) > 0).mean() for n in CROPS[:2]]
    np.testing.assert_allclose(terms["patch"].value(), np.log(K) * np.mean(some), rtol=1e-5)


def test_centres_move_to_the_means_of_the_teachers_logits(case, given, loss_of):
    """That of patches over all of them, masked or not, though only mean features are scored."""
    loss = loss_of(given)
    ctx = case.ctx(given.draw)
    _, new = ibot.update(CONFIG, given.params, given.state, loss.stats, ctx)
    teacher = given.ema["teacher"]
    for centre, part in (("centre", "pooled"), ("patch_centre", "tokens")):
        g = [logits(teacher, getattr(given.feats[f"teacher_{n}"], part)) for n in CROPS[:2]]
        want = 0.9 * f64(given.state[centre]) + 0.1 * np.concatenate(g).reshape(-1, K).mean(0)
        np.testing.assert_allclose(new[centre], want, atol=1e-5)


def test_halves_of_the_batch_move_the_centres_as_the_whole(case, given, loss_of):
    half, whole = jax.jit(case.loss), loss_of(given).stats
    halves = [half(take(given, np.arange(m, B, 2))).stats for m in range(2)]
    added = jax.tree.map(jnp.add, *halves)
    ctx = case.ctx(given.draw)
    a, b = (ibot.update(CONFIG, {}, given.state, stats, ctx)[1] for stats in (whole, added))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-6)


def test_only_the_students_global_crops_are_masked(case):
    for name, p in case.passes.items():
        if name in CROPS[:2]:
            assert p.mask == Block(((0.0, 0.0), (0.1, 0.5)))
            assert p.replaces
            teacher = case.passes[f"teacher_{name}"]
            assert teacher.view == p.view
            assert teacher.weights == Ema(CONFIG.momentum)
        else:
            assert p.mask is None


def test_no_gradient_reaches_the_teacher():
    vit = {"name": "vit", "width": 16, "depth": 1, "heads": 2, "patch": 4}
    grads = teacher_gradients(resolve({"ibot": SMALL}, encoder=vit))
    assert grads
    assert all((grad == 0).all() for grad in grads.values())


def test_a_neck_is_refused():
    spec = dataclasses.replace(SPEC, towers={"encoder": Tower(8, 4, 4, 1, 16, 2)})
    with pytest.raises(UserError, match=r"config\.encoder\.embed"):
        Case.of(ibot, spec=spec)


def test_flops_are_those_of_the_products():
    config = dataclasses.replace(CONFIG, prototypes=512, hidden=2048, bottleneck=1024)
    case = Case.of(ibot, config, BROAD)
    tower = BROAD.towers["encoder"]
    project, name = ibot._projector(config).flops(tower.width), 2 * 1024 * 512
    teacher = 2 * ((1 + N) * project + (1 + 8) * name)
    want = ibot.flops(config, BROAD) + teacher * 2 / 3
    assert counted_products(case) == pytest.approx(want, rel=0.02)
