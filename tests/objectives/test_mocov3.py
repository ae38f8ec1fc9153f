"""MoCo v3 against its cross-entropies in float64 NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import (
    BROAD,
    SPEC,
    B,
    Case,
    assert_gradient,
    assert_value,
    counted_flops,
    moved,
    rewritten,
    take,
)
from numpy_heads import mlp, softmax, unit

from facejax.contracts import Ema
from facejax.objectives import mocov3
from facejax.schedule import at

CONFIG = mocov3.Config.tiny()


def projections(given, cfg):
    queries, keys = [], []
    for name in "abcd"[: cfg.views]:
        projected = mlp(
            given.params["projector"], given.feats[f"query_{name}"].pooled, "batch", True
        )
        predictor = given.params["predictor"]
        queries.append(unit(mlp(predictor, projected, "batch", cfg.predictor_norm)))
        key = mlp(given.ema["key"]["projector"], given.feats[f"key_{name}"].pooled, "batch", True)
        keys.append(unit(key))
    return queries, keys


def cross_entropy(q, k, tau):
    return -np.mean(np.log(np.diag(softmax(q @ k.T / tau))))


def case_of(**options) -> Case:
    return moved(Case.of(mocov3, dataclasses.replace(CONFIG, **options)))


@pytest.mark.parametrize("options", [{}, {"tau": 1.0, "predictor_norm": False, "depth": 3}])
def test_loss_is_its_formula(options):
    case = case_of(**options)
    given, tau = case.inputs(), case.config.tau
    (q1, q2), (k1, k2) = projections(given, case.config)
    want = 2 * tau * (cross_entropy(q1, k2, tau) + cross_entropy(q2, k1, tau))
    assert_value(case, given, want)


def test_with_more_views_each_finds_its_keys_in_all_the_others():
    case = case_of(views=3)
    given, tau = case.inputs(), case.config.tau
    q, k = projections(given, case.config)
    pairs = [(u, v) for u in range(3) for v in range(3) if u != v]
    want = 4 * tau * np.mean([cross_entropy(q[u], k[v], tau) for u, v in pairs])
    assert_value(case, given, want)


def test_gradient_is_that_of_the_loss():
    case = case_of()
    assert_gradient(case, case.inputs(), rtol=1e-5)


def test_where_all_are_equal_the_loss_is_that_of_guessing():
    case = case_of()
    np.testing.assert_allclose(
        jax.jit(case.value)(case.inputs("equal")), 4 * CONFIG.tau * np.log(B), rtol=1e-5
    )


def test_views_and_rows_may_change_places():
    case = case_of()
    given, value = case.inputs(), jax.jit(case.value)
    want = value(given)
    swapped = {f"{kind}_{v}": given.feats[f"{kind}_{w}"]
               for kind in ("query", "key") for v, w in ("ab", "ba")}  # fmt: skip
    np.testing.assert_allclose(value(dataclasses.replace(given, feats=swapped)), want, rtol=1e-5)
    order = np.random.default_rng(0).permutation(B)
    np.testing.assert_allclose(value(take(given, order)), want, rtol=1e-5)
    broken = given.feats | {"key_a": take(given, order).feats["key_a"]}
    assert abs(value(dataclasses.replace(given, feats=broken)) - want) > 0.05


def test_modifiers_see_one_direction_at_a_time():
    case = case_of()
    given, seen = case.inputs(), []

    def first_only(pairs):
        seen.append(pairs)
        return pairs if len(seen) == 1 else dataclasses.replace(pairs, weight=0 * pairs.weight)

    (_, q2), (k1, _) = projections(given, case.config)
    want = 2 * CONFIG.tau * cross_entropy(q2, k1, CONFIG.tau)
    got = jax.jit(lambda: rewritten(case, given, first_only))().terms["info_nce"]
    np.testing.assert_allclose(got.weight * got.value(), want, rtol=1e-5)
    assert [p.neg.shape for p in seen] == [(B, CONFIG.out)] * 2


def test_the_momentum_follows_its_formula_and_both_networks_share_it():
    passes = mocov3.passes(mocov3.Config(), SPEC)
    teacher = {p.weights for name, p in passes.items() if name.startswith("key")}
    assert teacher == {Ema(mocov3.MOMENTUM)}
    assert Case.of(mocov3).vars.ema["key"].momentum == mocov3.MOMENTUM
    for t in (0, 30, 100):
        want = 1 - 0.5 * (1 + np.cos(np.pi * t / 100)) * (1 - 0.99)
        np.testing.assert_allclose(at(mocov3.MOMENTUM, jnp.int32(t), 100), want, rtol=1e-6)
    a, b = (passes[f"query_{v}"].view.aug for v in "ab")
    assert (a.blur_p, a.solarize_p, b.blur_p, b.solarize_p) == (1.0, 0.0, 0.1, 0.2)
    assert passes["query_a"].view == passes["key_a"].view


def test_flops_are_those_that_xla_counts():
    config = mocov3.Config(hidden=512, out=512)
    counted = counted_flops(Case.of(mocov3, config, BROAD))
    teacher = 2 * mocov3._projector(config).flops(512)
    np.testing.assert_allclose(mocov3.flops(config, BROAD), counted - teacher * 2 / 3, rtol=0.02)
