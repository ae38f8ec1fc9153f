"""The step through the contract, on test plug-ins: accumulation, EMA, queues, rows, guards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import CLASSES, assert_close, batch_of, leaves, program_of, resolve, steps

from benchmarks.loss_memory import largest_message
from facejax import mesh, state
from facejax.config import MeshShape
from facejax.contracts import Draw, TowerSpec
from facejax.encoders import vit
from facejax.forward import forward
from facejax.plugins import load
from facejax.step import jitted

EVERYTHING = {
    "queue": {"modifiers": {"gate": {}}, "weight": 0.5},
    "ratio": {},
    "centres": {"sampled": 10, "augment": True},
}


def test_accumulation_equals_the_whole_batch():
    """Batch-scope, sample-scope with a data-dependent count, EMA, queue, rows: all at once."""
    whole, history = steps(resolve(EVERYTHING), 3)
    parts, part_history = steps(resolve(EVERYTHING, micro_batch=2), 3)
    assert_close(whole, parts, atol=1e-5, rtol=1e-5)
    for a, b in zip(history, part_history):
        assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert whole.objective["state"]["ratio"]["seen"] > 0


def test_ema_follows_its_formula_and_the_queue_takes_the_keys():
    run = resolve({"queue": {"momentum": 0.9}})
    before, _ = steps(run, 0)
    after, _ = steps(run, 1)
    m = 0.9
    expected = jax.tree.map(lambda a, b: m * a + (1 - m) * b, before.params, after.params)
    copy = after.ema["tower"]["ema_0.9"]["encoder"]["params"]
    assert_close(copy, expected["encoder"], atol=1e-7, rtol=1e-6)
    own = after.ema["objective"]["queue"]["key"]["projector"]
    assert_close(own, expected["objective"]["queue"]["projector"], atol=1e-7, rtol=1e-6)
    queue = after.objective["state"]["queue"]
    assert queue["pointer"] == 8
    old = before.objective["state"]["queue"]["queue"]
    np.testing.assert_array_equal(queue["queue"][8:], old[8:])
    assert np.abs(queue["queue"][:8] - old[:8]).max() > 0.1
    wrapped, _ = steps(run, 2)
    assert wrapped.objective["state"]["queue"]["pointer"] == 0


def test_no_gradient_reaches_a_teacher():
    program = program_of(resolve({"queue": {}}))
    current = state.initial(program)
    batch = {"image": jnp.asarray(batch_of(program.run)["image"])}
    key = next(p for p in program.forwards if "k" in p.view.draw)

    def teacher(ema):
        features, _ = forward(
            program,
            current.params,
            current.stats,
            ema,
            {},
            batch,
            Draw(jax.random.key(0), jnp.arange(8)),
        )
        return features[key].pooled.sum()

    grads = jax.grad(teacher)(current.ema)
    assert all((g == 0).all() for g in leaves(grads).values())


def test_a_modifier_that_does_nothing_changes_nothing():
    plain, _ = steps(resolve({"queue": {}}), 2)
    off, _ = steps(resolve({"queue": {"modifiers": {"gate": {"off": True}}}}), 2)
    assert_close(plain.params["encoder"], off.params["encoder"], atol=0)
    assert off.objective["modifier"]["queue"]["gate"]["calls"] == 2
    on, _ = steps(resolve({"queue": {"modifiers": {"gate": {}}}}), 2)
    assert np.abs(leaves(on.params["modifier"])["queue/gate/scale"] - 0.5).max() > 1e-3


def test_a_weight_of_zero_leaves_the_others_bit_equal():
    alone, _ = steps(resolve({"ratio": {}}), 2)
    beside, _ = steps(resolve({"queue": {"weight": 0}, "ratio": {}}), 2)
    assert leaves(alone).keys() == leaves(beside).keys()
    assert_close(alone, beside, atol=0)


def test_weights_scale_the_sum():
    _, one = steps(resolve({"ratio": {}}), 1)
    _, half = steps(resolve({"ratio": {"weight": {"start": 0.5, "kind": "constant"}}}), 1)
    np.testing.assert_allclose(half[0]["loss"], 0.5 * one[0]["loss"], rtol=1e-6)
    np.testing.assert_allclose(half[0]["loss/ratio"], one[0]["loss/ratio"], rtol=1e-6)
    np.testing.assert_allclose(half[0]["grad_norm"], 0.5 * one[0]["grad_norm"], rtol=1e-5)


def test_sampled_rows_alone_move():
    run = resolve({"centres": {"sampled": 9}})
    before, _ = steps(run, 0)
    after, _ = steps(run, 1)
    ids = batch_of(run)["identity"]
    positives = np.unique(ids)
    others = np.setdiff1d(np.arange(CLASSES), positives)
    sampled = np.concatenate([positives, others])[:9]
    rest = np.setdiff1d(np.arange(CLASSES), sampled)
    assert len(rest) == 3
    moved = np.abs(after.objective["sparse"]["centres"]["centres"]
                   - before.objective["sparse"]["centres"]["centres"]).max(1) > 0  # fmt: skip
    assert moved[sampled].all()
    assert not moved[rest].any()
    velocity = after.objective["velocity"]["centres"]["centres"]
    assert (np.abs(velocity[rest]) == 0).all()


def test_all_rows_sampled_is_sgd_with_momentum():
    """Against the rule written out, with the gradient taken through the whole array."""
    run = resolve({"centres": {}})
    program = program_of(run)
    current = state.initial(program)
    value, velocity = current.objective["sparse"]["centres"]["centres"], 0.0
    params = current.params
    momentum = jax.tree.map(jnp.zeros_like, params)
    for n in range(2):
        batch = {k: jnp.asarray(v) for k, v in batch_of(run, n).items()}
        draw = Draw(jax.random.fold_in(jax.random.key(0), n), jnp.arange(8))

        def total(params, value, batch=batch, draw=draw):
            features, _ = forward(program, params, {"encoder": {}}, {}, {}, batch, draw)
            z = next(iter(features.values())).pooled
            z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
            w = value / jnp.linalg.norm(value, axis=1, keepdims=True)
            logits = 8.0 * z @ w.T
            return -jax.nn.log_softmax(logits)[jnp.arange(8), batch["identity"]].mean()

        grads, row_grads = jax.grad(total, argnums=(0, 1))(params, value)
        velocity = 0.9 * velocity + row_grads
        value = value - 0.1 * velocity
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, grads)
        params = jax.tree.map(lambda p, m: p - 0.1 * m, params, momentum)
    after, _ = steps(run, 2)
    np.testing.assert_allclose(after.objective["sparse"]["centres"]["centres"], value, atol=1e-5)
    assert_close(after.params["encoder"], params["encoder"], atol=1e-5)


def test_a_non_finite_step_moves_only_the_counters():
    objective = {"ratio": {"poison": 1}, "queue": {}, "centres": {}}
    good, _ = steps(resolve(objective), 1)
    after, history = steps(resolve(objective), 2)
    for item in ("params", "stats", "opt", "ema", "objective"):
        assert_close(getattr(good, item), getattr(after, item), atol=0)
    assert (after.step, after.skipped, after.nonfinite) == (2, 1, 1)
    assert np.isnan(history[1]["loss/ratio"])
    assert np.isfinite(history[1]["loss/queue"])
    third, _ = steps(resolve(objective), 3)
    assert (third.step, third.skipped, third.nonfinite) == (3, 1, 0)
    assert np.abs(leaves(third.params)["encoder/embed/kernel"]
                  - leaves(after.params)["encoder/embed/kernel"]).max() > 0  # fmt: skip


def test_frozen_and_cached_teachers():
    teacher_cfg = vit.Config(variant="Ti", width=8, depth=1, heads=1, patch=8, size=16)
    params, stats = vit.init(teacher_cfg, jax.random.key(7), TowerSpec())
    run = resolve({"distil": {"path": "teacher"}})
    frozen = {"teacher": (vit, teacher_cfg)}
    after, history = steps(run, 2, frozen=frozen, frozen_params={"teacher": (params, stats)})
    assert "teacher" not in "".join(leaves(after))
    other = jax.tree.map(lambda x: x + 1.0, params)
    _, changed = steps(run, 1, frozen=frozen, frozen_params={"teacher": (other, stats)})
    assert abs(history[0]["loss"] - changed[0]["loss"]) > 1e-3

    _, cached = steps(resolve({"distil": {"cached": "feature"}}), 1)
    assert np.isfinite(cached[0]["loss"])
    assert program_of(resolve({"distil": {"cached": "feature"}})).fields() == ("feature", "image")
    # Named by a key of the objective's config.
    assert program_of(resolve({"fccov": {"field": "age"}})).fields() == ("age", "image")


def test_frozen_until_holds_parameters_and_moments():
    keys = {"optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}}
    run = resolve({"distil": {"frozen_until": 2}}, **keys)
    start, _ = steps(run, 0)
    two, _ = steps(run, 2)
    three, _ = steps(run, 3)
    head = "objective/distil/head/kernel"
    np.testing.assert_array_equal(leaves(two.params)[head], leaves(start.params)[head])
    assert np.abs(leaves(three.params)[head] - leaves(start.params)[head]).max() > 0
    counts = {k: int(v) for k, v in leaves(three.opt).items() if k.endswith("count")}
    assert counts == {"main/count": 3, "main_from_2/count": 1}


def test_batch_statistics_are_the_mean_over_training_passes():
    run = resolve({"queue": {}, "ratio": {}}, encoder={"name": "toy", "norm": True})
    program = program_of(run)
    current = state.initial(program)
    batch = {"image": jnp.asarray(batch_of(run)["image"])}
    key = jax.random.fold_in(jax.random.key(0), 0)
    args = (current.params, current.stats, current.ema, {}, batch, Draw(key, jnp.arange(8)))
    _, both = forward(program, *args)
    singles = []
    for label in ("queue", "ratio"):
        one = program_of(resolve({label: {}}, encoder={"name": "toy", "norm": True}))
        singles.append(forward(one, *args)[1]["encoder"]["mean"])
    np.testing.assert_allclose(both["encoder"]["mean"], sum(singles) / 2, atol=1e-6)
    after, _ = steps(run, 1)
    assert np.abs(after.stats["encoder"]["mean"]).max() > 0
    moved = after.ema["tower"]["ema_0.9"]["encoder"]["stats"]["mean"]
    np.testing.assert_allclose(moved, 0.1 * after.stats["encoder"]["mean"], atol=1e-6)


def test_equal_passes_run_once():
    shared = program_of(resolve({"one": {"type": "distil"}, "two": {"type": "distil"}}))
    assert len(shared.forwards) == 1
    assert len(program_of(resolve({"queue": {}, "ratio": {}})).forwards) == 3


def test_rows_do_not_depend_on_the_batch_around_them():
    """The features of rows 4..7 alone equal those rows of the whole batch."""
    program = program_of(resolve({"ratio": {}}, encoder={"name": "toy", "drop_path": 0.5}))
    current = state.initial(program)
    images = jnp.asarray(batch_of(program.run)["image"])

    def tokens(rows):
        draw = Draw(jax.random.key(3), jnp.asarray(rows))
        args = (current.params, current.stats, current.ema, {}, {"image": images[np.array(rows)]})
        features, _ = forward(program, *args, draw)
        return next(iter(features.values())).tokens

    np.testing.assert_allclose(tokens(range(8))[4:], tokens([4, 5, 6, 7]), atol=1e-6)


@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_constants_are_seen_once_and_trained_through(scope, monkeypatch):
    """A pass over an objective's own arrays: accumulated as in one go, for one device or eight."""
    monkeypatch.setattr(load("objective", "prompts", ""), "SCOPE", scope)
    two = {"one": {"type": "prompts"}, "two": {"type": "prompts", "seed": 1}, "ratio": {}}
    objective = {"one": {"type": "prompts"}} if scope == "sample" else two
    whole, history = steps(resolve(objective), 2)
    parts, part_history = steps(resolve(objective, micro_batch=2), 2)
    assert_close(whole, parts, atol=1e-5, rtol=1e-5)
    for a, b in zip(history, part_history):
        assert_close(a, b, atol=1e-5, rtol=1e-5)
    if scope == "batch":
        many, _ = steps(resolve(objective), 2, devices=8)
        assert_close(whole, many, atol=1e-5)
        # Each objective sees its own, and no field of the batch.
        assert abs(history[0]["loss/one"] - history[0]["loss/two"]) > 1e-3
        assert program_of(resolve(objective)).fields() == ("identity", "image")


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1), (2, 4), (1, 8)])
def test_meshes_agree(shape):
    # SGD: Adam at eps 1e-8 turns a zero gradient's rounding into steps of its own.
    one, history = steps(resolve(EVERYTHING), 3)
    many, many_history = steps(resolve(EVERYTHING), 3, devices=8, shape=shape)
    assert_close(one, many, atol=1e-5)
    for a, b in zip(history, many_history):
        assert_close(a, b, atol=1e-5, rtol=1e-5)
    kernel = many.params["encoder"]["embed"]["kernel"]
    parts = {s.data.shape for s in kernel.addressable_shards}
    assert parts == {(192 // shape[1], 8)}
    mu = many.opt["main"].trace["encoder/embed/kernel"]
    assert mu.sharding == kernel.sharding
    copy = many.ema["tower"]["ema_0.9"]["encoder"]["params"]["embed"]["kernel"]
    assert copy.sharding == kernel.sharding


@pytest.mark.slow
def test_accumulation_on_a_mesh_equals_one_device():
    one, _ = steps(resolve(EVERYTHING, global_batch=16), 2)
    many, _ = steps(resolve(EVERYTHING, global_batch=16, micro_batch=8), 2, devices=8, shape=(2, 4))
    assert_close(one, many, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [None, 256])
def test_no_device_is_sent_all_features(micro_batch):
    """In what the command compiles negatives go from device to device, one share at a time."""
    rows, width, grid = 1024, 16, mesh.make(MeshShape(2, 4))
    simclr = {"simclr": {"hidden": 32, "out": width}}
    program = program_of(resolve(simclr, global_batch=rows, micro_batch=micro_batch))
    current = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        state.shapes(program),
        state.placement(program, grid),
    )
    images = (rows, program.spec.size, program.spec.size, 3)
    batch = {"image": jax.ShapeDtypeStruct(images, np.uint8, sharding=mesh.batch_sharding(grid))}
    step = jitted(program, grid)
    assert largest_message(step.lower(current, batch, {}).compile()) == 2 * rows * width // 8


def test_an_extended_run_keeps_every_name():
    short, long = program_of(resolve({"queue": {}})), program_of(resolve({"queue": {}}, steps=99))
    assert leaves(state.shapes(short)).keys() == leaves(state.shapes(long)).keys()


def test_outputs_that_were_not_asked_for_are_hidden():
    from facejax.contracts import Features, Pass
    from facejax.losses import _asked

    shown = _asked(Features(pooled=1, tokens=2, keep=3), Pass(outputs=("tokens",)))
    assert (shown.pooled, shown.tokens, shown.keep) == (None, 2, 3)
