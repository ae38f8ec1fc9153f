"""DINO against its centred, sharpened cross-entropies in float64 NumPy; the centre, the step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import (
    SPEC,
    B,
    Case,
    assert_gradient,
    assert_value,
    moved,
    take,
)
from numpy_heads import entropy, f64, mlp, softmax, unit
from support import resolve, states_of

from facejax.contracts import Ema
from facejax.objectives import dino
from facejax.schedule import Schedule

CONFIG = dino.Config.tiny()
K = CONFIG.prototypes


def logits(params, feats, names):
    z = [unit(mlp(params["projector"], feats[n].pooled, activation="gelu")) for n in names]
    kernel = f64(params["prototypes"]["kernel"])
    return np.stack([x @ (kernel / np.linalg.norm(kernel, axis=0)) for x in z])


def heads(given):
    """Student logits [V, B, K] and the teacher's [2, B, K]."""
    names = [n for n in given.feats if not n.startswith("teacher")]
    teacher = logits(given.ema["teacher"], given.feats, ("teacher_0", "teacher_1"))
    return logits(given.params, given.feats, names), teacher


def reference(given, cfg, teacher_tau=0.04):
    h, g = heads(given)
    p = softmax((g - f64(given.state["centre"])) / teacher_tau)
    each = [
        -np.mean((p[t] * np.log(softmax(h[s] / cfg.tau))).sum(1))
        for t in (0, 1)
        for s in range(len(h))
        if s != t
    ]
    return np.mean(each)


def case_of(**options) -> Case:
    case = moved(Case.of(dino, dataclasses.replace(CONFIG, **options)))
    centre = jnp.asarray(np.random.default_rng(5).normal(size=K) * 0.1, jnp.float32)
    return dataclasses.replace(case, vars=dataclasses.replace(case.vars, state={"centre": centre}))


@pytest.mark.parametrize("options", [{}, {"local_crops": 0, "depth": 3, "tau": 0.3}])
def test_loss_is_its_formula(options):
    case = case_of(**options)
    given = case.inputs()
    assert_value(case, given, reference(given, case.config))


def test_gradient_is_that_of_the_loss_with_the_teacher_fixed():
    """The teacher's share is cut off, so its features are held while the student's move."""
    case = case_of()
    given = case.inputs()
    grads = jax.jit(case.grads)(given)
    for name in ("teacher_0", "teacher_1"):
        np.testing.assert_array_equal(grads["feats"][name]["pooled"], 0)
    teacher = {n: f for n, f in given.feats.items() if n.startswith("teacher")}

    @dataclasses.dataclass(frozen=True)
    class Held(Case):
        def trained(self, given):
            every = super().trained(given)
            own = {n: f for n, f in every["feats"].items() if n not in teacher}
            return {**every, "feats": own}

        def arguments(self, given, trained=None):
            trained = trained or self.trained(given)
            rest = {n: f for n, f in super().trained(given)["feats"].items() if n in teacher}
            return super().arguments(given, {**trained, "feats": {**trained["feats"], **rest}})

    held = Held(case.module, case.config, case.vars, case.spec)
    assert_gradient(held, given, rtol=1e-5)


def test_where_nothing_is_told_apart_the_loss_is_that_of_guessing():
    case = case_of()
    given = case.inputs()
    same = jnp.tile(given.params["prototypes"]["kernel"][:, :1], (1, K))
    params = {**given.params, "prototypes": {"kernel": same}}
    given = dataclasses.replace(
        given, params=params, ema={"teacher": params}, state={"centre": jnp.zeros(K)}
    )
    np.testing.assert_allclose(jax.jit(case.value)(given), np.log(K), rtol=1e-5)


def test_a_teacher_does_not_teach_its_own_crop():
    """Without local crops, the first teacher and the second student are one pair of the two."""
    case = case_of(local_crops=0)
    given, value = case.inputs(), jax.jit(case.value)
    h, g = heads(given)
    p = softmax((g - f64(given.state["centre"])) / 0.04)
    want = -np.mean((p[0] * np.log(softmax(h[1] / 0.1))).sum(1)) / 2
    want -= np.mean((p[1] * np.log(softmax(h[0] / 0.1))).sum(1)) / 2
    np.testing.assert_allclose(value(given), want, rtol=1e-5)


def test_rows_may_change_places_and_pairs_may_not():
    case = case_of()
    given, value = case.inputs(), jax.jit(case.value)
    want = value(given)
    order = np.random.default_rng(0).permutation(B)
    np.testing.assert_allclose(value(take(given, order)), want, rtol=1e-5)
    broken = given.feats | {"local_0": take(given, order).feats["local_0"]}
    assert abs(value(dataclasses.replace(given, feats=broken)) - want) > 0.01


def test_the_temperature_of_the_teacher_follows_its_schedule():
    schedule = Schedule("constant", start=0.07, warmup=0.3, warmup_start=0.04)
    case = case_of(teacher_tau=schedule)
    given = case.inputs()

    @jax.jit
    def value(step):
        *arguments, ctx = case.arguments(given)
        loss = dino.loss(case.config, *arguments, dataclasses.replace(ctx, step=step))
        return loss.terms["cross_entropy"].value()

    for step, tau in ((0, 0.04), (1, 0.05), (3, 0.07), (9, 0.07)):
        np.testing.assert_allclose(value(step), reference(given, case.config, tau), rtol=1e-4)


def test_the_centre_follows_the_mean_of_both_teacher_views():
    case = case_of(centre_momentum=0.7)
    given = case.inputs()
    loss = jax.jit(case.loss)(given)
    ctx = case.ctx(given.draw)
    _, new = dino.update(case.config, given.params, given.state, loss.stats, ctx)
    want = 0.7 * f64(given.state["centre"]) + 0.3 * heads(given)[1].mean((0, 1))
    np.testing.assert_allclose(new["centre"], want, atol=1e-5)


def test_curves_are_of_the_teacher():
    case = case_of()
    given = case.inputs()
    p = softmax((heads(given)[1] - f64(given.state["centre"])) / 0.04)
    metrics = jax.jit(case.loss)(given).metrics
    np.testing.assert_allclose(metrics["entropy"].value(), entropy(p).mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["usage"].value(), entropy(p.mean((0, 1))), rtol=1e-4)


def test_passes_are_the_papers_crops_and_two_of_the_teacher():
    passes = dino.passes(dino.Config(), SPEC)
    teacher = {n: p for n, p in passes.items() if p.weights == Ema(dino.MOMENTUM)}
    assert list(teacher) == ["teacher_0", "teacher_1"]
    assert len(passes) == 12
    for i in range(2):
        assert teacher[f"teacher_{i}"].view == passes[f"global_{i}"].view
    assert Case.of(dino).vars.ema["teacher"].params == ("projector", "prototypes")


def test_prototypes_wait_and_the_teachers_head_follows():
    keys = {"hidden": 8, "bottleneck": 4, "prototypes": 6, "depth": 2, "local_crops": 1}
    keys |= {"frozen": 2, "momentum": 0.5}
    states = states_of(resolve({"dino": keys}), 3)
    kernels = [s.params["objective"]["dino"]["prototypes"]["kernel"] for s in states]
    np.testing.assert_array_equal(kernels[2], kernels[0])
    assert np.abs(kernels[3] - kernels[2]).max() > 1e-5
    mine = [s.params["objective"]["dino"]["projector"]["fc_0"]["kernel"] for s in states]
    copies = [s.ema["objective"]["dino"]["teacher"]["projector"]["fc_0"]["kernel"] for s in states]
    for n in range(3):
        np.testing.assert_allclose(copies[n + 1], (copies[n] + mine[n + 1]) / 2, atol=1e-6)
    centres = [s.objective["state"]["dino"]["centre"] for s in states]
    assert np.abs(centres[1]).max() > 1e-3
