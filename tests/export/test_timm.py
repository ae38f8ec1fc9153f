"""export/timm.py: what is written loads elsewhere, says the same there, and comes back."""

import dataclasses
import json
import shutil
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from facejax import export
from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import files, names
from facejax.export import timm as timm_format

TINY = dataclasses.replace(vit.Config.tiny(), size=24)
CONFIGS = {
    f"{pool}-{name}": {"pool": pool, **options}
    for pool in ("class", "mean", "attention")
    for name, options in {
        "plain": {},
        "registers": {"registers": 2, "class_token": True},
        "layerscale": {"layer_scale": 0.3, "qkv_bias": False},
        "neck": {"neck": "linear", "embed": 6, "positions": "learned"},
        "all": {
            "registers": 1,
            "class_token": True,
            "layer_scale": 0.5,
            "neck": "linear",
            "embed": 6,
            "positions": "learned",
        },
        "rope": {"positions": "rope", "layer_scale": 0.3, "neck": "linear", "embed": 6},
    }.items()
}
CONFIGS["class-rope"] |= {"registers": 2, "qkv_bias": False}
CONFIGS["mean-rope"] |= {"registers": 2, "class_token": True}


def drawn(cfg):
    """Parameters off their initial values: scales, biases and LayerScale all count."""
    shapes = jax.eval_shape(lambda: vit.init(cfg, jax.random.key(0), TowerSpec(mask_token=True))[0])
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: 0.3 * rng.normal(size=s.shape).astype(np.float32), shapes)


def exported(tmp_path, preprocess, meta=(), **options):
    cfg = dataclasses.replace(TINY, **options)
    params, out = drawn(cfg), tmp_path / "exported"
    timm_format.write(cfg, params, {}, preprocess, out, dict(meta))
    return cfg, params, out


@pytest.fixture(scope="module")
def exported_once(tmp_path_factory, preprocess):
    return exported(tmp_path_factory.mktemp("once"), preprocess)[2]


@pytest.fixture
def folder(exported_once, tmp_path):
    """An export of its own for a test that spoils it."""
    return shutil.copytree(exported_once, tmp_path / "exported")


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_timm_agrees(options, tmp_path, preprocess, torch_and_timm):
    torch, timm = torch_and_timm
    cfg, params, out = exported(tmp_path, preprocess, **options)
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    model.load_state_dict(_tensors(torch, out), strict=True)
    held = {k: v.numpy() for k, v in model.state_dict().items()}
    taken = files.family("vit").recognise(cfg, held).params
    for path, want in names.flatten(params).items():
        if path != "mask_token":
            np.testing.assert_array_equal(taken[f"encoder/{path}"], want, err_msg=path)
    images = np.random.default_rng(1).normal(size=(5, 24, 24, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    features, _ = jax.jit(lambda x: vit.apply(cfg, params, {}, {"image": x}))(images)
    found = export.agreement(np.asarray(features.pooled), theirs)
    assert theirs.shape == (5, vit.tower(cfg).embed)
    assert found["min_cosine"] >= 0.99999
    assert found["max_rel"] <= 1e-4
    parity = json.loads((out / "parity.json").read_text())
    assert parity["status"] == "ok"
    assert parity["max_rel"] <= 1e-4
    assert parity["min_cosine"] >= 0.99999


def _tensors(torch, out):
    return {k: torch.from_numpy(v) for k, v in load_file(out / "model.safetensors").items()}


@pytest.mark.torch
def test_timm_takes_the_normalisation_from_the_export(folder, preprocess, torch_and_timm):
    _, timm = torch_and_timm
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    found = timm.data.resolve_model_data_config(model)
    assert list(found["mean"]) == preprocess["mean"]
    assert list(found["std"]) == preprocess["std"]
    assert tuple(found["input_size"]) == (3, 24, 24)


@pytest.mark.torch
@pytest.mark.parametrize("size", [36, 16])
def test_learned_positions_of_other_sizes_are_timms(size, tmp_path, preprocess, torch_and_timm):
    torch, timm = torch_and_timm
    cfg, params, out = exported(tmp_path, preprocess, positions="learned", pool="mean")
    model = timm.create_model(f"local-dir:{out}", pretrained=True, img_size=size).eval()
    images = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    features, _ = jax.jit(lambda x: vit.apply(cfg, params, {}, {"image": x}))(images)
    assert export.agreement(np.asarray(features.pooled), theirs)["max_rel"] <= 1e-4


@pytest.mark.torch
def test_a_wrong_table_is_caught_and_nothing_is_left(
    tmp_path, preprocess, torch_and_timm, monkeypatch
):
    swapped = {"class": "avg", "mean": "token", "attention": "map"}
    monkeypatch.setattr(timm_format, "POOLS", swapped)
    with pytest.raises(RuntimeError, match="timm disagrees"):
        exported(tmp_path, preprocess)
    assert not any(tmp_path.iterdir())


def test_without_timm_parity_says_so(tmp_path, preprocess, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    _, _, out = exported(tmp_path, preprocess)
    parity = json.loads((out / "parity.json").read_text())
    assert parity["status"] == "not checked"
    assert "install timm" in parity["remedy"]


@pytest.mark.parametrize("name", ["class-plain", "attention-all"])
def test_reading_gives_back_what_was_written(name, tmp_path, preprocess):
    cfg, params, out = exported(tmp_path, preprocess, dtype="bfloat16", **CONFIGS[name])
    read_cfg, read_params, _, read_preprocess = timm_format.read(out)
    assert read_cfg == cfg
    assert read_preprocess == preprocess
    del params["mask_token"]
    jax.tree.map(np.testing.assert_array_equal, read_params, params)


def test_the_folder_holds_the_promised_files(tmp_path, preprocess):
    _, _, out = exported(tmp_path, preprocess)
    assert sorted(p.name for p in out.iterdir()) == sorted(export.FILES)
    for path in out.glob("*.json"):
        assert json.loads(path.read_text())["schema_version"] == export.SCHEMA_VERSION
    assert "local-dir:exported" in (out / "README.md").read_text()


def test_changed_weights_are_noticed(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["norm.bias"] = tensors["norm.bias"] + 0.01
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"fingerprint\.json: the weights give other embeddings"):
        timm_format.read(folder)


def test_changed_preprocessing_is_noticed(folder, preprocess):
    export.write_json(folder / "preprocess.json", {**preprocess, "mean": [0.5, 0.5, 0.5]})
    with pytest.raises(UserError, match=r"fingerprint\.json"):
        timm_format.read(folder)


@pytest.mark.parametrize("name", ["config.json", "preprocess.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"\x00{broken"])
def test_missing_and_broken_files_are_named(name, content, folder):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: (no such file|not )"):
        timm_format.read(folder)


def test_nothing_is_overwritten(tmp_path, preprocess):
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="already there"):
        exported(tmp_path, preprocess)
    assert [p.name for p in tmp_path.rglob("*")] == ["exported", "mine.txt"]


def test_an_incomplete_preprocess_is_refused(tmp_path, preprocess):
    rest = {key: value for key, value in preprocess.items() if key != "alignment"}
    with pytest.raises(UserError, match="lacks alignment"):
        exported(tmp_path, rest)


def test_another_encoder_is_refused(tmp_path, preprocess):
    with pytest.raises(UserError, match="timm is for the encoder 'vit'"):
        timm_format.write(object(), {}, {}, preprocess, tmp_path / "x", {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_eps": 1e-5}, "timm has no ViT with norm_eps 1e-05 beside positions 'sincos'"),
        (
            {"positions": "rope", "pool": "attention", "registers": 1},
            "rotary positions whose attention pooling leaves tokens out",
        ),
    ],
)
def test_what_timm_does_not_have_is_told(options, message, tmp_path, preprocess):
    with pytest.raises(UserError, match=message):
        exported(tmp_path, preprocess, **options)
