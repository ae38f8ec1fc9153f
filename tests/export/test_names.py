"""export/names: one table for export and import."""

import dataclasses

import jax
import numpy as np
import pytest

from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import names
from facejax.export.names.vit import timm as timm_table

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


@pytest.fixture(params=CONFIGS)
def cfg(request):
    return dataclasses.replace(TINY, **CONFIGS[request.param])


def test_there_and_back_is_bit_equal(cfg):
    table, params = timm_table(cfg), drawn(cfg)
    tensors = names.export_tensors(table, params)
    back = names.import_tensors(table, tensors, params, "file")
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert len({e.theirs for e in table}) == len(table)


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
