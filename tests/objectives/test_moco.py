"""MoCo against InfoNCE in float64 NumPy, one query at a time; the queue through the step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import BROAD, SPEC, B, Case, assert_gradient, assert_value, counted_flops, moved, take
from numpy_heads import f64, mlp, unit
from support import batch_of, leaves, program_of, resolve, states_of

from facejax.contracts import Draw, Ema
from facejax.errors import UserError
from facejax.forward import forward
from facejax.objectives import moco

CONFIG = moco.Config.tiny()


def projections(given, keys=1):
    q = unit(mlp(given.params["projector"], given.feats["query"].pooled))
    own = given.ema["key"]["projector"]
    return q, [unit(mlp(own, given.feats[f"key_{i}"].pooled)) for i in range(keys)]


def reference(given, cfg):
    q, keys = projections(given, cfg.keys)
    queue = f64(given.state["queue"]["rows"])
    total = 0.0
    for i in range(len(q)):
        negatives = sum(np.exp(q[i] @ n / cfg.tau) for n in queue)
        for k in keys:
            positive = np.exp(q[i] @ k[i] / cfg.tau)
            total -= np.log(positive / (positive + negatives)) / len(q) / len(keys)
    return total


def case_of(**options) -> Case:
    return moved(Case.of(moco, dataclasses.replace(CONFIG, **options)))


@pytest.mark.parametrize("options", [{}, {"depth": 1, "tau": 0.07}, {"keys": 3}])
def test_loss_is_its_formula(options):
    case = case_of(**options)
    given = case.inputs()
    assert_value(case, given, reference(given, case.config))


def test_gradient_is_that_of_the_loss():
    case = case_of()
    assert_gradient(case, case.inputs(), rtol=1e-6)


def test_where_all_are_equal_the_loss_is_that_of_guessing():
    case = case_of()
    given = case.inputs("equal")
    given = dataclasses.replace(given, ema={"key": given.params})
    given = dataclasses.replace(given, feats=dict.fromkeys(given.feats, given.feats["query"]))
    rows = np.tile(projections(given)[0][:1], (CONFIG.queue, 1)).astype(np.float32)
    given.state["queue"]["rows"] = rows
    np.testing.assert_allclose(jax.jit(case.value)(given), np.log(CONFIG.queue + 1), rtol=1e-6)


def test_the_order_of_the_queue_means_nothing_and_that_of_pairs_all():
    case = case_of()
    given, value = case.inputs(), jax.jit(case.value)
    want = value(given)
    rows = given.state["queue"]["rows"]
    turned = {"queue": {**given.state["queue"], "rows": rows[::-1]}}
    np.testing.assert_allclose(value(dataclasses.replace(given, state=turned)), want, rtol=1e-6)
    other = take(given, np.arange(B)[::-1]).feats
    broken = {"query": given.feats["query"], "key_0": other["key_0"]}
    assert abs(value(dataclasses.replace(given, feats=broken)) - want) > 0.05


def test_v1_and_v2_are_options():
    views = [p.view.aug for p in moco.passes(moco.Config(), SPEC).values()]
    assert {(v.scale, v.jitter, v.blur_p) for v in views} == {((0.2, 1), (0.4, 0.4, 0.4, 0.1), 0.5)}
    passes = moco.passes(dataclasses.replace(CONFIG, keys=2), SPEC)
    assert [p.weights for p in passes.values()][1:] == [Ema(0.999)] * 2
    assert len({p.view for p in passes.values()}) == 3
    v1 = moco.init(moco.Config(depth=1, queue=8), jax.random.key(0), SPEC)
    assert v1.params["projector"].keys() == {"fc_0"}


def test_a_queue_that_the_batch_does_not_divide_is_refused_before_anything_is_built():
    with pytest.raises(UserError, match=r"^config.objective.own.queue: 12 rows .* multiple of 8"):
        program_of(resolve({"own": {"type": "moco", "queue": 12}}))


# ------------------------------------------------------------------------- through the step

TINY = {"queue": 24, "hidden": 8, "out": 4, "momentum": 0.9}


def keys_of_step(program):
    """A function to the keys of a step, from the forward of the momentum encoder alone."""

    @jax.jit
    def pooled(current, image):
        draw = Draw(jax.random.fold_in(jax.random.key(0), current.step), jnp.arange(8))
        shown = {"image": image}
        found, _ = forward(program, current.params, current.stats, current.ema, {}, shown, draw)
        return next(f.pooled for p, f in found.items() if isinstance(p.weights, Ema))

    def keys(current):
        found = pooled(current, batch_of(program.run, int(current.step))["image"])
        return unit(mlp(current.ema["objective"]["moco"]["key"]["projector"], found))

    return keys


def test_the_queue_takes_the_keys_of_each_step_and_wraps():
    run = resolve({"moco": TINY})
    keys = keys_of_step(program_of(run))
    states = states_of(run, 4)
    rows = [s.objective["state"]["moco"]["queue"]["rows"] for s in states]
    pointers = [int(s.objective["state"]["moco"]["queue"]["pointer"]) for s in states]
    assert pointers == [0, 8, 16, 0, 8]
    for n in range(4):
        start = pointers[n]
        np.testing.assert_allclose(rows[n + 1][start : start + 8], keys(states[n]), atol=1e-5)
        rest = np.delete(np.arange(24), np.s_[start : start + 8])
        np.testing.assert_array_equal(rows[n + 1][rest], rows[n][rest])


def test_a_momentum_of_one_freezes_the_key_encoder():
    run = resolve({"moco": {**TINY, "momentum": 1.0}})
    before, *_, after = states_of(run, 2)
    for path, leaf in leaves(before.ema).items():
        np.testing.assert_array_equal(leaves(after.ema)[path], leaf, err_msg=path)
    assert np.abs(after.params["encoder"]["embed"]["kernel"]
                  - before.params["encoder"]["embed"]["kernel"]).max() > 1e-4  # fmt: skip


def test_flops_are_those_that_xla_counts():
    config = moco.Config(queue=512, hidden=512, keys=2)
    head = moco._projector(config).flops(512)
    counted = counted_flops(Case.of(moco, config, BROAD))
    # The key heads run forward only: a third of what a step costs elsewhere.
    want = counted - 2 * head * 2 / 3
    np.testing.assert_allclose(moco.flops(config, BROAD), want, rtol=0.02)
