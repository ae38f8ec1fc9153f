"""Adapters: what they add, what they leave alone, and what becomes of them in exports."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from support import assert_close, leaves, resolve, states_of, steps, trained_run

import facejax
from facejax import lora, model
from facejax.contracts import Draw, TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export._run import export_run
from facejax.lora import Adapted, Lora
from facejax.optim import flatten

CFG = vit.Config.tiny()
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(3, CFG.size, CFG.size, 3)), jnp.float32)
QKV = Lora(rank=2, scale=0.5)
PAIR = dataclasses.replace(QKV, quality=0.7)


def trained(module, cfg=CFG, seed=0):
    """Parameters whose adapters have learned something."""
    params, _ = module.init(cfg, jax.random.key(1), TowerSpec())
    rng = np.random.default_rng(seed)

    def moved(path, leaf):
        adapter = "lora" in jax.tree_util.keystr(path)
        return jnp.asarray(rng.normal(size=leaf.shape) * 0.3, jnp.float32) if adapter else leaf

    return jax.tree_util.tree_map_with_path(moved, params)


def scaled(params, factor):
    """The same with other adapters."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: factor * x if "'lora'" in jax.tree_util.keystr(path) else x, params
    )


def pooled(module, params, cfg=CFG, image=IMAGE, **keys):
    return module.apply(cfg, params, {}, {"image": image}, **keys)[0].pooled


@pytest.mark.parametrize("options", [QKV, PAIR, dataclasses.replace(PAIR, quality="sharpness")])
def test_at_the_start_nothing_is_added(options):
    params, _ = Adapted(vit, options).init(CFG, jax.random.key(0), TowerSpec())
    base, _ = vit.init(CFG, jax.random.key(0), TowerSpec())
    np.testing.assert_array_equal(pooled(Adapted(vit, options), params), pooled(vit, base))
    plain = leaves(lora.without(params))
    assert plain.keys() == leaves(base).keys()
    added = leaves(params).keys() - plain.keys()
    per_layer = 4 if options.quality is not None else 2
    assert len(added) == per_layer * CFG.dims.depth
    assert all(re.search(r"blocks_\d+/attn/qkv/lora/\w+/(down|up)$", path) for path in added)


def test_adapters_compute_what_their_merged_kernel_does():
    module = Adapted(vit, dataclasses.replace(QKV, pattern="qkv$|fc1$"))
    params = trained(module)
    np.testing.assert_allclose(
        pooled(module, params), pooled(vit, lora.merge(module.lora, params)), atol=1e-5
    )
    assert np.abs(pooled(module, params) - pooled(vit, lora.without(params))).max() > 0.01


@pytest.mark.parametrize(
    "keys", [{"scan": True}, {"remat": "full"}, {"scan": True, "remat": "dots"}]
)
def test_scanned_and_recomputed_blocks_have_their_adapters(keys):
    module = Adapted(vit, PAIR)
    params = trained(module)
    cfg = dataclasses.replace(CFG, **keys)

    def value(cfg, params):
        return jnp.sum(pooled(module, params, cfg) ** 2)

    one, other = (jax.jit(jax.grad(lambda p, c=c: value(c, p)))(params) for c in (CFG, cfg))
    assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_quality_weighs_the_two():
    module = Adapted(vit, PAIR)
    params = trained(module)

    def with_alpha(alpha, tree=params):
        options = dataclasses.replace(PAIR, quality=0.5, threshold=1.0 - alpha)
        return pooled(Adapted(vit, options), tree)

    def zeroed(name):
        def change(path, leaf):
            return 0 * leaf if f"'{name}'" in jax.tree_util.keystr(path) else leaf

        return jax.tree_util.tree_map_with_path(change, params)

    # alpha 0 is the low branch alone, 1 the high one, and both ends are clipped.
    np.testing.assert_array_equal(with_alpha(0.0), with_alpha(0.0, zeroed("high")))
    np.testing.assert_array_equal(with_alpha(1.0), with_alpha(1.0, zeroed("low")))
    np.testing.assert_array_equal(with_alpha(1.5), with_alpha(1.0))
    assert np.abs(with_alpha(0.0) - with_alpha(1.0)).max() > 0.01
    # Quality at the threshold: both count by a half, as one merged kernel says.
    options = dataclasses.replace(PAIR, quality=0.3, threshold=0.3)
    half = pooled(vit, lora.merge(options, params))
    np.testing.assert_allclose(with_alpha(0.5), half, atol=1e-5)


def test_sharp_images_are_told_from_blurred_ones_and_pass_no_gradient():
    coarse = np.random.default_rng(0).normal(size=(4, 4, 4, 3))
    smooth = jnp.asarray(coarse.repeat(4, 1).repeat(4, 2), jnp.float32)
    fine = jnp.asarray(np.random.default_rng(1).normal(size=(4, 16, 16, 3)), jnp.float32)
    flat = jnp.zeros((1, 16, 16, 3))
    assert lora.sharpness(flat)[0] == 0
    assert lora.sharpness(0.05 * smooth).max() < lora.sharpness(0.05 * fine).min() < 1
    by_sharpness = dataclasses.replace(PAIR, quality="sharpness")
    alpha, pull = jax.value_and_grad(lambda x: lora._weights(by_sharpness, x).sum())(0.05 * fine)
    assert 0 < alpha < 4
    assert (pull == 0).all()
    with pytest.raises(UserError, match="cannot be merged"):
        lora.merge(by_sharpness, trained(Adapted(vit, by_sharpness)))


def test_dropout_is_for_training_and_of_the_row():
    module = Adapted(vit, dataclasses.replace(QKV, dropout=0.5))
    params = trained(module)
    draw = Draw(jax.random.key(0), jnp.arange(3))
    train = pooled(module, params, train=True, draw=draw)
    assert np.abs(train - pooled(module, params)).max() > 1e-3
    np.testing.assert_array_equal(pooled(module, params, train=False), pooled(module, params))
    row = Draw(draw.key, jnp.array([2]))
    alone = pooled(module, params, image=IMAGE[2:], train=True, draw=row)
    np.testing.assert_allclose(alone[0], train[2], atol=1e-5)


@pytest.mark.parametrize("keys", [{"scan": True}, {"remat": "full"}])
def test_dropout_is_that_of_the_layer_however_the_blocks_run(keys):
    module = Adapted(vit, dataclasses.replace(PAIR, dropout=0.5))
    params, draw = trained(module), Draw(jax.random.key(0), jnp.arange(3))
    cfg = dataclasses.replace(CFG, **keys)
    one, other = (pooled(module, params, c, train=True, draw=draw) for c in (CFG, cfg))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_layers_drop_independently():
    module = Adapted(vit, dataclasses.replace(QKV, dropout=0.5))
    params, draw = trained(module), Draw(jax.random.key(0), jnp.arange(3))
    x = jnp.ones((3, 5, CFG.dims.width))
    adding = lora._Adding(module.lora, None, draw)
    dropped = [adding._dropped(x, jnp.uint32(n)) for n in range(2)]
    assert (dropped[0] != dropped[1]).any()
    np.testing.assert_array_equal(adding._dropped(x, jnp.uint32(0)), dropped[0])
    assert {0.0, 2.0} == set(np.unique(dropped[0]).tolist())
    numbered = lora._numbered(params)
    found = [numbered[f"blocks_{i:02d}"]["attn"]["qkv"]["lora"]["number"] for i in range(2)]
    assert found == [0, 1]
    assert "number" not in params["blocks_00"]["attn"]["qkv"]["lora"]


def test_only_the_adapters_and_the_head_move():
    run = resolve(
        {"softmax": {"scale": 8.0}},
        encoder={"name": "vit", **VIT, "lora": {"rank": 2}},
        optimizer={"name": "adamw", "lr": 0.01},
    )
    before, _ = steps(run, 0)
    after, _ = steps(run, 3)
    moved = {
        path
        for path, leaf in leaves(after.params["encoder"]).items()
        if (leaf != leaves(before.params["encoder"])[path]).any()
    }
    assert moved == {path for path in leaves(after.params["encoder"]) if "/lora/" in path}
    centres = [s.objective["sparse"]["softmax"]["centres"] for s in (before, after)]
    assert np.abs(centres[0] - centres[1]).max() > 0


@pytest.mark.slow
def test_averages_and_frozen_copies_have_adapters():
    encoder = {"name": "vit", **VIT, "lora": {"rank": 2, "quality": "sharpness"}}
    optimizer = {"name": "adamw", "lr": 0.01}
    run = resolve({"byol": {}}, encoder=encoder, optimizer=optimizer)
    before, after = (steps(run, count)[0] for count in (0, 2))
    (copy,) = after.ema["tower"].values()
    start, average, student = (
        leaves(tree)
        for tree in (before.params["encoder"], copy["encoder"]["params"], after.params["encoder"])
    )
    assert average.keys() == start.keys()
    for path in average:
        if "/lora/" not in path:
            np.testing.assert_array_equal(student[path], start[path])
            np.testing.assert_allclose(average[path], start[path], atol=1e-6)
        elif path.endswith("/up"):
            assert 0 < np.abs(average[path]).max() < np.abs(student[path]).max()
    # A frozen copy sees through its adapters too.
    tower, taught = run.towers["encoder"], trained(Adapted(vit, PAIR), run.towers["encoder"].config)
    distil = resolve({"distil": {"path": "teacher"}}, encoder=encoder, optimizer=optimizer)
    losses = [
        steps(distil, 1, frozen={"teacher": (tower.module, tower.config)},
              frozen_params={"teacher": (params, {})})[1][0]["loss"]
        for params in (taught, scaled(taught, 0))
    ]  # fmt: skip
    assert abs(losses[0] - losses[1]) > 1e-3


def test_a_tower_that_is_frozen_for_some_steps_moves_only_after_them():
    """As docs/recognition.md has it: the patches for good, the rest of the encoder at first."""
    rules = (
        {"pattern": "^encoder/patch_embed/", "frozen_until": -1},
        {"pattern": "^encoder/", "frozen_until": 0.2},
    )
    run = resolve(
        {"softmax": {"scale": 8.0}},
        encoder={"name": "vit", **VIT},
        optimizer={"name": "adamw", "lr": 0.01, "schedule": {"kind": "constant"}, "rules": rules},
    )
    states = states_of(run, 3)
    towers = [leaves(state.params["encoder"]) for state in states]
    for path, start in towers[0].items():
        for n in (1, 2):
            np.testing.assert_array_equal(towers[n][path], start)
        assert (towers[3][path] != start).any() == (not path.startswith("patch_embed/")), path
    centres = [state.objective["sparse"]["softmax"]["centres"] for state in states]
    assert (np.asarray(centres[1]) != np.asarray(centres[0])).any()


VIT = {"width": 32, "depth": 2, "heads": 2, "patch": 4, "mlp_ratio": 2.0}


def test_the_number_of_parameters_is_petalfaces():
    cfg = vit.Config(variant="B", size=224)
    module = Adapted(vit, Lora(rank=8))
    params, _ = jax.eval_shape(lambda: module.init(cfg, jax.random.key(0), TowerSpec()))
    added = [x for path, x in flatten(params).items() if "/lora/" in path]
    assert sum(np.prod(x.shape) for x in added) == 294_912


def test_a_plain_run_is_adapted_resumed_and_exported_as_a_plain_one(tmp_path):
    plain = trained_run(tmp_path / "plain", encoder={"name": "vit", **VIT})
    adapted = trained_run(
        tmp_path / "adapted",
        encoder={"name": "vit", **VIT, "lora": {"rank": 2}},
        init_from=str(plain),
    )
    base, fine = facejax.load(plain), facejax.load(adapted)
    assert_close(lora.without(fine.params), base.params, atol=0)
    assert json.loads((adapted / "config.json").read_text())["config"]["encoder"]["lora"]
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    assert np.abs(fine.embed(images) - base.embed(images)).max() > 0
    export_run(adapted, None, "timm", tmp_path / "timm")
    assert not any("lora" in name for name in load_file(tmp_path / "timm/model.safetensors"))
    np.testing.assert_allclose(
        model.load(tmp_path / "timm").embed(images), fine.embed(images), atol=1e-4
    )


@pytest.mark.slow
def test_an_adapted_run_goes_on_from_another_with_its_adapters(tmp_path):
    encoder = {"name": "vit", **VIT, "lora": {"rank": 2}}
    keys = {"optimizer": {"name": "adamw", "lr": 0.1, "schedule": {"kind": "constant"}}}
    first = trained_run(tmp_path / "first", encoder=encoder, **keys)
    still = {"optimizer": {**keys["optimizer"], "lr": 0.0, "weight_decay": 0.0}}
    taken = {"encoder": encoder, "init_from": str(first), **still}
    second = facejax.load(trained_run(tmp_path / "second", **taken))
    expected = leaves(facejax.load(first).params)
    assert all(np.abs(x).max() > 0 for path, x in expected.items() if path.endswith("/up"))
    assert_close(leaves(second.params), expected, atol=0)
    other = {"encoder": {**encoder, "lora": {"rank": 3}}}
    with pytest.raises(UserError, match=r"lora/one/down \[32, 2\], not \[32, 3\]"):
        trained_run(tmp_path / "third", **{**taken, **other})


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"pattern": "qvk"}, "config.encoder.lora.pattern"),
        ({"pattern": "("}, "config.encoder.lora.pattern"),
        ({"rank": 0}, "config.encoder.lora.rank"),
        ({"dropout": 1.0}, "config.encoder.lora.dropout"),
        ({"rnak": 1}, "config.encoder.lora.rnak"),
    ],
)
def test_mistakes_are_told_before_anything_is_compiled(options, where):
    with pytest.raises(UserError) as caught:
        steps(resolve({"softmax": {}}, encoder={"name": "vit", **VIT, "lora": options}), 0)
    assert caught.value.where == where
