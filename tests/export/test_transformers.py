"""export/transformers.py: AutoModel opens it in one line and computes what we do."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from facejax.contracts import TowerSpec
from facejax.encoders import iresnet, vit
from facejax.errors import UserError
from facejax.export import transformers as format_

pytestmark = pytest.mark.torch
PREPROCESS = {
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
    "color": "RGB",
    "alignment": "none",
    "flip": "none",
    "embedding": "raw",
}
META = {"step": 3, "config": {}, "data": ["synthetic"], "metrics": {}, "versions": {}}
CASES = {
    "ViTModel": {},
    "ViTModel-neck": {"neck": "linear", "embed": 6, "qkv_bias": False},
    "ViTModel-mean": {"pool": "mean", "class_token": True, "positions": "learned"},
    "Dinov2Model": {"layer_scale": 0.1},
    "Dinov2WithRegistersModel": {"registers": 3, "layer_scale": 0.1},
    "Dinov2WithRegistersModel-mean": {"registers": 2, "pool": "mean", "class_token": True},
}


def config(options):
    return dataclasses.replace(vit.Config.tiny(), **options)


def drawn(cfg):
    shapes = jax.eval_shape(lambda: vit.init(cfg, jax.random.key(0), TowerSpec())[0])
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32) * 0.2, shapes)


@pytest.mark.parametrize("name", CASES)
def test_it_agrees_and_comes_back_bit_for_bit(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    cfg = config(CASES[name])
    params, out = drawn(cfg), tmp_path / "export"
    format_.write(cfg, params, {}, {"size": cfg.size, **PREPROCESS}, out, META)
    parity = json.loads((out / "parity.json").read_text())
    assert parity["status"] == "ok"
    assert parity["min_cosine"] >= 0.99999
    assert type(transformers.AutoModel.from_pretrained(out)).__name__ == name.partition("-")[0]
    again, found, stats, _ = format_.read(out)
    assert (again, stats) == (cfg, {})
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(got, want)
    processor = json.loads((out / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == PREPROCESS["mean"]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"pool": "mean"}, "no class token"),
        ({"pool": "attention"}, "class token|attention pooling"),
        ({"pool": "mean", "class_token": True, "neck": "linear", "embed": 4}, "behind the mean"),
        ({"registers": 1, "neck": "linear", "embed": 4}, "beside LayerScale"),
    ],
)
def test_what_transformers_does_not_have_is_told(options, what, tmp_path):
    cfg = config(options)
    with pytest.raises(UserError, match=what):
        format_.write(cfg, drawn(cfg), {}, {"size": cfg.size, **PREPROCESS}, tmp_path / "x", META)


def test_another_encoder_is_told(tmp_path):
    with pytest.raises(UserError, match="for the encoder 'vit'"):
        format_.write(iresnet.Config.tiny(), {}, {}, {}, tmp_path / "x", META)
