"""encoders/iresnet.py, mobilefacenet.py and face_vit.py: what the contract tests don't see.

Values, gradients and statistics are held to PyTorch in tests/export/test__torch_nets.py.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import products
from support import assert_close, resolve, steps

from facejax.contracts import Draw, Drawn, TowerSpec
from facejax.encoders import face_vit, iresnet, mobilefacenet
from facejax.errors import UserError
from facejax.mesh import RULES
from facejax.ops.masking import removed_but

MODULES = (iresnet, mobilefacenet, face_vit)
VIT = face_vit.Config.tiny()


def images(n, size, seed=0):
    values = np.random.default_rng(seed).normal(size=(n, size, size, 3))
    return jnp.asarray(values, jnp.float32)


@functools.cache
def made(module, config, mask_token=False):
    init = jax.jit(lambda key: module.init(config, key, TowerSpec(mask_token)))
    return init(jax.random.key(0))


@functools.partial(jax.jit, static_argnames=("module", "config", "outputs", "train"))
def run(module, config, variables, x, outputs=("pooled",), **kwargs):
    return module.apply(config, *variables, {"image": x}, outputs=outputs, **kwargs)[0]


def shapes(module, config):
    return jax.eval_shape(lambda: module.init(config, jax.random.key(0), TowerSpec()))


# --------------------------------------------------------------------------- sizes and parameters


@pytest.mark.parametrize(
    ("module", "config", "millions"),
    [
        (iresnet, iresnet.Config(18), 24.0),
        (iresnet, iresnet.Config(34), 34.1),
        (iresnet, iresnet.Config(50), 43.6),
        (iresnet, iresnet.Config(100), 65.2),
        (mobilefacenet, mobilefacenet.Config(), 2.06),
        (face_vit, face_vit.Config(), 113.8),
    ],
)
def test_full_sizes_have_the_number_of_parameters_of_arcface_torch(module, config, millions):
    """iresnet50's and 100's are published; the others follow from the shapes of its source."""
    params, _ = shapes(module, dataclasses.replace(config, size=112))
    count = sum(a.size for a in jax.tree.leaves(params)) / 1e6
    assert count == pytest.approx(millions, rel=0.002)


def test_maps_are_seven_by_seven_at_112_pixels():
    config = iresnet.Config(18, size=112)
    variables, image = shapes(iresnet, config), jax.ShapeDtypeStruct((2, 112, 112, 3), jnp.float32)
    outputs = ("pooled", "tokens", "layers")
    f = jax.eval_shape(lambda v, x: run(iresnet, config, v, x, outputs), variables, image)
    assert f.tokens.shape == (2, 49, 512)
    assert [layer.shape for layer in f.layers] == [(2, 49, 512)] * 2
    assert f.pooled.shape == (2, 512)
    tower = face_vit.tower(face_vit.Config(size=112))
    assert tower.grid() == (12, 12)


@pytest.mark.parametrize("module", MODULES)
def test_decay_leaves_scales_and_biases_alone(module):
    """`optim.py` decays what has two axes or more; `mesh.RULES` replicate the rest by name."""
    params, _ = shapes(module, module.Config.tiny())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path[-1].key
        assert name in ("kernel", "scale", "bias", "pos_embed", "embedding")
        assert (leaf.ndim == 1) == (name in ("scale", "bias"))
    assert any("embedding" in pattern for pattern, _ in RULES)


def test_an_untrained_deep_encoder_is_finite_in_evaluation():
    config = iresnet.Config(blocks=(1, 1, 4, 1), size=16)
    pooled = run(iresnet, config, made(iresnet, config), images(4, 16)).pooled
    assert 1e-3 < np.std(pooled) < 1e3


# -------------------------------------------------------------------------------- how it computes


@pytest.mark.parametrize("module", [iresnet, mobilefacenet])
def test_the_map_is_flattened_channel_by_channel_and_read_row_by_row(module):
    config = module.Config.tiny()
    variables = made(module, config)
    f = run(module, config, variables, images(2, 32), ("tokens", "pooled"))
    assert f.tokens.shape == (2, 4, module.tower(config).width)
    params, _ = variables
    if module is iresnet:
        flat = np.asarray(f.tokens).transpose(0, 2, 1).reshape(2, -1)
        y = flat @ params["fc"]["kernel"] + params["fc"]["bias"][None]
    else:
        kernel = np.asarray(params["gdc"]["grouped"]["kernel"])[:, :, 0].reshape(4, -1)
        y = (np.asarray(f.tokens) * kernel[None]).sum(1) / np.sqrt(1 + 1e-5)
        y = y @ params["fc"]["kernel"]
    np.testing.assert_allclose(f.pooled, y / np.sqrt(1 + 1e-5), atol=1e-5)


REMAT = [(iresnet, "dots"), pytest.param(mobilefacenet, "full", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("module", "remat"), REMAT)
def test_remat_changes_nothing_but_time_and_memory(module, remat):
    @functools.cache
    def loss_and_gradient(remat):
        config = dataclasses.replace(module.Config.tiny(), size=16, remat=remat)
        params, stats = made(module, dataclasses.replace(config, remat="none"))

        def loss(params):
            image = {"image": images(4, 16)}
            f, moved = module.apply(config, params, stats, image, train=True)
            return jnp.sum(jnp.sin(f.pooled) * jnp.arange(8.0)[None]), moved

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    (loss, stats), gradient = loss_and_gradient("none")
    (other, other_stats), other_gradient = loss_and_gradient(remat)
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    assert_close(other_stats, stats, atol=1e-6)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient))
    assert_close(other_gradient, gradient, atol=1e-4 * largest)


@pytest.mark.parametrize("module", MODULES)
def test_bfloat16_computes_on_float32_parameters(module):
    config = dataclasses.replace(module.Config.tiny(), dtype="bfloat16")
    variables = made(module, module.Config.tiny())
    x = images(4, config.size)
    f = run(module, config, variables, x, ("pooled", "tokens"))
    assert f.pooled.dtype == jnp.float32
    assert f.tokens.dtype == (jnp.float32 if module is mobilefacenet else jnp.bfloat16)
    exact = run(module, module.Config.tiny(), variables, x).pooled
    assert (f.pooled != exact).any()
    np.testing.assert_allclose(f.pooled, exact, atol=0.1 * float(exact.std()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iresnet", "mobilefacenet"])
def test_a_step_is_the_same_on_any_mesh(name):
    """Batch statistics and their running means are global."""
    config = {"iresnet": iresnet, "mobilefacenet": mobilefacenet}[name].Config.tiny()
    options = {**dataclasses.asdict(config), "name": name}
    data = {"size": config.size, "sources": ({"name": "synthetic"},)}
    # Of fewer rows the variances are so small that rounding shows.
    run_config = resolve({"centres": {}}, encoder=options, data=data, global_batch=16)
    one, _ = steps(run_config, 2)
    many, _ = steps(run_config, 2, devices=8, shape=(2, 4))
    assert_close(one.stats, many.stats, atol=1e-5, rtol=1e-5)
    assert_close(one.params, many.params, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------ flops


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (iresnet, {}),
        (iresnet, {"se": True, "widths": (16, 16, 32, 32)}),
        (mobilefacenet, {}),
        (mobilefacenet, {"blocks": (2, 1, 2, 1)}),
        (face_vit, {"size": 19}),
    ],
)
def test_flops_count_every_product(module, options):
    config = dataclasses.replace(module.Config.tiny(), **options)
    image = jax.ShapeDtypeStruct((1, config.size, config.size, 3), jnp.float32)
    forward = functools.partial(run, module, config)
    jaxpr = jax.make_jaxpr(forward)(shapes(module, config), image)
    assert products(jaxpr.jaxpr) == module.flops(config)


@pytest.mark.parametrize(
    ("module", "config", "billions"),
    [
        (iresnet, iresnet.Config(50), 6.3),
        (iresnet, iresnet.Config(100), 12.1),
        (face_vit, face_vit.Config("T"), 1.5),
        (face_vit, face_vit.Config("S"), 5.7),
        (face_vit, face_vit.Config("B"), 11.4),
        (face_vit, face_vit.Config("L"), 25.3),
    ],
)
def test_flops_are_the_published_ones(module, config, billions):
    """Those of arcface_torch's README, which counts a multiply-add as one."""
    found = module.flops(config, 112) if module is iresnet else face_vit.flops(config, 112)
    assert found / 2e9 == pytest.approx(billions, rel=0.02)


@pytest.mark.parametrize("module", MODULES)
def test_flops_agree_with_the_compiler(module):
    """XLA leaves out products with padding, which matter less the larger the maps are.

    It also counts norms and activations, which matter less the wider the model is.
    """
    config = {
        iresnet: iresnet.Config(blocks=(1, 1, 2, 2), widths=(128, 256, 512, 512), size=896),
        mobilefacenet: mobilefacenet.Config(width=512, hidden=512, size=896),
        face_vit: face_vit.Config("L", depth=2, size=112),
    }[module]
    image = jax.ShapeDtypeStruct((1, config.size, config.size, 3), jnp.float32)
    lowered = jax.jit(functools.partial(run, module, config)).lower(shapes(module, config), image)
    assert module.flops(config) == pytest.approx(lowered.cost_analysis()["flops"], rel=0.02)


# --------------------------------------------------------------------------------------- face_vit


def test_pixels_beyond_the_last_patch_are_not_seen():
    config = dataclasses.replace(VIT, size=19)
    x = images(2, 19)
    variables = made(face_vit, config)
    changed = x.at[:, 16:].set(9.0).at[:, :, 16:].set(9.0)
    pooled = run(face_vit, config, variables, x).pooled
    np.testing.assert_array_equal(run(face_vit, config, variables, changed).pooled, pooled)
    assert (run(face_vit, config, variables, x.at[:, 15].set(9.0)).pooled != pooled).any()


def test_kept_tokens_stand_in_their_places_of_the_flattened_map():
    keep = jnp.asarray([[1, 4, 6], [0, 2, 15]])
    mask = Drawn(removed_but(keep, 16), keep)
    params, stats = made(face_vit, VIT)
    f = run(face_vit, VIT, (params, stats), images(2, 16), ("pooled", "tokens"), mask=mask)
    assert f.tokens.shape == (2, 3, 32)
    whole = np.zeros((2, 16, 32), np.float32)
    for row in range(2):
        whole[row, keep[row]] = f.tokens[row]
    y = whole.reshape(2, -1) @ params["neck"]["fc1"]["kernel"] / np.sqrt(1 + 2e-5)
    y = y @ params["neck"]["fc2"]["kernel"] / np.sqrt(1 + 2e-5)
    np.testing.assert_allclose(f.pooled, y, atol=1e-5)


DROPPING = dataclasses.replace(VIT, drop_tokens=0.3, drop_path=0.0)


def test_tokens_are_dropped_in_training_with_a_draw_alone():
    params, stats = made(face_vit, DROPPING)
    hole = jnp.arange(32.0)[None] * 100
    variables = ({**params, "holes": {"embedding": hole}}, stats)
    draw = Draw(jax.random.key(3), jnp.arange(4))
    x, tokens = images(4, 16), ("tokens", "layers")

    def holes(**keys):
        f = run(face_vit, DROPPING, variables, x, tokens, **keys)
        return (f.tokens == hole[None]).all(-1), f.layers[0].shape[1]

    for keys in ({}, {"train": True}, {"draw": draw}):
        found, computed = holes(**keys)
        assert not found.any()
        assert computed == 16
    found, computed = holes(train=True, draw=draw)
    assert found.sum(1).tolist() == [5] * 4  # int(16 * 0.7) are left
    assert computed == 11
    assert len({tuple(row) for row in found.tolist()}) > 1
    half, _ = holes(train=True, draw=Draw(draw.key, draw.rows[::-1]))
    np.testing.assert_array_equal(half, found[::-1])


def test_a_mask_of_the_objective_comes_before_dropped_tokens():
    draw = Draw(jax.random.key(3), jnp.arange(2))
    keep = jnp.asarray([[1, 4, 6], [0, 2, 15]])
    mask = Drawn(removed_but(keep, 16), keep)
    variables = made(face_vit, DROPPING)
    given = (face_vit, DROPPING, variables, images(2, 16), ("tokens",))
    trained = run(*given, mask=mask, train=True, draw=draw).tokens
    np.testing.assert_allclose(trained, run(*given, mask=mask).tokens, atol=1e-6)


def test_holes_get_a_gradient():
    params, stats = made(face_vit, DROPPING)
    draw, image = Draw(jax.random.key(3), jnp.arange(4)), {"image": images(4, 16)}

    @jax.jit
    @jax.grad
    def grad(params):
        f, _ = face_vit.apply(DROPPING, params, stats, image, train=True, draw=draw)
        return jnp.sum(jnp.sin(f.pooled) * jnp.arange(8.0)[None])

    assert np.abs(grad(params)["holes"]["embedding"]).max() > 0


def test_attention_is_in_float32_unless_told_otherwise():
    """Products of queries and keys that bfloat16 would round."""
    x, half = images(2, 16), dataclasses.replace(VIT, dtype="bfloat16")
    params, stats = made(face_vit, VIT)

    def dots(config):
        text = str(jax.make_jaxpr(lambda: run(face_vit, config, (params, stats), x))())
        return text.count("dot_algorithm") or text.count("BF16_BF16_F32")

    assert dots(half) == 0
    assert dots(dataclasses.replace(half, attention="xla")) > 0


def test_tokens_of_another_size_but_no_embedding():
    variables = made(face_vit, VIT)
    assert run(face_vit, VIT, variables, images(1, 24), ("tokens",)).tokens.shape == (1, 36, 32)
    with pytest.raises(UserError, match=r"encoder\.size: a view of 24 px"):
        run(face_vit, VIT, variables, images(1, 24))


# ----------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (iresnet, {"depth": 51, "blocks": None}, r"encoder\.depth: no depth 51; "),
        (iresnet, {"size": 100}, r"encoder\.size: images of 100 px; give a multiple of 16"),
        (mobilefacenet, {"size": 100}, r"encoder\.size: images of 100 px"),
        (mobilefacenet, {"hidden": 12}, r"encoder\.hidden: 12 / 2 groups do not divide"),
        (mobilefacenet, {"blocks": (0, 1, 1, 1)}, r"encoder\.blocks: \(0, 1, 1, 1\)"),
        (face_vit, {"variant": "G"}, r"encoder\.variant: no variant 'G'"),
        (face_vit, {"heads": 3}, r"encoder\.heads: 3 heads do not divide the width 32"),
        (face_vit, {"patch": 17}, r"encoder\.patch: 17 px"),
        (face_vit, {"drop_tokens": 1.0}, r"encoder\.drop_tokens: 1\.0 is not a share"),
    ],
)
def test_impossible_options_are_refused(module, options, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(module.Config.tiny(), **options)


@pytest.mark.parametrize("module", [iresnet, mobilefacenet])
def test_inputs_that_they_cannot_take_are_refused(module):
    config = module.Config.tiny()
    with pytest.raises(UserError, match=r"encoder\.size: a view of 16 px"):
        run(module, config, made(module, config), images(2, 16))
    mask = Drawn(jnp.zeros((2, 4), jnp.uint8), jnp.zeros((2, 1), jnp.int32))
    with pytest.raises(ValueError, match="neither mask"):
        run(module, config, made(module, config), images(2, 32), mask=mask)
