"""export/transformers.py: one line opens what is written, and it says the same there."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from facejax import export
from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import _encoder, names
from facejax.export import timm as timm_format
from facejax.export import transformers as format_
from facejax.export.names import mae as mae_tables

TINY = dataclasses.replace(vit.Config.tiny(), size=24)
CONFIGS = {
    "vit": {},
    "vit-neck": {"neck": "linear", "embed": 6, "qkv_bias": False, "positions": "learned"},
    "vit-mean": {"pool": "mean", "class_token": True},
    "dinov2": {"layer_scale": 0.3, "positions": "learned"},
    "registers": {"registers": 2, "layer_scale": 0.3},
    "registers-mean": {"registers": 2, "pool": "mean", "class_token": True},
}


def drawn(cfg):
    shapes = jax.eval_shape(lambda: vit.init(cfg, jax.random.key(0), TowerSpec(mask_token=True))[0])
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: 0.3 * rng.normal(size=s.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def transformers(torch_and_timm):
    return pytest.importorskip("transformers")


def planes(torch, pixels):
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


@pytest.mark.torch
@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_transformers_agrees(options, tmp_path, preprocess, transformers):
    cfg = dataclasses.replace(TINY, **options)
    params, out = drawn(cfg), tmp_path / "out"
    format_.write(cfg, params, {}, preprocess, out, {})
    parity = json.loads((out / "parity.json").read_text())
    assert parity["status"] == "ok"
    assert parity["max_rel"] <= 1e-4
    assert parity["min_cosine"] >= 0.99999
    found, loading = transformers.AutoModel.from_pretrained(out, output_loading_info=True)
    assert type(found).__name__ == format_.ARCHITECTURES[found.config.model_type]
    assert not any(loading.values())  # no key is missing, unexpected or mismatched
    read_cfg, read, stats, _ = format_.read(out)
    assert (read_cfg, stats) == (cfg, {})
    jax.tree.map(np.testing.assert_array_equal, read, _encoder.exported(params))
    assert {*export.FILES, "preprocessor_config.json"} == {p.name for p in out.iterdir()}


@pytest.mark.torch
def test_its_processor_normalises_as_we_do(tmp_path, preprocess, transformers):
    format_.write(TINY, drawn(TINY), {}, preprocess, tmp_path / "out", {})
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    images = export.fixed_images(24, 2)
    theirs = processor(list(images), return_tensors="np")["pixel_values"]
    ours = export.normalise(images, preprocess).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.torch
def test_it_opens_folders_of_timm_too(tmp_path, preprocess, transformers, torch_and_timm):
    torch, _ = torch_and_timm
    cfg = dataclasses.replace(TINY, pool="attention", neck="linear", embed=6)
    params = drawn(cfg)
    timm_format.write(cfg, params, {}, preprocess, tmp_path / "out", {})
    model = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    pixels = export.normalise(export.fixed_images(24), preprocess)
    with torch.no_grad():
        tokens = model(planes(torch, pixels)).last_hidden_state
    assert type(model).__name__ == "TimmWrapperModel"
    features, _ = jax.jit(lambda x: vit.apply(cfg, params, {}, {"image": x}, outputs=("tokens",)))(
        pixels
    )
    found = export.agreement(
        np.asarray(features.tokens).reshape(-1, 32), tokens.numpy().reshape(-1, 32)
    )
    assert found["max_rel"] <= 1e-4


@pytest.mark.torch
def test_vit_mae_opens_the_names_of_its_table(tmp_path, transformers):
    from test_names import drawn_mae

    cfg = dataclasses.replace(vit.Config.tiny(), size=16)
    tensors = names.export_tensors(mae_tables.transformers(cfg, 16, 2), drawn_mae(cfg, depth=2))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = transformers.ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
    )
    config.save_pretrained(tmp_path)
    model, loading = transformers.ViTMAEForPreTraining.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(loading.values())
    found = model.decoder.decoder_layers[1].mlp.fc1.weight.detach().numpy()
    key = "decoder.decoder_layers.1.intermediate.dense.weight"
    np.testing.assert_array_equal(found, tensors[key])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "attention", "class_token": True}, "no pool 'attention'"),
        ({"pool": "mean"}, "no encoder without class token"),
        ({"registers": 1, "neck": "linear", "embed": 4}, "no neck on LayerScale"),
    ],
)
def test_what_transformers_lacks_is_refused(options, message, tmp_path, preprocess):
    cfg = dataclasses.replace(TINY, **options)
    with pytest.raises(UserError, match=f"transformers has {message}"):
        format_.write(cfg, drawn(cfg), {}, preprocess, tmp_path / "x", {})


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.real_faces
@pytest.mark.parametrize("name", ["vit-neck", "registers"])
def test_real_faces_agree(name, tmp_path, preprocess, faces, transformers, torch_and_timm):
    torch, _ = torch_and_timm
    cfg = dataclasses.replace(TINY, size=64, patch=8, **CONFIGS[name])
    params, preprocess = drawn(cfg), {**preprocess, "size": 64}
    format_.write(cfg, params, {}, preprocess, tmp_path / "out", {})
    pixels = export.normalise(faces(64, 32), preprocess)
    model = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        theirs = model(planes(torch, pixels)).pooler_output.numpy()
    found = export.agreement(_encoder.embedder(cfg, params, {})(pixels), theirs)
    assert found["min_cosine"] >= 0.99999
    assert found["max_rel"] <= 1e-4
