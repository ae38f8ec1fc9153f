"""The optimiser against optax and against the formulas in NumPy; rules; row updates."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import assert_close, leaves

from facejax import optim
from facejax.config import Optimizer, Rule
from facejax.contracts import Sparse
from facejax.errors import UserError
from facejax.schedule import Schedule, at

STEPS, COUNT = 10, 5
SCHEDULE = Schedule("cosine", warmup=0.3)
DECAYING = {"schedule": SCHEDULE, "lr": 0.1, "weight_decay": 0.2}


def params_of(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "encoder": {"dense": {"kernel": (4, 3), "bias": (3,)}, "cls_token": (1, 4)},
        "objective": {"mae": {"head": {"kernel": (3, 2)}}},
    }
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), shapes, is_leaf=is_shape
    )


GRADS = [params_of(seed) for seed in range(1, COUNT + 1)]


def run(cfg: Optimizer, rules=(), grads=GRADS, steps=STEPS):
    """The parameters after each step, and the last state."""
    params = params_of()
    optimizer = optim.make(cfg, rules, params, global_batch=256, steps=steps)
    state, out = optimizer.init(params), [params]
    update = jax.jit(optimizer.update)
    for n, g in enumerate(grads):
        updates, state = update(g, state, params, jnp.int32(n))
        params = optax.apply_updates(params, updates)
        out.append(params)
    return out, state


def run_optax(transform):
    params = params_of()
    state, out = transform.init(params), [params]
    update = jax.jit(transform.update)
    for g in GRADS:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
        out.append(params)
    return out


def rate(step):
    return 0.1 * at(SCHEDULE, step, STEPS)


def decayed(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


def assert_steps_equal(ours, theirs, atol=1e-6):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert_close(a, b, atol=atol)


def test_adamw_is_optax_adamw_with_decay_on_matrices_alone():
    ours, _ = run(Optimizer("adamw", b1=0.8, b2=0.9, eps=1e-6, **DECAYING))
    theirs = run_optax(optax.adamw(rate, 0.8, 0.9, 1e-6, weight_decay=0.2, mask=decayed))
    assert_steps_equal(ours, theirs)
    everywhere = run_optax(optax.adamw(rate, 0.8, 0.9, 1e-6, weight_decay=0.2))
    with pytest.raises(AssertionError, match="dense/bias"):
        assert_steps_equal(ours, everywhere)


def test_lars_is_optax_lars():
    ours, _ = run(Optimizer("lars", momentum=0.8, trust=0.02, **DECAYING))
    theirs = run_optax(
        optax.lars(
            rate,
            weight_decay=0.2,
            weight_decay_mask=decayed,
            trust_coefficient=0.02,
            trust_ratio_mask=decayed,
            momentum=0.8,
        )
    )
    assert_steps_equal(ours, theirs)


def test_lars_moves_a_zero_layer_by_its_plain_gradient():
    """A layer of zeros has no norm to follow; it must not stay at zero for ever."""
    params = {"kernel": jnp.zeros((2, 2))}
    cfg = Optimizer("lars", lr=0.5, schedule=Schedule("constant"), weight_decay=0.1)
    optimizer = optim.make(cfg, (), params, global_batch=1, steps=1)
    updates, _ = optimizer.update(
        {"kernel": jnp.ones((2, 2))}, optimizer.init(params), params, jnp.int32(0)
    )
    np.testing.assert_allclose(updates["kernel"], -0.5)
    updates, _ = optimizer.update(params, optimizer.init(params), params, jnp.int32(0))
    np.testing.assert_array_equal(updates["kernel"], 0.0)


def test_sgd_is_the_textbook_rule():
    """v = m v + (g + wd w), w = w - lr v, as torch.optim.SGD without dampening."""
    ours, _ = run(Optimizer("sgd", momentum=0.7, **DECAYING))
    want = {k: np.float64(v) for k, v in leaves(params_of()).items()}
    velocity = dict.fromkeys(want, 0.0)
    for n, g in enumerate(GRADS):
        for path, own in leaves(g).items():
            decay = 0.2 if own.ndim > 1 else 0.0
            velocity[path] = 0.7 * velocity[path] + own + decay * want[path]
            want[path] = want[path] - float(rate(n)) * velocity[path]
        got = leaves(ours[n + 1])
        for path, value in want.items():
            np.testing.assert_allclose(got[path], value, atol=1e-6, err_msg=path)


def test_rate_and_decay_come_from_the_step_number():
    """Skipped or resumed, step 7 is step 7."""
    params = params_of()
    cfg = Optimizer("sgd", base_lr=0.5, schedule=SCHEDULE, weight_decay=Schedule("linear", end=0.5))
    optimizer = optim.make(cfg, (), params, global_batch=128, steps=STEPS)
    np.testing.assert_allclose(optimizer.lr(jnp.int32(7)), 0.25 * at(SCHEDULE, 7, STEPS), rtol=1e-6)
    assert optimizer.lr(jnp.int32(0)) == 0
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params, jnp.int32(7))
    want = -optimizer.lr(jnp.int32(7)) * 0.65 * params["encoder"]["dense"]["kernel"]
    np.testing.assert_allclose(updates["encoder"]["dense"]["kernel"], want, rtol=1e-5)


# -------------------------------------------------------------------------------------- rules


def with_rules(*rules: Rule, **keys) -> Optimizer:
    return Optimizer("adamw", rules=rules, **{**DECAYING, **keys})


def test_a_rule_multiplies_rate_and_decay():
    ours, _ = run(with_rules(Rule("encoder/dense", lr=0.5, weight_decay=3.0)))
    theirs = run_optax(
        optax.adamw(lambda n: 0.5 * rate(n), 0.9, 0.95, weight_decay=0.6, mask=decayed)
    )
    plain, _ = run(with_rules())
    for got, ruled, unruled in zip(ours, theirs, plain):
        assert_close(got["encoder"]["dense"], ruled["encoder"]["dense"], atol=1e-6)
        assert_close(got["objective"], unruled["objective"], atol=1e-6)


def test_the_first_match_counts():
    first, _ = run(with_rules(Rule("kernel", lr=0.5), Rule("dense/kernel", lr=7.0)))
    alone, _ = run(with_rules(Rule("kernel", lr=0.5)))
    assert_steps_equal(first, alone, atol=0)
    # The config's rules come before those of the objectives.
    objective, _ = run(with_rules(Rule("kernel", lr=0.5)), rules=[Rule("kernel", lr=7.0)])
    assert_steps_equal(objective, alone, atol=0)
    objective, _ = run(with_rules(), rules=[Rule("kernel", lr=0.5)])
    assert_steps_equal(objective, alone, atol=0)


def test_frozen_for_ever_is_bit_identical_and_has_no_moments():
    ours, state = run(with_rules(Rule("^encoder/", frozen_until=-1)))
    assert_close(ours[-1]["encoder"], ours[0]["encoder"], atol=0)
    assert np.abs(leaves(ours[-1])["objective/mae/head/kernel"]).max() > 0
    assert not any("encoder" in path for path in leaves(state))
    alone, _ = run(with_rules())
    assert_close(ours[-1]["objective"], alone[-1]["objective"], atol=1e-6)


@pytest.mark.parametrize("until", [2, 0.2])
def test_frozen_until_a_step_starts_afresh_there(until):
    """Bit-identical before it, and from then on as an optimiser that begins at that step."""
    ours, state = run(with_rules(Rule("dense", frozen_until=until)))
    for n in (1, 2):
        assert_close(ours[n]["encoder"]["dense"], ours[0]["encoder"]["dense"], atol=0)
    late = optax.adamw(lambda n: rate(n + 2), 0.9, 0.95, weight_decay=0.2, mask=decayed)
    params = params_of()["encoder"]["dense"]
    late_state = late.init(params)
    for n in range(2, COUNT):
        grads = GRADS[n]["encoder"]["dense"]
        updates, late_state = late.update(grads, late_state, params)
        params = optax.apply_updates(params, updates)
    assert_close(ours[-1]["encoder"]["dense"], params, atol=1e-6)
    counts = sorted(int(v) for k, v in leaves(state).items() if k.endswith("count"))
    assert counts == [COUNT - 2, COUNT]


def test_another_optimiser_for_some():
    ours, _ = run(with_rules(Rule("objective", name="sgd")))
    adamw, _ = run(with_rules())
    sgd, _ = run(Optimizer("sgd", **DECAYING))
    for got, a, s in zip(ours, adamw, sgd):
        assert_close(got["encoder"], a["encoder"], atol=1e-6)
        assert_close(got["objective"], s["objective"], atol=1e-6)


def test_clip_bounds_the_norm_of_what_is_trained():
    def gradients(clip, *rules):
        keys = {"lr": 1.0, "schedule": Schedule("constant"), "weight_decay": 0.0, "momentum": 0.0}
        after, _ = run(Optimizer("sgd", clip=clip, rules=rules, **keys), grads=GRADS[:1])
        return jax.tree.map(jnp.subtract, after[0], after[1])

    norm = float(optax.tree.norm(GRADS[0]))
    assert norm > 2
    clipped = gradients(2.0)
    np.testing.assert_allclose(optax.tree.norm(clipped), 2.0, rtol=1e-4)
    assert_close(clipped, jax.tree.map(lambda g: g * 2 / norm, GRADS[0]), atol=1e-5)
    assert_close(gradients(2 * norm), GRADS[0], atol=1e-6)
    # The gradient of what never moves does not shrink the others'.
    live = gradients(2.0, Rule("^encoder", frozen_until=-1))
    np.testing.assert_allclose(
        optax.tree.norm(live), min(2.0, float(optax.tree.norm(GRADS[0]["objective"]))), rtol=1e-4
    )


@pytest.mark.parametrize(
    ("rule", "where", "told"),
    [
        (Rule("decoder"), "config.optimizer.rules[1].pattern", "'decoder' finds no parameter"),
        (Rule("dense["), "config.optimizer.rules[1].pattern", "no regular expression"),
    ],
)
def test_a_rule_that_finds_nothing_or_is_no_pattern(rule, where, told):
    with pytest.raises(UserError, match=r"encoder/|mend it") as caught:
        run(with_rules(Rule("encoder"), rule))
    assert caught.value.where == where
    assert told in caught.value.what


# ------------------------------------------------------------------------------- row updates

SPARSE = Sparse(None, momentum=0.5, weight_decay=0.1, lr=2.0)


def rows_update(value, velocity, grad, rows, ok=True):
    return jax.jit(functools.partial(optim.sparse_update, SPARSE))(
        jnp.asarray(value),
        jnp.asarray(velocity),
        jnp.asarray(grad),
        jnp.asarray(rows),
        jnp.float32(0.25),
        jnp.asarray(ok),
    )


def test_a_rule_may_keep_its_learning_rate_while_the_others_decay():
    kept = Rule("head", lr=0.5, schedule=Schedule("constant"))
    after, _ = run(Optimizer("sgd", lr=0.1, momentum=0.0, weight_decay=0.0), rules=[kept])
    for n, (old, new) in enumerate(itertools.pairwise(after)):
        moved = jax.tree.map(lambda a, b, g: (a - b) / g, old, new, GRADS[n])
        rate = 0.1 * at(Schedule("cosine", warmup=0.05), n, STEPS)
        for path, found in leaves(moved).items():
            want = 0.05 if "head" in path else rate
            np.testing.assert_allclose(found, want, atol=1e-4, err_msg=path)


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    value, velocity = rng.normal(size=(2, 6, 3)).astype(np.float32)
    return value, velocity, rng.normal(size=(4, 3)).astype(np.float32)


def test_rows_move_by_momentum_and_decay_and_the_others_stay(table):
    value, velocity, grad = table
    rows = np.array([4, 0, 6, 6], np.int32)  # 6 is past the end: padding, twice
    new, moved = rows_update(value, velocity, grad, rows)
    want, want_v = value.copy(), velocity.copy()
    for r, g in zip(rows[:2], grad):
        want_v[r] = 0.5 * velocity[r] + g + 0.1 * value[r]
        want[r] = value[r] - 0.25 * 2.0 * want_v[r]
    np.testing.assert_allclose(new, want, atol=1e-6)
    np.testing.assert_allclose(moved, want_v, atol=1e-6)
    rest = [1, 2, 3, 5]
    np.testing.assert_array_equal(new[np.array(rest)], value[rest])
    np.testing.assert_array_equal(moved[np.array(rest)], velocity[rest])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_with_a_bad_gradient_stays_and_the_others_move(table, bad):
    value, velocity, grad = table
    rows = np.array([1, 3, 5, 0], np.int32)
    grad[1, 2] = bad
    new, moved = rows_update(value, velocity, grad, rows)
    assert np.isfinite(new).all()
    assert np.isfinite(moved).all()
    np.testing.assert_array_equal(new[3], value[3])
    np.testing.assert_array_equal(moved[3], velocity[3])
    assert (np.abs(new - value).max(1) > 0).tolist() == [True, True, False, False, False, True]


def test_a_skipped_step_moves_no_row(table):
    value, velocity, grad = table
    new, moved = rows_update(value, velocity, grad, np.arange(4, dtype=np.int32), ok=False)
    np.testing.assert_array_equal(new, value)
    np.testing.assert_array_equal(moved, velocity)
