"""convolutions.py: each block against a plain NumPy float64 version of its equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax import convolutions as conv
from facejax.layers import remat_policy


def rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def norm_variables(C, affine=True):
    params = {"scale": rows(C, seed=1), "bias": rows(C, seed=2)}
    stats = {"mean": rows(C, seed=3), "var": rows(C, seed=4) ** 2 + 0.1}
    return {"params": params if affine else {"bias": params["bias"]}, "stats": stats}


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_in_training_and_evaluation(affine):
    x, variables = rows(6, 3, 2, 4), norm_variables(4, affine)
    norm = conv.RunningBatchNorm(affine, eps=1e-3, momentum=0.8)
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (x, variables))
    flat, v = wide[0].reshape(-1, 4), wide[1]
    scale = v["params"].get("scale", 1.0)
    y, changed = norm.apply(variables, x, True, mutable=["stats"])
    expected = (wide[0] - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-3) * scale + v["params"]["bias"]
    np.testing.assert_allclose(y, expected, atol=2e-6)
    for name, new in {"mean": flat.mean(0), "var": flat.var(0, ddof=1)}.items():
        moved = 0.8 * v["stats"][name] + 0.2 * new
        np.testing.assert_allclose(changed["stats"][name], moved, atol=1e-6)
    y = norm.apply(variables, x, False)
    expected = (wide[0] - v["stats"]["mean"]) / np.sqrt(v["stats"]["var"] + 1e-3) * scale
    np.testing.assert_allclose(y, expected + v["params"]["bias"], atol=1e-5)


def test_statistics_are_float32_whatever_the_input_is():
    """Values around 100 have a step of 0.5 in bfloat16: sums in it would lose the variance."""
    x = jnp.asarray(100 + rows(512, 3), jnp.bfloat16)
    norm = conv.RunningBatchNorm()
    y, changed = norm.apply(norm_variables(3), x, True, mutable=["stats"])
    assert y.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float64)
    for name, new in {"mean": exact.mean(0), "var": exact.var(0, ddof=1)}.items():
        moved = 0.9 * norm_variables(3)["stats"][name] + 0.1 * new
        assert changed["stats"][name].dtype == jnp.float32
        np.testing.assert_allclose(changed["stats"][name], moved, rtol=1e-5)


def test_statistics_are_those_of_the_batch_on_all_devices():
    x, variables = rows(16, 2, 2, 4), norm_variables(4)
    norm = conv.RunningBatchNorm()

    @jax.jit
    def run(x):
        return norm.apply(variables, x, True, mutable=["stats"])

    devices = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.NamedSharding(devices, jax.P("data"))
    one, many = run(x), run(jax.device_put(x, spread))
    assert not many[0].sharding.is_fully_replicated
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, many)


def test_one_row_moves_no_statistics_to_infinity():
    y, changed = conv.RunningBatchNorm().apply(norm_variables(3), rows(1, 3), True, mutable="stats")
    assert np.isfinite(y).all()
    assert np.isfinite(changed["stats"]["var"]).all()


def test_prelu_scales_what_is_negative():
    x, scale = rows(3, 2, 4), rows(4, seed=1)
    y = conv.PReLU().apply({"params": {"scale": scale}}, x)
    np.testing.assert_array_equal(y, np.where(x > 0, x, scale * x))
    made = conv.PReLU().init(jax.random.key(0), x)["params"]["scale"]
    np.testing.assert_array_equal(made, 0.25)


def test_squeeze_and_excitation():
    x = rows(2, 3, 3, 32)
    module = conv.SqueezeExcite()
    params = jax.tree.map(lambda a: a + 0.1 * rows(*a.shape), module.init(jax.random.key(0), x))
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
    assert p["fc1"]["kernel"].shape == (32, 2)
    hidden = np.maximum(x.mean((1, 2)) @ p["fc1"]["kernel"] + p["fc1"]["bias"], 0)
    gate = 1 / (1 + np.exp(-(hidden @ p["fc2"]["kernel"] + p["fc2"]["bias"])))
    np.testing.assert_allclose(module.apply(params, x), x * gate[:, None, None], atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_pads_alike_on_both_sides(stride, groups):
    x = rows(2, 6, 6, 4)
    init = jax.nn.initializers.normal(1.0)
    layer = conv.conv(6, 3, init, name="conv", stride=stride, groups=groups)
    params = layer.init(jax.random.key(0), x)
    kernel = np.asarray(params["params"]["kernel"], np.float64)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    side = 6 // stride
    expected = np.zeros((2, side, side, 6))
    for r in range(side):
        for c in range(side):
            window = padded[:, stride * r : stride * r + 3, stride * c : stride * c + 3]
            for g in range(groups):
                ins = slice(g * 4 // groups, (g + 1) * 4 // groups)
                outs = slice(g * 6 // groups, (g + 1) * 6 // groups)
                part = np.einsum("bijc,ijco->bo", window[..., ins], kernel[..., outs])
                expected[:, r, c, outs] = part
    np.testing.assert_allclose(layer.apply(params, x), expected, atol=1e-5)


def test_convolutions_are_kept_by_the_policy_that_keeps_products():
    x, kernel = rows(1, 4, 4, 3), rows(3, 3, 3, 5)

    def loss(kernel, policy):
        def f(k):
            y = jax.lax.conv_general_dilated(
                x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return jnp.sum(jnp.sin(y) ** 2)

        return jax.checkpoint(f, policy=policy)(kernel)

    def convolutions(remat):
        text = str(jax.make_jaxpr(jax.grad(loss), static_argnums=1)(kernel, remat_policy(remat)))
        return text.count("conv_general_dilated[")

    assert convolutions("full") == convolutions("dots") + 1
