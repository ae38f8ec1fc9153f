"""export/names: one table for export and import."""

import dataclasses

import jax
import numpy as np
import pytest
from made_up import SPEC

from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import names
from facejax.export.names import mae as mae_tables
from facejax.export.names import vit as tables
from facejax.export.names.vit import timm as timm_table
from facejax.objectives import mae

TINY = vit.Config.tiny()
CONFIGS = {
    "class": {},
    "mean": {"pool": "mean", "class_token": True, "registers": 2},
    "attention": {"pool": "attention", "positions": "learned", "layer_scale": 0.1},
    "neck": {"neck": "linear", "embed": 6, "qkv_bias": False, "registers": 1},
}


def drawn(cfg):
    """Parameters of which no two values are alike, so that a mix-up shows."""
    shapes = jax.eval_shape(lambda: vit.init(cfg, jax.random.key(0), TowerSpec())[0])
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


DINOV3 = {
    "class": {"positions": "rope"},
    "all": {"positions": "rope", "registers": 3, "layer_scale": 0.1, "qkv_bias": False},
}
TABLES = {
    "timm": (timm_table, CONFIGS),
    "timm_with_prefix": (tables.timm_with_prefix, CONFIGS),
    "transformers": (
        tables.transformers,
        {"class": {}, "neck": {"neck": "linear", "embed": 6, "qkv_bias": False}},
    ),
    "dinov2": (
        tables.dinov2,
        {
            "class": {},
            "scales": {"layer_scale": 0.1, "positions": "learned"},
            "registers": {"registers": 3, "layer_scale": 0.1},
        },
    ),
    "timm DINOv3": (timm_table, DINOV3),
    "dinov3": (tables.dinov3, DINOV3),
}


@pytest.mark.parametrize(
    ("name", "options"), [(n, o) for n, (_, options) in TABLES.items() for o in options]
)
def test_there_and_back_is_bit_equal(name, options):
    table, cases = TABLES[name]
    cfg = dataclasses.replace(TINY, **cases[options])
    bit_equal(table(cfg), drawn(cfg))


def bit_equal(table, params):
    tensors = names.export_tensors(table, params)
    back = names.import_tensors(table, tensors, params, "file")
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert len({e.theirs for e in table}) == len(table)


def drawn_mae(cfg, width=16, depth=1):
    """Parameters of `vit` and of `mae` with a decoder of the width."""
    spec = dataclasses.replace(SPEC, towers={"encoder": vit.tower(cfg)})
    options = mae.Config(decoder_width=width, decoder_depth=depth, decoder_heads=2)
    own = jax.eval_shape(lambda: mae.init(options, jax.random.key(0), spec).params)
    rng = np.random.default_rng(1)
    own = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), own)
    return {"encoder": drawn(cfg), "mae": own}


@pytest.mark.parametrize("table", [mae_tables.official, mae_tables.transformers])
def test_a_decoder_there_and_back_is_bit_equal(table):
    bit_equal(table(TINY, 16, 2), drawn_mae(TINY, depth=2))


def test_own_names_serve_any_encoder():
    bit_equal(names.own(drawn(TINY)), drawn(TINY))


def test_a_patch_becomes_a_convolution():
    tensors = names.export_tensors(timm_table(TINY), params := drawn(TINY))
    kernel = params["patch_embed"]["kernel"].reshape(4, 4, 3, 32)
    conv = tensors["patch_embed.proj.weight"]
    assert conv.shape == (32, 3, 4, 4)
    assert conv[7, 2, 1, 3] == kernel[1, 3, 2, 7]


def test_every_fault_is_named_at_once():
    table, params = timm_table(TINY), drawn(TINY)
    tensors = names.export_tensors(table, params)
    del tensors["norm.bias"], tensors["cls_token"]
    tensors["head.weight"] = np.zeros((2, 32))
    tensors["blocks.1.attn.qkv.weight"] = np.zeros((95, 32))
    tensors["pos_embed"] = np.zeros((1, 16, 32))
    with pytest.raises(UserError) as caught:
        names.import_tensors(table, tensors, params, "model.safetensors")
    assert caught.value.where == "model.safetensors"
    assert caught.value.what == (
        "missing: cls_token, norm.bias; unexpected: head.weight; "
        "wrong shape: blocks.1.attn.qkv.weight [95, 32], not [96, 32]; wrong values: pos_embed"
    )


def test_a_parameter_without_a_name_is_not_lost_silently():
    params = {**drawn(TINY), "odd": np.zeros(2)}
    with pytest.raises(ValueError, match="odd"):
        names.export_tensors(timm_table(TINY), params)


def test_queries_keys_and_values_are_parts_of_one_kernel():
    tensors = names.export_tensors(tables.transformers(TINY), params := drawn(TINY))
    kernel = params["blocks_01"]["attn"]["qkv"]["kernel"]
    value = tensors["encoder.layer.1.attention.attention.value.weight"]
    np.testing.assert_array_equal(value, kernel[:, 64:].T)


def test_a_part_that_is_missing_leaves_the_whole_out():
    table, params = tables.transformers(TINY), drawn(TINY)
    tensors = names.export_tensors(table, params)
    del tensors["encoder.layer.0.attention.attention.key.bias"]
    found = names.match(table, tensors, params)
    assert found.problems["missing"] == ["encoder.layer.0.attention.attention.key.bias"]
    assert found.params.keys() ^ names.flatten(params).keys() == {"blocks_00/attn/qkv/bias"}


def test_positions_of_prefix_tokens_move_into_these():
    cfg = dataclasses.replace(TINY, registers=2, positions="learned")
    table, params = tables.timm_with_prefix(cfg), drawn(cfg)
    tensors = names.export_tensors(table, params)
    tensors["pos_embed"][0, :3] = np.arange(3)[:, None]
    with pytest.raises(UserError, match="wrong values: pos_embed"):
        names.import_tensors(table, tensors, params, "file")
    moved = names.moved_to_tokens(tensors, "pos_embed", ("cls_token", "reg_token"))
    back = names.import_tensors(table, moved, params, "file")
    np.testing.assert_array_equal(back["cls_token"], params["cls_token"])
    np.testing.assert_array_equal(back["registers"], params["registers"] + np.float32([[1], [2]]))
    np.testing.assert_array_equal(back["pos_embed"], params["pos_embed"])


@pytest.mark.parametrize("table", [timm_table, lambda cfg: names.own(drawn(cfg))])
def test_layers_of_a_scanned_model_are_recognised(table):
    table, params = table(TINY), drawn(TINY)
    tensors = names.export_tensors(table, params)
    stacked = {}
    for name in list(tensors):
        bare = names._without_number(name)
        if bare != name:
            stacked.setdefault(bare, []).append(tensors.pop(name))
    tensors |= {name: np.stack(layers) for name, layers in stacked.items()}
    with pytest.raises(UserError, match=r"scanned: blocks.*stacks the 2 layers of a scanned"):
        names.import_tensors(table, tensors, params, "file")
