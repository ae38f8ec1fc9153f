"""SwAV against Sinkhorn codes and swapped predictions in float64 NumPy; the queue, the step."""

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
    assert_value,
    counted_products,
    moved,
    rewritten,
    take,
    wide,
)
from numpy_heads import entropy, f64, mlp, softmax, unit
from support import assert_close, resolve, states_of

from facejax.contracts import Student
from facejax.objectives import swav

CONFIG = swav.Config.tiny()
K = CONFIG.prototypes


def sinkhorn(scores, eps, iterations=3):
    q = np.exp(scores / eps).T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(1, keepdims=True) * q.shape[0]
        q /= q.sum(0, keepdims=True) * q.shape[1]
    return (q * q.shape[1]).T


def scores_of(given):
    """Unit projections [V, B, D] and their scores [V, B, K]."""
    x = np.stack([np.asarray(f.pooled, np.float64) for f in given.feats.values()])
    z = unit(mlp(given.params["projector"], x, "batch"))
    return z, z @ f64(given.params["prototypes"]["kernel"])


def reference(given, cfg, queued=False):
    s = scores_of(given)[1]
    kernel, total, count = f64(given.params["prototypes"]["kernel"]), 0.0, 0
    for i in (0, 1):
        every = s[i]
        if queued:
            every = np.concatenate([every, f64(given.state[f"global_{i}"]["rows"]) @ kernel])
        code = sinkhorn(every, cfg.eps, cfg.iterations)[:B]
        for v in range(len(s)):
            if v != i:
                total -= np.mean((code * np.log(softmax(s[v] / cfg.tau))).sum(1))
                count += 1
    return total / count


def case_of(**options) -> Case:
    return moved(Case.of(swav, dataclasses.replace(CONFIG, **options)))


@pytest.mark.parametrize("options", [{}, {"local_crops": 0, "queue": 0}, {"local_crops": 3}])
def test_loss_is_its_formula(options):
    case = case_of(**options)
    given = case.inputs()
    assert_value(case, given, reference(given, case.config))


def by_step(case, given):
    @jax.jit
    def value(step):
        *arguments, ctx = case.arguments(given)
        loss = swav.loss(case.config, *arguments, dataclasses.replace(ctx, step=step))
        return loss.terms["swapped"].value()

    return value


def test_the_queue_joins_the_codes_once_it_is_full_and_its_time_has_come():
    case = case_of(queue=2 * B, queue_start=0.4)
    given = case.inputs()
    without, joined = reference(given, case.config), reference(given, case.config, queued=True)
    assert abs(joined - without) > 1e-3
    value = by_step(case, given)
    np.testing.assert_allclose([value(step) for step in (0, 3)], without, rtol=1e-5)
    np.testing.assert_allclose(value(4), joined, rtol=1e-5)
    # In time, but not yet full: two batches fill it.
    case = dataclasses.replace(case, config=dataclasses.replace(case.config, queue_start=1.0))
    value = by_step(case, given)
    np.testing.assert_allclose(value(1), without, rtol=1e-5)
    np.testing.assert_allclose(value(2), joined, rtol=1e-5)


def test_gradient_takes_the_codes_for_constants():
    """Equal to that of the cross-entropies with codes handed in, which finite differences hold."""
    case = case_of(queue=0)

    def value(point, codes):
        x = jnp.stack([f["pooled"] for f in point["feats"].values()])
        z = swav._projector(case.config).apply({"params": point["params"]["projector"]}, x)
        z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
        logp = jax.nn.log_softmax(z @ point["params"]["prototypes"]["kernel"] / case.config.tau)
        pairs = [(i, v) for i in (0, 1) for v in range(3) if v != i]
        return -sum(jnp.mean(jnp.sum(codes[i] * logp[v], 1)) for i, v in pairs) / len(pairs)

    with jax.enable_x64(True):
        given = wide(case.inputs())
        point, got = case.trained(given), jax.jit(case.grads)(given)
        scores = scores_of(given)[1]
        codes = [jnp.asarray(sinkhorn(scores[i], case.config.eps)) for i in (0, 1)]
        fixed = jax.jit(lambda point: value(point, codes))
        want = jax.jit(jax.grad(fixed))(point)
        assert_close(got, want, atol=1e-9)
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(got))
        way = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), point)
        ahead = jax.tree.map(lambda x, d: x + 1e-6 * d, point, way)
        behind = jax.tree.map(lambda x, d: x - 1e-6 * d, point, way)
        slope = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (want, way))))
        np.testing.assert_allclose((fixed(ahead) - fixed(behind)) / 2e-6, slope, rtol=1e-5)


def test_constant_scores_cost_the_log_of_the_prototypes():
    case = case_of()
    given = case.inputs()
    same = jnp.tile(given.params["prototypes"]["kernel"][:, :1], (1, K))
    given = dataclasses.replace(given, params={**given.params, "prototypes": {"kernel": same}})
    np.testing.assert_allclose(jax.jit(case.value)(given), np.log(K), rtol=1e-5)


def test_rows_may_change_places_and_pairs_may_not():
    case = case_of()
    given, value = case.inputs(), jax.jit(case.value)
    want = value(given)
    order = np.random.default_rng(0).permutation(B)
    np.testing.assert_allclose(value(take(given, order)), want, rtol=1e-5)
    swapped = given.feats | {
        "global_0": given.feats["global_1"],
        "global_1": given.feats["global_0"],
    }
    np.testing.assert_allclose(value(dataclasses.replace(given, feats=swapped)), want, rtol=1e-5)
    broken = given.feats | {"local_0": take(given, order).feats["local_0"]}
    assert abs(value(dataclasses.replace(given, feats=broken)) - want) > 0.01


def test_weights_are_those_of_each_crop():
    case = case_of(queue=0)
    given = case.inputs()
    V = 3

    @jax.jit
    def weighted(weight):
        loss = rewritten(case, given, lambda p: dataclasses.replace(p, weight=weight))
        return loss.terms["swapped"].value()

    first = (jnp.arange(V * B) % V == 0).astype(jnp.float32)
    parts = [weighted(first), weighted(1 - first)]
    np.testing.assert_allclose(sum(parts), jax.jit(case.value)(given), rtol=1e-5)
    s = scores_of(given)[1]
    code = sinkhorn(s[1], CONFIG.eps)
    want = -np.mean((code * np.log(softmax(s[0] / CONFIG.tau))).sum(1)) / (2 * (V - 1))
    np.testing.assert_allclose(parts[0], want, rtol=1e-5)


def test_curves_are_of_codes():
    case = case_of(queue=0)
    given = case.inputs()
    code = sinkhorn(scores_of(given)[1][0], CONFIG.eps)
    metrics = jax.jit(case.loss)(given).metrics
    np.testing.assert_allclose(metrics["entropy"].value(), entropy(code).mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["usage"].value(), entropy(code.mean(0)), rtol=1e-4)
    assert metrics["positive"].counts.sum() == B


def test_passes_are_the_papers_crops_all_of_the_student():
    passes = swav.passes(swav.Config(), SPEC)
    assert len(passes) == 8
    assert {p.weights for p in passes.values()} == {Student()}
    large, small = passes["global_0"].view.aug, passes["local_5"].view.aug
    assert (large.scale, small.scale) == ((0.14, 1.0), (0.05, 0.14))
    assert (large.size, small.size) == (16, 8)


def test_prototypes_wait_and_stay_of_unit_length_and_the_queue_takes_projections():
    keys = {"hidden": 8, "out": 4, "prototypes": 6, "local_crops": 1, "frozen": 2, "queue": 16}
    states = states_of(resolve({"swav": keys}), 3)
    kernels = [s.params["objective"]["swav"]["prototypes"]["kernel"] for s in states]
    for kernel in kernels:
        np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(kernels[2], kernels[0], atol=1e-6)
    assert np.abs(kernels[3] - kernels[2]).max() > 1e-4
    for name in ("global_0", "global_1"):
        queues = [s.objective["state"]["swav"][name] for s in states]
        assert [int(q["pointer"]) for q in queues] == [0, 8, 0, 8]
        np.testing.assert_allclose(np.linalg.norm(queues[3]["rows"], axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(queues[1]["rows"][8:], queues[0]["rows"][8:])
        assert np.abs(queues[1]["rows"][:8] - queues[0]["rows"][:8]).max() > 0.1


def test_flops_are_those_of_the_products():
    config = swav.Config(hidden=512, out=512, prototypes=512, queue=B, local_crops=2)
    counted = counted_products(Case.of(swav, config, BROAD))
    np.testing.assert_allclose(swav.flops(config, BROAD), counted, rtol=0.02)
