"""export/transformers.py: AutoModel opens it in one line and computes what we do."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from facejax import export
from facejax.contracts import TowerSpec
from facejax.encoders import iresnet, vit
from facejax.errors import UserError
from facejax.export import _encoder, files, names
from facejax.export import timm as timm_format
from facejax.export import transformers as format_
from facejax.export.names import mae as mae_tables

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
    "DINOv3ViTModel": {"positions": "rope"},
    "DINOv3ViTModel-all": {"positions": "rope", "registers": 3, "layer_scale": 0.1},
}


def config(options):
    return dataclasses.replace(vit.Config.tiny(), **options)


def drawn(cfg):
    shapes = jax.eval_shape(lambda: vit.init(cfg, jax.random.key(0), TowerSpec())[0])
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32) * 0.2, shapes)


@pytest.fixture(scope="module")
def transformers(torch_and_timm):
    return pytest.importorskip("transformers")


def planes(torch, pixels):
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("name", CASES)
def test_it_agrees_and_comes_back_bit_for_bit(name, tmp_path, transformers):
    cfg = config(CASES[name])
    params, out = drawn(cfg), tmp_path / "export"
    format_.write(cfg, params, {}, {"size": cfg.size, **PREPROCESS}, out, META)
    parity = json.loads((out / "parity.json").read_text())
    assert parity["status"] == "ok"
    assert parity["min_cosine"] >= 0.99999
    opened, loading = transformers.AutoModel.from_pretrained(out, output_loading_info=True)
    assert type(opened).__name__ == name.partition("-")[0]
    assert not any(loading.values())  # no key is missing, unexpected or mismatched
    opened.save_pretrained(tmp_path / "theirs")
    tensors, _ = files.open_source(str(tmp_path / "theirs"))
    taken = files.family("vit").recognise(cfg, tensors).params
    for path, want in names.flatten(params).items():
        if not path.startswith("neck/"):  # a pooler there, which a start leaves out
            np.testing.assert_array_equal(taken[f"encoder/{path}"], want, err_msg=path)
    again, found, stats, _ = format_.read(out)
    assert (again, stats) == (cfg, {})
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(got, want)
    assert {*export.FILES, "preprocessor_config.json"} == {p.name for p in out.iterdir()}


def test_its_processor_normalises_as_we_do(tmp_path, transformers):
    cfg = config({})
    preprocess = {"size": cfg.size, **PREPROCESS}
    format_.write(cfg, drawn(cfg), {}, preprocess, tmp_path / "out", {})
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    images = export.fixed_images(cfg.size, 2)
    theirs = processor(list(images), return_tensors="np")["pixel_values"]
    ours = export.normalise(images, preprocess).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_it_opens_folders_of_timm_too(tmp_path, transformers, torch_and_timm):
    torch, _ = torch_and_timm
    cfg = config({"pool": "attention", "neck": "linear", "embed": 6})
    params, preprocess = drawn(cfg), {"size": cfg.size, **PREPROCESS}
    timm_format.write(cfg, params, {}, preprocess, tmp_path / "out", {})
    model = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    pixels = export.normalise(export.fixed_images(cfg.size), preprocess)
    with torch.no_grad():
        tokens = model(planes(torch, pixels)).last_hidden_state
    assert type(model).__name__ == "TimmWrapperModel"
    ours = np.asarray(_encoder.forward(cfg)(params, {}, pixels)["map"])
    ours = ours.reshape(4, 32, -1).transpose(0, 2, 1)
    found = export.agreement(ours.reshape(-1, 32), tokens.numpy().reshape(-1, 32))
    assert found["max_rel"] <= 1e-4


def test_vit_mae_opens_the_names_of_its_table(tmp_path, transformers):
    from test_names import drawn_mae

    cfg = vit.Config.tiny()
    tensors = names.export_tensors(mae_tables.transformers(cfg, 16, 2), drawn_mae(cfg, depth=2))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    theirs = transformers.ViTMAEConfig(
        image_size=16,
        patch_size=4,
        intermediate_size=64,
        decoder_intermediate_size=64,
        **sizes,
        **{f"decoder_{k}": 16 if k == "hidden_size" else 2 for k in sizes},
    )
    theirs.save_pretrained(tmp_path)
    model, loading = transformers.ViTMAEForPreTraining.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(loading.values())
    found = model.decoder.decoder_layers[1].mlp.fc1.weight.detach().numpy()
    key = "decoder.decoder_layers.1.intermediate.dense.weight"
    np.testing.assert_array_equal(found, tensors[key])


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"pool": "mean"}, "no class token"),
        ({"pool": "attention"}, "class token|attention pooling"),
        ({"pool": "mean", "class_token": True, "neck": "linear", "embed": 4}, "behind the mean"),
        ({"registers": 1, "neck": "linear", "embed": 4}, "beside LayerScale"),
        ({"positions": "rope", "neck": "linear", "embed": 4}, "or rotary positions"),
    ],
)
def test_what_transformers_does_not_have_is_told(options, what, tmp_path):
    cfg = config(options)
    with pytest.raises(UserError, match=what):
        format_.write(cfg, drawn(cfg), {}, {"size": cfg.size, **PREPROCESS}, tmp_path / "x", META)


def test_another_encoder_is_told(tmp_path):
    with pytest.raises(UserError, match="for the encoder 'vit'"):
        format_.write(iresnet.Config.tiny(), {}, {}, {}, tmp_path / "x", META)
