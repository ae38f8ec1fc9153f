"""starting.py and export/files: weights of others, brought in, adapted, or refused by name."""

import argparse
import dataclasses
import json
import pickle

import jax
import numpy as np
import pytest
import support
from safetensors.numpy import save_file

from facejax import checkpoint, mesh, starting, state
from facejax.config import MeshShape
from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import files, names
from facejax.export import timm as timm_format
from facejax.export.names import mae as mae_tables
from facejax.export.names import vit as tables
from facejax.objectives import mae

SIZE = 16
TINY = vit.Config(
    width=32, depth=2, heads=2, mlp_ratio=2.0, patch=4, size=SIZE, positions="learned"
)
OPTIONS = {"width": 32, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "patch": 4, "name": "vit"}
MAE = {"mae": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}}


def drawn(cfg, seed=0):
    shapes = jax.eval_shape(lambda: vit.init(cfg, jax.random.key(0), TowerSpec())[0])
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


def run_of(source, objective=None, **encoder):
    encoder = {**OPTIONS, "positions": "learned", **encoder}
    return support.resolve(
        objective or {"simclr": {}}, encoder=encoder, init_from=str(source), micro_batch=None
    )


def wanted(run):
    shapes = state.shapes(support.program_of(run))
    return starting.flatten({name: getattr(shapes, name) for name in starting.ITEMS})


def matched(run):
    source = starting.read(run)
    return starting.match(wanted(run), source, run.towers["encoder"].config)


def encoder_of(taken):
    top = "params/encoder/"
    return {k.removeprefix(top): v for k, v in taken.items() if k.startswith(top)}


def assert_loaded(taken, params):
    ours = encoder_of(taken)
    flat = names.flatten(params)
    assert ours.keys() == flat.keys()
    for path in flat:
        np.testing.assert_array_equal(ours[path], flat[path], err_msg=path)


LAYOUTS = {
    "timm": (tables.timm, {}),
    "timm with positions of the class token": (tables.timm_with_prefix, {}),
    "ViTModel": (tables.transformers, {}),
    "Dinov2Model": (tables.dinov2, {"layer_scale": 0.1}),
    "Dinov2WithRegistersModel": (tables.dinov2, {"layer_scale": 0.1, "registers": 3}),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_layouts_are_recognised_by_their_names(name, prefix, tmp_path):
    table, options = LAYOUTS[name]
    cfg = dataclasses.replace(TINY, **options)
    tensors = names.export_tensors(table(cfg), params := drawn(cfg))
    file = tmp_path / "weights.safetensors"
    save_file({f"{prefix}{k}": v for k, v in tensors.items()}, file)
    taken, report = matched(run_of(file, **options))
    assert_loaded(taken, params)
    assert report.adapted == []
    assert all(path.startswith("params/objective/simclr/") for path in report.random)


@pytest.mark.parametrize("form", ["official", "transformers"])
def test_the_decoder_of_mae_comes_along(form, tmp_path):
    cfg = dataclasses.replace(TINY, positions="sincos")
    spec = dataclasses.replace(support.program_of(run_of("x", MAE)).spec)
    own = mae.init(mae.Config(**MAE["mae"]), jax.random.key(1), spec).params
    own = jax.tree.map(np.asarray, own)
    tensors = names.export_tensors(
        getattr(mae_tables, form)(cfg, 16, 1), {"encoder": drawn(cfg), "mae": own}
    )
    save_file(tensors, tmp_path / "w.safetensors")
    taken, report = matched(run_of(tmp_path / "w.safetensors", MAE, positions="sincos"))
    assert_loaded({k: v for k, v in taken.items() if "objective" not in k}, drawn(cfg))
    for path, value in names.flatten(own).items():
        np.testing.assert_array_equal(taken[f"params/objective/mae/{path}"], value)
    assert report.random == []
    assert any("fixed ones" in note for note in report.notes)
    _, without = matched(run_of(tmp_path / "w.safetensors", positions="sincos"))
    assert "mae/decoder/pred/kernel" in without.skipped


def test_positions_and_patches_are_adapted_and_told(tmp_path):
    cfg = dataclasses.replace(TINY, patch=8, size=48)
    tensors = names.export_tensors(tables.timm(cfg), params := drawn(cfg))
    save_file(tensors | {"head.weight": np.ones((5, 32), np.float32)}, tmp_path / "w.safetensors")
    taken, report = matched(run_of(tmp_path / "w.safetensors"))
    assert taken["params/encoder/pos_embed"].shape == (16, 32)
    text = report.text("file")
    assert "params/encoder/pos_embed: interpolated from 6x6 to 4x4" in text
    assert "params/encoder/patch_embed/kernel: patches resized from 8 to 4 pixels" in text
    assert "skipped: head.weight" in text
    kernel = names.flatten(params)["blocks_00/attn/qkv/kernel"]
    np.testing.assert_array_equal(taken["params/encoder/blocks_00/attn/qkv/kernel"], kernel)


def test_a_resized_patch_sees_a_resized_image_as_before():
    """Exact where the new patch is larger: the pseudo-inverse then undoes the resizing."""
    rng = np.random.default_rng(0)
    kernel, image = rng.normal(size=(4 * 4 * 3, 5)), rng.normal(size=(4, 4, 3))
    large = jax.image.resize(image.astype(np.float32), (7, 7, 3), "bicubic", antialias=True)
    made = starting.resized_patch(kernel.astype(np.float32), 4, 7)
    np.testing.assert_allclose(np.ravel(large) @ made, image.ravel() @ kernel, atol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize(("old", "new"), [(8, 4), (4, 6)])
def test_a_resized_patch_is_timms(old, new, torch_and_timm):
    torch, _ = torch_and_timm
    from timm.layers import resample_patch_embed

    kernel = np.random.default_rng(0).normal(size=(old * old * 3, 5)).astype(np.float32)
    layout = names.patch_conv(old)
    theirs = resample_patch_embed(torch.from_numpy(layout.write(kernel).copy()), [new, new])
    ours = names.patch_conv(new).write(starting.resized_patch(kernel, old, new))
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


@pytest.fixture(scope="session")
def torch_and_timm():
    from facejax.export._timm import import_timm

    try:
        return import_timm()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")


# ------------------------------------------------------------------------------------ wrong


def refused(run, message):
    with pytest.raises(UserError, match=message):
        matched(run)


def spoiled(tmp_path, change):
    tensors = names.export_tensors(tables.timm(TINY), drawn(TINY))
    change(tensors)
    save_file(tensors, tmp_path / "w.safetensors")
    return run_of(tmp_path / "w.safetensors")


def test_a_missing_key_is_named(tmp_path):
    run = spoiled(tmp_path, lambda t: [t.pop("norm.bias"), t.pop("blocks.1.mlp.fc2.weight")])
    refused(run, r"missing: blocks\.1\.mlp\.fc2\.weight, norm\.bias")


def test_an_unknown_key_that_would_change_the_function_is_named(tmp_path):
    extra = {"blocks.0.attn.q_norm.weight": np.ones(16, np.float32)}
    refused(spoiled(tmp_path, lambda t: t.update(extra)), r"unexpected: blocks\.0\.attn\.q_norm")


def test_a_scanned_checkpoint_is_recognised(tmp_path):
    def stack(tensors):
        for name in [n for n in tensors if n.startswith("blocks.0.")]:
            other = name.replace("blocks.0.", "blocks.1.")
            bare = name.replace("blocks.0.", "blocks.")
            tensors[bare] = np.stack([tensors.pop(name), tensors.pop(other)])

    refused(spoiled(tmp_path, stack), r"scanned: blocks\.attn.* stacks the 2 layers")


def test_another_architecture_is_named(tmp_path):
    cfg = dataclasses.replace(TINY, width=48, depth=3)
    save_file(names.export_tensors(tables.timm(cfg), drawn(cfg)), tmp_path / "w.safetensors")
    message = (
        r"another encoder: wrong shape: .*blocks_00/attn/qkv/kernel \[48, 144\], not \[32, 96\]"
    )
    refused(run_of(tmp_path / "w.safetensors"), message)


def test_foreign_names_are_said_to_be_foreign(tmp_path):
    save_file({"conv1.weight": np.ones(2, np.float32)}, tmp_path / "w.safetensors")
    refused(run_of(tmp_path / "w.safetensors"), r"no known layout \(conv1\.weight")


CONFIGS = {
    "activation": ({"hidden_act": "quick_gelu"}, {}, "activation is quick_gelu, ours is gelu"),
    "heads": ({"num_attention_heads": 4}, {}, "4 attention heads, config.encoder has 2"),
    "kind": ({"model_type": "dinov3_vit"}, {}, "it is a 'dinov3_vit', not vit or"),
    "colours": ({}, {"do_flip_channel_order": True}, "images are BGR, ours are RGB"),
    "swapped": (
        {},
        {"image_mean": [0.2, 0.3, 0.4], "image_std": [0.5, 0.6, 0.7]},
        r"config\.data\.mean and config\.data\.std are swapped",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_folder_says_about_its_use_is_checked(name, tmp_path):
    config, pixels, message = CONFIGS[name]
    tensors = names.export_tensors(tables.transformers(TINY), drawn(TINY))
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    run = run_of(tmp_path)
    run = support.replace_data(run, mean=(0.5, 0.6, 0.7), std=(0.2, 0.3, 0.4))
    refused(run, message)


def test_another_normalisation_is_a_note(tmp_path):
    tensors = names.export_tensors(tables.transformers(TINY), drawn(TINY))
    save_file(tensors, tmp_path / "model.safetensors")
    pixels = {"image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    (tmp_path / "config.json").write_text(json.dumps({"layer_norm_eps": 1e-12}))
    report = matched(run_of(tmp_path))[1].text(str(tmp_path))
    assert "normalisation: its mean is (0.4, 0.4, 0.4)" in report
    assert "eps of the norms: 1e-12 there, 1e-06 here" in report


# ------------------------------------------------------------------------------- torch files


@pytest.mark.torch
def test_a_pickle_loads_with_its_arguments_and_container(tmp_path, torch_and_timm):
    torch, _ = torch_and_timm
    tensors = names.export_tensors(tables.timm(TINY), params := drawn(TINY))
    held = {k: torch.from_numpy(v) for k, v in tensors.items()}
    content = {"model": held, "args": argparse.Namespace(lr=1.0), "epoch": 3}
    torch.save(content, tmp_path / "w.pth")
    assert_loaded(matched(run_of(tmp_path / "w.pth"))[0], params)


class Harmful:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.torch
def test_a_pickle_that_would_run_code_is_refused(tmp_path, torch_and_timm, capsys):
    torch, _ = torch_and_timm
    torch.save({"model": Harmful()}, tmp_path / "w.pt")
    refused(run_of(tmp_path / "w.pt"), r"w\.pt: holds more than tensors")
    (tmp_path / "w.bin").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(UserError):
        files.read_file(tmp_path / "w.bin")
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"), [("none.safetensors", "no such file"), ("w.npz", "'.npz' is no file")]
)
def test_files_that_are_none_are_named(name, message, tmp_path):
    refused(run_of(tmp_path / name), message)


@pytest.mark.torch
def test_a_timm_name_tells_what_the_file_does_not(tmp_path, torch_and_timm):
    save_file(names.export_tensors(tables.timm(TINY), drawn(TINY)), tmp_path / "w.safetensors")
    file = tmp_path / "w.safetensors"
    refused(run_of(f"vit_tiny_patch16_224@{file}"), "it has 3 attention heads")
    refused(run_of(f"vit_base_patch16_clip_quickgelu_224@{file}"), "activation is quickgelu")
    refused(run_of(f"vit_tini_patch16_224@{file}"), "timm has no model")


# --------------------------------------------------------------------------------- our own


def test_an_export_of_ours_starts_a_run(tmp_path, preprocess):
    params, stats = drawn(TINY), {}
    timm_format.write(TINY, params, stats, {**preprocess, "size": SIZE}, tmp_path / "out", {})
    taken, report = matched(run_of(tmp_path / "out"))
    assert_loaded(taken, params)
    assert report.layout == "facejax export"
    assert report.notes == []
    source = starting.read(support.replace_data(run_of(tmp_path / "out"), align="arcface112"))
    assert source.notes == ["alignment: 'none' there, 'arcface112' here"]


@pytest.fixture
def preprocess():
    keys = {"color": "RGB", "alignment": "none", "flip": "none", "embedding": "raw"}
    return {"mean": [0.5] * 3, "std": [0.5] * 3, **keys}


def test_heads_and_teachers_of_our_runs_come_along(tmp_path):
    workdir = support.trained_run(tmp_path / "run", objective="queue")
    step = checkpoint.find(workdir, None)
    saved = checkpoint.Checkpoints(workdir).read(step, starting.ITEMS)
    run = support.resolve({"queue": {}}, init_from=str(workdir))
    program = support.program_of(run)
    grid = mesh.make(MeshShape(), jax.devices()[:1])
    started, report = starting.start(program, grid, starting.read(run))
    for name in starting.ITEMS:
        support.assert_close(getattr(started, name), saved[name], atol=0)
    assert report.random == report.adapted == report.skipped == []
    assert int(started.step) == 0
    # Another objective starts at random and leaves the head of the first behind.
    other = support.resolve({"centres": {}}, init_from=str(workdir))
    source = starting.read(other)
    _, report = starting.match(wanted(other), source, other.towers["encoder"].config)
    assert all("centres" in path for path in report.random)
    assert any("ema/" in path for path in report.skipped)
