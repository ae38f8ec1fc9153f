"""BYOL against its distances in float64 NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from made_up import (
    BROAD,
    SPEC,
    B,
    Case,
    assert_gradient,
    assert_value,
    counted_flops,
    moved,
    take,
)
from numpy_heads import mlp, unit
from support import assert_close, resolve, states_of

from facejax.contracts import Ema
from facejax.objectives import byol
from facejax.schedule import Schedule, at

CONFIG = byol.Config.tiny()


def directions(given):
    """(prediction, target) of both directions, unit vectors."""
    p, z = {}, {}
    for v in "ab":
        online = mlp(given.params["projector"], given.feats[f"online_{v}"].pooled, "batch")
        p[v] = unit(mlp(given.params["predictor"], online, "batch"))
        target = given.ema["target"]["projector"]
        z[v] = unit(mlp(target, given.feats[f"target_{v}"].pooled, "batch"))
    return (p["a"], z["b"]), (p["b"], z["a"])


def reference(given):
    return sum(np.mean(2 - 2 * (p * z).sum(1)) for p, z in directions(given))


def case_of(**options) -> Case:
    return moved(Case.of(byol, dataclasses.replace(CONFIG, **options)))


def test_loss_is_its_formula():
    case = case_of()
    given = case.inputs()
    want = reference(given)
    assert 0 < want < 8
    assert_value(case, given, want)


def test_gradient_is_that_of_the_loss():
    case = case_of()
    assert_gradient(case, case.inputs(), rtol=1e-5)


def test_it_is_a_distance_of_directions_to_the_other_view():
    """The scale of predictions and targets means nothing, which image and which view does."""
    case = case_of()
    given, value = case.inputs(), jax.jit(case.value)
    want = value(given)

    def scaled(tree, by):
        layer = {name: leaf * by for name, leaf in tree["fc_1"].items()}
        return {**tree, "fc_1": layer}

    longer = dataclasses.replace(
        given,
        params={**given.params, "predictor": scaled(given.params["predictor"], 3.0)},
        ema={"target": {"projector": scaled(given.ema["target"]["projector"], 0.5)}},
    )
    np.testing.assert_allclose(value(longer), want, rtol=1e-5)
    order = np.random.default_rng(0).permutation(B)
    np.testing.assert_allclose(value(take(given, order)), want, rtol=1e-5)
    for name in ("target_a", "target_b"):
        broken = given.feats | {name: take(given, order).feats[name]}
        assert abs(value(dataclasses.replace(given, feats=broken)) - want) > 0.05


def test_a_perfect_prediction_costs_nothing_and_an_opposite_one_eight():
    """The same features everywhere, and a predictor that copies: relu(x) - relu(-x)."""
    case = case_of()
    given = case.inputs()
    feats = dict.fromkeys(given.feats, given.feats["online_a"])
    projector = given.params["projector"]
    x = mlp(projector, feats["online_a"].pooled, "batch")
    mean, deviation, eye = x.mean(0), np.sqrt(x.var(0) + 1e-5), np.eye(CONFIG.out)
    for sign, want in ((1, 0), (-1, 8)):
        predictor = {
            "fc_0": {"kernel": np.concatenate([eye, -eye], 1)},
            # It puts back what batch norm takes away.
            "norm_0": {
                "scale": np.tile(deviation, 2),
                "bias": np.concatenate([mean, -mean]),
            },
            "fc_1": {"kernel": sign * np.concatenate([eye, -eye])},
        }
        params = {"projector": projector, "predictor": jax.tree.map(jnp.float32, predictor)}
        given = dataclasses.replace(
            given, params=params, ema={"target": {"projector": projector}}, feats=feats
        )
        np.testing.assert_allclose(jax.jit(case.value)(given), want, atol=1e-4)


def test_the_momentum_rises_to_one_and_both_networks_share_it():
    passes = byol.passes(byol.Config(), SPEC)
    teacher = {p.weights for name, p in passes.items() if name.startswith("target")}
    assert teacher == {Ema(byol.MOMENTUM)}
    assert Case.of(byol).vars.ema["target"].momentum == byol.MOMENTUM
    for k in (0, 25, 100):
        want = 1 - (1 - 0.996) * (np.cos(np.pi * k / 100) + 1) / 2
        np.testing.assert_allclose(at(byol.MOMENTUM, jnp.int32(k), 100), want, rtol=1e-6)
    a, b = (passes[f"online_{v}"].view.aug for v in "ab")
    assert (a.blur_p, a.solarize_p, b.blur_p, b.solarize_p) == (1.0, 0.0, 0.1, 0.2)


def test_the_target_averages_encoder_and_projector_after_the_optimiser():
    momentum = {"start": 0.5, "end": 1.0}
    keys = {"hidden": 8, "out": 4, "momentum": momentum}
    states = states_of(resolve({"byol": keys}, steps=4), 2)

    def both(s):
        (copy,) = s.ema["tower"].values()
        own = s.ema["objective"]["byol"]["target"]["projector"]
        student = s.params["encoder"], s.params["objective"]["byol"]["projector"]
        return (copy["encoder"]["params"], own), student

    for n in range(2):
        m = at(Schedule("cosine", **momentum), jnp.int32(n), 4)
        (old, _), (new, student) = both(states[n]), both(states[n + 1])
        assert_close(new, jax.tree.map(lambda a, b, m=m: m * a + (1 - m) * b, old, student), 1e-6)


def test_flops_are_those_that_xla_counts():
    config = byol.Config(hidden=512, out=512)
    counted = counted_flops(Case.of(byol, config, BROAD))
    teacher = 2 * byol._head(config).flops(512)
    np.testing.assert_allclose(byol.flops(config, BROAD), counted - teacher * 2 / 3, rtol=0.02)
