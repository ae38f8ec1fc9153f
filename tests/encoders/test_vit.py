"""encoders/vit.py: the options, each by what a user can observe."""

import dataclasses
from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import products

from facejax.contracts import Draw, Drawn, TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.layers import sincos_2d

TINY = vit.Config.tiny()
ALL = ("pooled", "prefix", "tokens", "layers")
FULL = dataclasses.replace(
    TINY,
    pool="attention",
    class_token=True,
    positions="learned",
    registers=2,
    layer_scale=0.1,
    neck="linear",
    embed=6,
)


@cache
def drawn_once(cfg, mask_token):
    return jax.jit(lambda key: vit.init(cfg, key, TowerSpec(mask_token))[0])(jax.random.key(0))


def make(cfg, mask_token=False):
    return dict(drawn_once(cfg, mask_token))


def images(n=3, size=16, seed=0):
    values = np.random.default_rng(seed).normal(size=(n, size, size, 3))
    return jnp.asarray(values, jnp.float32)


@partial(jax.jit, static_argnames=("cfg", "outputs", "train"))
def run(cfg, params, x, outputs=("pooled",), **kwargs):
    return vit.apply(cfg, params, {}, {"image": x}, outputs=outputs, **kwargs)[0]


def draw(rows, seed=5):
    return Draw(jax.random.key(seed), jnp.asarray(rows, jnp.int32))


def removed(*patches, n=3, bit=1):
    mask = np.zeros((n, 16), np.uint8)
    mask[:, patches] = bit
    return jnp.asarray(mask)


def noise_patches(x, patches, seed=9):
    """Replaces the pixels of these patches of a 4 x 4 grid."""
    x, rng = np.array(x), np.random.default_rng(seed)
    for p in patches:
        r, c = divmod(p, 4)
        x[:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4] = rng.normal(size=(len(x), 4, 4, 3))
    return jnp.asarray(x)


# ------------------------------------------------------------------------ parameters and geometry


def test_parameter_names_are_the_documented_ones():
    paths = jax.tree_util.tree_flatten_with_path(make(FULL, mask_token=True))[0]
    shapes = {jax.tree_util.keystr(k, simple=True, separator="/"): v.shape for k, v in paths}
    linears = {
        "patch_embed": (48, 32),
        "attn_pool/q": (32, 32),
        "attn_pool/kv": (32, 64),
        "attn_pool/proj": (32, 32),
        "attn_pool/mlp/fc1": (32, 64),
        "attn_pool/mlp/fc2": (64, 32),
        "neck": (32, 6),
    }
    norms = ["norm", "attn_pool/norm"]
    expected = {
        "cls_token": (1, 32),
        "registers": (2, 32),
        "mask_token": (1, 32),
        "pos_embed": (16, 32),
        "attn_pool/latent": (1, 32),
    }
    for b in ("blocks_00", "blocks_01"):
        linears |= {f"{b}/attn/qkv": (32, 96), f"{b}/attn/proj": (32, 32)}
        linears |= {f"{b}/mlp/fc1": (32, 64), f"{b}/mlp/fc2": (64, 32)}
        norms += [f"{b}/norm1", f"{b}/norm2"]
        expected |= {f"{b}/ls1": (32,), f"{b}/ls2": (32,)}
    for name, (fan_in, fan_out) in linears.items():
        expected |= {f"{name}/kernel": (fan_in, fan_out), f"{name}/bias": (fan_out,)}
    for name in norms:
        expected |= {f"{name}/scale": (32,), f"{name}/bias": (32,)}
    assert shapes == expected


@pytest.mark.parametrize("options", [{"scan": True}, {"remat": "full"}, {"dtype": "bfloat16"}])
def test_how_it_runs_does_not_change_the_parameters(options):
    a, b = make(TINY), make(dataclasses.replace(TINY, **options))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_options_add_parameters_and_leave_the_others():
    plain, full = make(TINY), make(FULL, mask_token=True)
    for name in ("cls_token", "patch_embed", "norm"):
        jax.tree.map(np.testing.assert_array_equal, plain[name], full[name])
    np.testing.assert_array_equal(
        plain["blocks_01"]["attn"]["qkv"]["kernel"], full["blocks_01"]["attn"]["qkv"]["kernel"]
    )
    assert (
        plain["blocks_00"]["mlp"]["fc1"]["kernel"]
        != make(TINY)["blocks_01"]["mlp"]["fc1"]["kernel"]
    ).any()


def test_initial_values_are_those_of_mae():
    cfg = vit.Config(variant="Ti", depth=1, size=112, patch=16, registers=64, positions="learned")
    params = make(cfg, mask_token=True)
    kernel = np.asarray(params["patch_embed"]["kernel"])
    assert np.abs(kernel).max() <= np.sqrt(6 / (768 + 192)) < 1.01 * np.abs(kernel).max()
    assert not params["patch_embed"]["bias"].any()
    for name in ("cls_token", "registers", "mask_token", "pos_embed"):
        np.testing.assert_allclose(np.std(params[name]), 0.02, rtol=0.2)


@pytest.mark.parametrize(
    ("options", "prefix", "embed"),
    [
        ({}, 1, 32),
        ({"pool": "mean"}, 0, 32),
        ({"pool": "mean", "class_token": True, "registers": 3}, 4, 32),
        ({"registers": 2, "neck": "linear", "embed": 8}, 3, 8),
    ],
)
def test_tower_tells_the_shapes_of_the_features(options, prefix, embed):
    cfg = dataclasses.replace(TINY, **options)
    tower = vit.tower(cfg)
    assert (tower.prefix, tower.embed, tower.grid()) == (prefix, embed, (4, 4))
    f = run(cfg, make(cfg), images(), ALL)
    assert f.pooled.shape == (3, tower.embed)
    assert f.prefix.shape == (3, tower.prefix, tower.width)
    assert f.tokens.shape == (3, 16, tower.width)
    assert [a.shape for a in f.layers] == [(3, tower.prefix + 16, tower.width)] * tower.depth


@pytest.mark.parametrize(
    ("variant", "millions"),
    [("Ti", 5.5), ("S", 21.7), ("B", 85.8), ("L", 303.3), ("H", 630.8), ("g", 1011.2)],
)
def test_variants_have_the_published_number_of_parameters(variant, millions):
    patch = 14 if variant in "Hg" else 16
    cfg = vit.Config(variant=variant, patch=patch, size=224, positions="learned")
    count = sum(a.size for a in jax.tree.leaves(jax.eval_shape(lambda: make(cfg))))
    assert round(count / 1e6, 1) == pytest.approx(millions, abs=0.11)


# ------------------------------------------------------------------------------------- outputs


def test_only_what_was_asked_for_is_returned():
    params = make(TINY)
    everything = run(TINY, params, images(), ALL)
    for name in ALL:
        f = run(TINY, params, images(), (name,))
        assert [k for k in ALL if getattr(f, k) is not None] == [name]
        close = partial(np.testing.assert_allclose, atol=1e-6)
        jax.tree.map(close, getattr(f, name), getattr(everything, name))
    assert everything.keep is None
    assert everything.mask is None


def test_poolings_are_taken_after_the_norm():
    cfg = dataclasses.replace(TINY, registers=2)
    params = make(cfg)
    f = run(cfg, params, images(), ALL)
    np.testing.assert_array_equal(f.pooled, f.prefix[:, 0])
    mean = dataclasses.replace(cfg, pool="mean", class_token=True)
    np.testing.assert_allclose(run(mean, params, images()).pooled, f.tokens.mean(1), atol=1e-6)
    last = np.asarray(f.layers[-1], np.float64)
    normed = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(np.concatenate([f.prefix, f.tokens], 1), normed, atol=1e-5)


def test_neck_projects_the_pooled_features():
    cfg = dataclasses.replace(TINY, neck="linear", embed=6)
    params = make(cfg)
    params["neck"] = {**params["neck"], "bias": jnp.arange(6.0)}
    pooled = run(TINY, params, images()).pooled
    expected = pooled @ params["neck"]["kernel"] + jnp.arange(6.0)[None]
    np.testing.assert_allclose(run(cfg, params, images()).pooled, expected, atol=1e-5)


def test_patches_are_cut_in_row_column_channel_order():
    cfg = dataclasses.replace(TINY, depth=0, pool="mean", class_token=False)
    params, x = make(cfg), images()
    patch = np.asarray(x)[1, 4:8, 8:12].reshape(-1)  # row 1, column 2: patch 6
    embedded = patch @ np.asarray(params["patch_embed"]["kernel"]) + sincos_2d(32, (4, 4))[6]
    normed = (embedded - embedded.mean()) / np.sqrt(embedded.var() + 1e-6)
    np.testing.assert_allclose(run(cfg, params, x, ("tokens",)).tokens[1, 6], normed, atol=1e-5)


# ---------------------------------------------------------------------------------------- masks


def test_dropped_patches_are_never_seen():
    keep = jnp.asarray([[1, 4, 6], [0, 2, 15], [5, 7, 9]])
    mask = Drawn(jnp.asarray(np.ones((3, 16), np.uint8)), keep)
    params, x = make(TINY), images()
    f = run(TINY, params, x, ALL, mask=mask)
    assert f.tokens.shape == (3, 3, 32)
    np.testing.assert_array_equal(f.keep, keep)
    np.testing.assert_array_equal(f.mask, mask.mask)
    again = run(TINY, params, noise_patches(x, [3, 8, 10, 14]), ALL, mask=mask)
    np.testing.assert_array_equal(again.pooled, f.pooled)


def test_kept_patches_carry_their_own_positions():
    cfg = dataclasses.replace(TINY, depth=0)  # without blocks a token depends on its patch alone
    keep = jnp.asarray([[1, 4, 6], [0, 2, 15], [5, 7, 9]])
    params = make(cfg)
    full = run(cfg, params, images(), ("tokens",)).tokens
    kept = run(cfg, params, images(), ("tokens",), mask=Drawn(removed(), keep)).tokens
    np.testing.assert_allclose(kept, jnp.take_along_axis(full, keep[..., None], 1), atol=1e-6)


def test_keeping_all_is_no_mask():
    keep = jnp.broadcast_to(jnp.arange(16)[None], (3, 16))
    params = make(TINY)
    masked = run(TINY, params, images(), mask=Drawn(removed(), keep)).pooled
    np.testing.assert_array_equal(masked, run(TINY, params, images()).pooled)


def test_replaced_patches_are_never_seen_but_stay_in_place():
    params, x = make(TINY, mask_token=True), images()
    mask = Drawn(removed(2, 11))
    f = run(TINY, params, x, ALL, mask=mask)
    assert f.tokens.shape == (3, 16, 32)
    assert f.keep is None
    again = run(TINY, params, noise_patches(x, [2, 11]), ALL, mask=mask)
    np.testing.assert_array_equal(again.pooled, f.pooled)
    other = run(TINY, params, noise_patches(x, [3]), ALL, mask=mask)
    assert (other.pooled != f.pooled).any()
    assert (f.tokens[0, 2] != f.tokens[0, 11]).any(), "each keeps its position"


def test_only_bit_zero_of_the_mask_removes():
    params = make(TINY, mask_token=True)
    covered = run(TINY, params, images(), mask=Drawn(removed(2, 11, bit=2))).pooled
    np.testing.assert_array_equal(covered, run(TINY, params, images()).pooled)
    both = run(TINY, params, images(), mask=Drawn(removed(2, 11, bit=3))).pooled
    one = run(TINY, params, images(), mask=Drawn(removed(2, 11))).pooled
    np.testing.assert_array_equal(both, one)


def test_mask_token_exists_only_on_demand():
    assert "mask_token" not in make(TINY)
    assert "mask_token" in make(TINY, mask_token=True)


# ----------------------------------------------------------------------------------- other sizes


def test_fixed_positions_are_those_of_the_grid_in_front_of_it():
    at_16, at_24 = TINY, dataclasses.replace(TINY, size=24)
    params, x = make(TINY), images(size=24)
    np.testing.assert_array_equal(run(at_16, params, x).pooled, run(at_24, params, x).pooled)


def test_learned_positions_are_resized():
    cfg = dataclasses.replace(TINY, positions="learned", depth=0, pool="mean")
    params = make(cfg)
    ramp = np.arange(4.0)[:, None, None] * np.ones((1, 4, 32)) * np.linspace(-1, 1, 32)
    params["pos_embed"] = jnp.asarray(ramp.reshape(16, 32), jnp.float32)
    zeros = jnp.zeros((1, 32, 32, 3))
    tokens = run(cfg, params, zeros, ("tokens",)).tokens.reshape(8, 8, 32)
    np.testing.assert_allclose(tokens, tokens[:, :1] * jnp.ones((1, 8, 1)), atol=1e-4)
    assert tokens.shape == (8, 8, 32)
    assert float(tokens[0, 0, -1]) < float(tokens[7, 0, -1])


def test_learned_positions_of_the_own_size_are_taken_as_they_are():
    cfg = dataclasses.replace(TINY, positions="learned")
    params = make(cfg)
    fixed = {**params, "pos_embed": jnp.asarray(sincos_2d(32, (4, 4)))}
    np.testing.assert_allclose(
        run(cfg, fixed, images()).pooled, run(TINY, params, images()).pooled, atol=1e-6
    )


# ----------------------------------------------------------------------------- how it is computed


TRAINED = dataclasses.replace(TINY, drop_path=0.5, layer_scale=0.5)


@cache
def loss_and_gradient(cfg):
    @jax.jit
    @jax.value_and_grad
    def of(params):
        f = run(cfg, params, images(), ALL, draw=draw(range(3)), train=True)
        return (f.pooled**2).sum() + sum((a**3).mean() for a in f.layers)

    return of(make(TRAINED))


@pytest.mark.parametrize(
    "options",
    [{"scan": True}, {"remat": "full"}, {"remat": "dots"}, {"scan": True, "remat": "dots"}],
)
def test_scan_and_remat_change_nothing_but_time_and_memory(options):
    loss, gradient = loss_and_gradient(TRAINED)
    other_loss, other_gradient = loss_and_gradient(dataclasses.replace(TRAINED, **options))
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, other_gradient, gradient)


def test_bfloat16_computes_on_float32_parameters():
    cfg = dataclasses.replace(TINY, dtype="bfloat16", neck="linear", embed=6)
    params = make(cfg)
    f = run(cfg, params, images(), ALL)
    assert [f.pooled.dtype, f.tokens.dtype, f.layers[0].dtype] == [
        "float32",
        "bfloat16",
        "bfloat16",
    ]
    exact = run(dataclasses.replace(cfg, dtype="float32"), params, images()).pooled
    np.testing.assert_allclose(f.pooled, exact, atol=0.05 * float(exact.std()))
    grads = jax.jit(jax.grad(lambda p: run(cfg, p, images()).pooled.sum()))(params)
    assert {a.dtype for a in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


def test_every_parameter_gets_a_gradient():
    params = make(FULL, mask_token=True)

    def value(params):
        pooled = run(FULL, params, images(), mask=Drawn(removed(1, 5))).pooled
        return (pooled * jnp.arange(6.0)[None]).sum()

    paths = jax.tree_util.tree_flatten_with_path(jax.jit(jax.grad(value))(params))[0]
    assert [k for k, g in paths if not jnp.abs(g).sum() > 0] == []


# ------------------------------------------------------------------------------- stochastic depth


def test_stochastic_depth_only_in_training_and_with_a_draw():
    cfg = dataclasses.replace(TINY, drop_path=0.9)
    params, x = make(cfg), images()
    plain = run(cfg, params, x).pooled
    np.testing.assert_array_equal(run(cfg, params, x, train=True).pooled, plain)
    np.testing.assert_array_equal(run(cfg, params, x, draw=draw(range(3))).pooled, plain)
    assert (run(cfg, params, x, train=True, draw=draw(range(3))).pooled != plain).any()


def test_stochastic_depth_belongs_to_the_global_row():
    cfg = dataclasses.replace(TINY, drop_path=0.5)
    params, x = make(cfg), images(8)
    whole = run(cfg, params, x, train=True, draw=draw(range(8))).pooled
    half = run(cfg, params, x[1::2], train=True, draw=draw([1, 3, 5, 7])).pooled
    np.testing.assert_allclose(half, whole[1::2], atol=1e-5)


def test_stochastic_depth_rises_to_its_rate_and_keeps_the_expectation():
    cfg = dataclasses.replace(TINY, drop_path=0.5, depth=3, pool="mean", class_token=False)
    params, n = make(cfg), 512
    x = jnp.broadcast_to(images(1), (n, 16, 16, 3))
    streams = run(cfg, params, x, ("layers",), train=True, draw=draw(range(n))).layers
    assert (streams[0] == streams[0][:1]).all(), "the first block is never dropped"
    unchanged = [(a == b).all((1, 2)).mean() for a, b in pairwise(streams)]
    np.testing.assert_allclose(unchanged, [0.25**2, 0.5**2], atol=0.06)  # both branches dropped


# ------------------------------------------------------------------------------------------ flops


@pytest.mark.parametrize("options", [{}, {"registers": 3}, {"pool": "attention"}, {"keep": 5}])
def test_flops_count_every_matrix_product(options):
    keep = options.pop("keep", None)
    cfg = dataclasses.replace(TINY, neck="linear", embed=6, **options)
    mask = Drawn(removed(n=1), jnp.arange(keep)[None]) if keep else None
    jaxpr = jax.make_jaxpr(lambda p: run(cfg, p, images(1, size=24), mask=mask).pooled)(make(cfg))
    assert products(jaxpr.jaxpr) == vit.flops(cfg, size=24, keep=keep)


def test_flops_agree_with_the_compiler():
    """XLA also counts softmax, norms and GELU, which matter less the wider the model is."""
    cfg = vit.Config(variant="L", depth=2, size=224)
    shapes = jax.eval_shape(lambda: make(cfg)), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    lowered = jax.jit(lambda p, x: run(cfg, p, x).pooled).lower(*shapes)
    assert vit.flops(cfg) == pytest.approx(lowered.cost_analysis()["flops"], rel=0.02)


# ----------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "s"}, r"encoder\.variant: no variant 's'; "),
        ({"pool": "clas"}, r"encoder\.pool: no such choice 'clas'; did you mean 'class'\?"),
        ({"heads": 3}, r"encoder\.heads: 3 heads do not divide the width 32"),
        ({"width": 30}, r"encoder\.width: sine-cosine positions need a multiple of 4"),
        ({"size": 18}, r"encoder\.patch: 4 does not divide the image side 18"),
        ({"class_token": False}, r"encoder\.class_token: pool 'class' needs the class token"),
        ({"embed": 8}, r"encoder\.embed: neck 'none' does not go with embed 8"),
        ({"neck": "linear"}, r"encoder\.embed: neck 'linear' does not go with embed 0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TINY, **options)


def test_an_input_that_it_cannot_take_is_refused():
    with pytest.raises(ValueError, match="context"):
        run(TINY, make(TINY), images(), context=jnp.zeros((3, 2, 32)))
