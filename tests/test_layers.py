"""layers.py: each block against a plain NumPy float64 version of its equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, softmax

from facejax import layers


def rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def perturbed(params, seed=1):
    """Moves every parameter off its initial value, so that zeros and ones hide nothing."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(
        tree, [a + 0.3 * rng.normal(size=a.shape).astype(np.float32) for a in leaves]
    )


def made(module, x):
    params = perturbed(jax.jit(module.init)(jax.random.key(0), x)["params"])
    return params, jax.jit(module.apply)({"params": params}, x)


def f64(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def linear(p, x):
    return x @ p["kernel"] + p.get("bias", 0.0)


def norm(p, x, eps=1e-6):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return y * p["scale"] + p["bias"]


def gelu(x):
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def mlp(p, x):
    return linear(p["fc2"], gelu(linear(p["fc1"], x)))


def attend(q, k, v, heads):
    """Attention head by head: [B, M, D], [B, N, D], [B, N, D] -> [B, M, D]."""
    out = []
    for q_h, k_h, v_h in zip(*(np.split(a, heads, -1) for a in (q, k, v))):
        scores = q_h @ k_h.transpose(0, 2, 1) / np.sqrt(q_h.shape[-1])
        out.append(softmax(scores, -1) @ v_h)
    return np.concatenate(out, -1)


def block(p, x, heads, scale=None):
    scale = np.ones((1, 2)) if scale is None else scale
    q, k, v = np.split(linear(p["attn"]["qkv"], norm(p["norm1"], x)), 3, -1)
    branch = linear(p["attn"]["proj"], attend(q, k, v, heads)) * p.get("ls1", 1.0)
    x = x + branch * scale[:, 0, None, None]
    branch = mlp(p["mlp"], norm(p["norm2"], x)) * p.get("ls2", 1.0)
    return x + branch * scale[:, 1, None, None]


@pytest.mark.parametrize("options", [{}, {"layer_scale": 0.1}, {"qkv_bias": False}])
def test_block_is_its_equation(options):
    x = rows(2, 5, 12)
    params, y = made(layers.Block(12, heads=3, mlp_ratio=2.0, **options), x)
    np.testing.assert_allclose(y, block(f64(params), x, 3), rtol=1e-5, atol=1e-5)


def test_block_scales_the_branches_of_each_row():
    x, scale = rows(3, 4, 8), np.array([[0, 0], [2, 0], [0, 1.5]])
    module = layers.Block(8, heads=2)
    params, _ = made(module, x)
    y = jax.jit(module.apply)({"params": params}, x, jnp.asarray(scale, jnp.float32))
    np.testing.assert_allclose(y, block(f64(params), x, 2, scale), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(y[0], x[0])


def test_block_computes_in_bfloat16_on_float32_parameters():
    x = rows(2, 5, 16)
    params, exact = made(layers.Block(16, heads=2), x)
    module = layers.Block(16, heads=2, dtype=jnp.bfloat16)
    y = jax.jit(module.apply)({"params": params}, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.1 * float(exact.std()))


def test_block_keeps_float64():
    """Finite differences of the objectives need it."""
    with jax.enable_x64(True):
        x = np.asarray(rows(1, 3, 8), np.float64)
        module = layers.Block(8, heads=2)
        params = f64(made(module, x)[0])
        y = jax.jit(module.apply)({"params": params}, x)
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, block(params, x, 2), rtol=1e-12, atol=1e-12)


def test_attention_pool_is_its_equation():
    x = rows(2, 5, 12)
    params, y = made(layers.AttentionPool(heads=3, mlp_ratio=2.0), x)
    p = f64(params)
    k, v = np.split(linear(p["kv"], x.astype(np.float64)), 2, -1)
    q = np.broadcast_to(linear(p["q"], p["latent"])[None], (2, 1, 12))
    pooled = linear(p["proj"], attend(q, k, v, 3)[:, 0])
    expected = pooled + mlp(p["mlp"], norm(p["norm"], pooled))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_linears_start_xavier_uniform_with_zero_bias():
    module, x = layers.Block(64, heads=2), jnp.zeros((1, 1, 64))
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]
    for layer, fan in (("qkv", 64 + 192), ("proj", 64 + 64)):
        kernel, bound = np.asarray(params["attn"][layer]["kernel"]), np.sqrt(6 / fan)
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.03)
        assert not params["attn"][layer]["bias"].any()


def head(p, x, norm_kind, final):
    """A two-layer head in NumPy."""

    def batch(x):
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)

    def bare(x):
        return batch(x) if norm_kind == "batch" else norm({"scale": 1, "bias": 0}, x, 1e-5)

    x = linear(p["fc_0"], x.astype(np.float64))
    if norm_kind != "none":
        x = bare(x) * p["norm_0"]["scale"] + p["norm_0"]["bias"]
    x = linear(p["fc_1"], np.maximum(x, 0))
    return bare(x) if final else x


@pytest.mark.parametrize(
    ("norm_kind", "final"),
    [("none", False), ("layer", False), ("layer", True), ("batch", False), ("batch", True)],
)
def test_mlp_head_is_its_equation(norm_kind, final):
    x = rows(6, 8)
    params, y = made(layers.MlpHead((10, 4), norm_kind, final), x)
    np.testing.assert_allclose(y, head(f64(params), x, norm_kind, final), rtol=1e-4, atol=1e-5)
    biased = {name for name in params if "bias" in params[name] and name.startswith("fc")}
    unbiased = {"fc_0"} | ({"fc_1"} if final else set()) if norm_kind == "batch" else set()
    assert biased == {"fc_0", "fc_1"} - unbiased
    bare, _ = made(layers.MlpHead((10, 4), norm_kind, final, final_bias=False), x)
    assert bare["fc_1"].keys() == {"kernel"}
    assert bare["fc_0"].keys() == params["fc_0"].keys()


def test_batch_norm_counts_in_float32():
    x = jnp.asarray(rows(4096, 2) + 100, jnp.bfloat16)
    y = layers.BatchNorm(affine=False).apply({}, x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(y.var(0), 1, atol=1e-2)


def test_sincos_halves_follow_their_axis():
    positions = layers.sincos_2d(16, (3, 5)).reshape(3, 5, 16)
    assert (positions[..., :8] == positions[:1, :, :8]).all(), "first half: the column alone"
    assert (positions[..., 8:] == positions[:, :1, 8:]).all(), "second half: the row alone"


def test_sincos_is_the_formula():
    positions = layers.sincos_2d(8, (2, 3))
    row, column = 1, 2
    expected = [
        f(t * 10000 ** (-k / 2)) for t in (column, row) for f in (np.sin, np.cos) for k in (0, 1)
    ]
    np.testing.assert_allclose(positions[row * 3 + column], expected, rtol=1e-6)


def test_head_flops_are_those_that_xla_counts():
    head, x = layers.MlpHead((256, 128)), jnp.zeros((32, 64))
    params = jax.eval_shape(head.init, jax.random.key(0), x)
    counted = jax.jit(head.apply).lower(params, x).cost_analysis()["flops"] / 32
    np.testing.assert_allclose(head.flops(64), counted, rtol=0.02)


def test_prototypes_score_by_direction_alone():
    x = rows(6, 8)
    module = layers.Prototypes(5)
    params, y = made(module, x)
    kernel = f64(params)["kernel"]
    np.testing.assert_allclose(y, x @ (kernel / np.linalg.norm(kernel, axis=0)), rtol=1e-5)
    longer = {"kernel": params["kernel"] * jnp.arange(1, 6)[None]}
    np.testing.assert_allclose(module.apply({"params": longer}, x), y, rtol=1e-5, atol=1e-6)
    # Its gradient turns a prototype and never lengthens it.
    grad = jax.grad(lambda p: (module.apply({"params": p}, x) ** 2).sum())(params)["kernel"]
    np.testing.assert_allclose((grad * params["kernel"]).sum(0), 0, atol=1e-4)
    assert np.abs(grad).max() > 0.1


def test_prototypes_that_are_not_normed_are_used_as_they_are():
    x = rows(6, 8)
    params, y = made(layers.Prototypes(5, normed=False), x)
    np.testing.assert_allclose(y, x @ f64(params)["kernel"], rtol=1e-5, atol=1e-6)
    start = layers.Prototypes(5).init(jax.random.key(0), x)["params"]["kernel"]
    np.testing.assert_allclose(np.linalg.norm(start, axis=0), 1, rtol=1e-5)
    half = layers.Prototypes(5).apply({"params": params}, x.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32


def test_a_prototype_of_length_zero_stays_and_breaks_nothing():
    kernel = jnp.asarray(rows(8, 3)).at[:, 1].set(0)
    unit, back = jax.vjp(layers.unit_columns, kernel)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=0), [1, 0, 1], atol=1e-6)
    assert np.isfinite(back(jnp.ones_like(unit))[0]).all()
