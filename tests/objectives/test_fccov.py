"""FCCov against its three nested sums in float64 NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_up import SPEC, B, Case, assert_gradient, moved, take, wide

from facejax.contracts import Tower
from facejax.objectives import fccov

CONFIG = fccov.Config.tiny()
trace = jax.jit(fccov.trace)
distances = jax.jit(fccov.distances, static_argnums=0)


def brute_force(f, d):
    """FCCov f64[r, r], every C_jl summed by itself."""
    n = len(f)
    centred, total = f - f.mean(0), 0.0
    for j in range(n):
        for l in range(n):  # noqa: E741
            C = sum((centred[k] for k in range(n) if d[k, j] <= d[l, j]), np.zeros(f.shape[1])) / n
            total += np.outer(C, C)
    return total / n**2


def everyone(n):
    return np.ones(n, bool)


def sample(n=12, r=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(n, 2))
    return rng.normal(size=(n, r)), np.linalg.norm(y[:, None] - y[None], axis=-1), rng


@pytest.mark.parametrize("ties", [False, True])
def test_sorted_form_is_the_brute_force(ties):
    f, d, _ = sample()
    d = np.round(d) if ties else d
    want = np.trace(brute_force(f, d))
    with jax.enable_x64(True):
        np.testing.assert_allclose(trace(f, d, everyone(12)), want, rtol=1e-12)
    np.testing.assert_allclose(trace(np.float32(f), np.float32(d), everyone(12)), want, rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "distance"),
    [
        ("landmarks", "procrustes"),
        ("age", "euclidean"),
        ("attributes", "hamming"),
        ("clip", "discrete"),
    ],
)
def test_loss_is_its_formula(field, distance):
    case = moved(Case.of(fccov, dataclasses.replace(CONFIG, field=field, distance=distance)))
    given = case.inputs()
    f = np.float64(given.feats["image"].pooled) @ np.float64(given.params["head"]["kernel"])
    view = given.feats["image"].view
    y = np.asarray((view if field == "landmarks" else given.batch)[field], np.float64)
    d = np.array([[reference_distance(distance, a, b) for a in y] for b in y])
    excess = np.sum((np.cov(f.T, bias=True) - np.eye(3)) ** 2)
    want = -np.trace(brute_force(f, d)) + CONFIG.lam * excess
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(case.value)(wide(given)), want, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(case.value)(given), want, rtol=1e-5)
    assert fccov.fields(case.config) == (field,)


def reference_distance(kind, a, b):
    if kind == "discrete":
        return float(a != b)
    if kind == "hamming":
        return sum(abs(x - y) for x, y in zip(a, b))
    if kind == "euclidean":
        return abs(a - b)
    a, b = (x - x.mean(0) for x in (a, b))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    # The best of very many rotations, and a scale of its own.
    angle = np.linspace(0, 2 * np.pi, 20001)[:-1]
    turned = np.cos(angle) * np.sum(a * b) + np.sin(angle) * (a[:, 0] @ b[:, 1] - a[:, 1] @ b[:, 0])
    return 1 - turned.max() ** 2


def test_gradient_is_that_of_the_loss():
    case = moved(Case.of(fccov))
    assert_gradient(case, case.inputs(), rtol=1e-6)


def test_only_the_order_of_distances_counts():
    f, d, _ = sample()
    f, d = np.float32(f), np.float32(d)
    want = trace(f, d, everyone(12))
    for transform in (np.square, lambda x: np.log1p(5 * x), lambda x: np.where(x > 2, 1e6 * x, x)):
        np.testing.assert_array_equal(trace(f, np.float32(transform(d)), everyone(12)), want)


def test_a_linear_map_of_the_features_maps_the_matrix():
    f, d, rng = sample()
    M, A = brute_force(f, d), rng.normal(size=(4, 3))
    with jax.enable_x64(True):
        got = trace(f @ A.T, d, everyone(12))
    np.testing.assert_allclose(got, np.trace(A @ M @ A.T), rtol=1e-12)


def test_constant_features_depend_on_nothing():
    _, d, _ = sample()
    np.testing.assert_allclose(trace(np.ones((12, 3), np.float32), d, everyone(12)), 0, atol=1e-12)


def test_under_the_discrete_metric_it_compares_the_means_of_classes():
    """sum_c p_c^4 |m_c - m|^2."""
    f, _, rng = sample(n=30)
    y = rng.integers(0, 3, 30)
    want = sum(
        np.mean(y == c) ** 4 * np.sum((f[y == c].mean(0) - f.mean(0)) ** 2) for c in range(3)
    )
    with jax.enable_x64(True):
        d = fccov.distances("discrete", jnp.asarray(y))
        np.testing.assert_allclose(trace(f, d, everyone(30)), want, rtol=1e-12)


def test_what_is_independent_goes_to_0_and_dependence_stands_out_of_permutations():
    means = []
    for n in (32, 128, 512):
        rng = np.random.default_rng(n)
        f, y = rng.normal(size=(n, 2)), rng.normal(size=(n, 1))
        means.append(float(trace(np.float32(f), np.abs(y - y.T), everyone(n))))
    assert means[0] > 3 * means[1] > 9 * means[2] > 0
    rng = np.random.default_rng(0)
    y = rng.normal(size=(128, 1))
    f = np.float32(np.sin(2 * y) + 0.5 * rng.normal(size=y.shape))
    d = np.abs(y - y.T)
    orders = [rng.permutation(128) for _ in range(50)]
    null = [float(trace(f[order], d, everyone(128))) for order in orders]
    assert float(trace(f, d, everyone(128))) > 3 * max(null)


def test_an_outlying_label_has_a_bounded_influence():
    f, d, _ = sample(n=64, seed=1)
    plain = float(trace(np.float32(f), d, everyone(64)))
    d[0, 1:], d[1:, 0] = 1e6, 1e6
    changed = float(trace(np.float32(f), d, everyone(64)))
    assert abs(changed - plain) < 0.2 * plain


def test_unknown_labels_take_no_part():
    case = moved(Case.of(fccov, dataclasses.replace(CONFIG, field="age", distance="euclidean")))
    given, few = case.inputs(), np.array([0, 2, 3, 5, 6])
    compiled = jax.jit(lambda g: (case.value(g), case.grads(g)))

    def known(rows):
        has = {"has_age": jnp.asarray(np.isin(np.arange(B), rows))}
        return dataclasses.replace(given, batch=given.batch | has)

    np.testing.assert_allclose(
        compiled(known(few))[0], jax.jit(case.value)(take(given, few)), rtol=1e-5
    )
    value, grads = compiled(known([]))
    assert float(value) == 0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


def test_shapes_have_no_place_size_or_angle():
    points = np.random.default_rng(0).normal(size=(2, 68, 2))
    c, s = np.cos(0.7), np.sin(0.7)
    moved_points = 3 * points[0] @ np.array([[c, s], [-s, c]]) + np.array([5.0, -2.0])
    found = distances("procrustes", np.float32(np.stack([points[0], moved_points, points[1]])))
    np.testing.assert_allclose(np.diagonal(found), 0, atol=1e-5)
    np.testing.assert_allclose(found[0, 1], 0, atol=1e-5)
    assert found[0, 2] > 0.5


def test_flops_are_those_that_xla_counts():
    tower = Tower(2048, 2048, 16, 1, size=224, depth=12)
    spec = dataclasses.replace(SPEC, towers={"encoder": tower})
    config = fccov.Config(field="age", distance="euclidean")
    params = jax.eval_shape(lambda: fccov.init(config, jax.random.key(0), spec).params)
    x = jax.ShapeDtypeStruct((B, 2048), jnp.float32)
    head = jax.jit(lambda p, x: x @ p["head"]["kernel"])
    counted = head.lower(params, x).cost_analysis()["flops"] / B
    np.testing.assert_allclose(fccov.flops(config, spec), counted, rtol=0.02)
