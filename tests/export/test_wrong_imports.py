"""Weights that load and give wrong features: the commands refuse them and say what is wrong."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
from command import TINY
from PIL import Image
from safetensors.numpy import load_file, save_file

from facejax import cli, embed, export, train
from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.export import _encoder, names
from facejax.export import stablehlo as format_
from facejax.export.names import vit as tables

CFG = vit.Config(width=32, depth=2, heads=2, mlp_ratio=2.0, patch=8, size=32)
PREPROCESS = {
    "size": 32,
    "mean": [0.55, 0.45, 0.4],
    "std": [0.25, 0.2, 0.3],
    "color": "RGB",
    "alignment": "none",
    "flip": "none",
    "embedding": "raw",
}
OPTIONS = [f"--config.encoder.{k}={getattr(CFG, k)}" for k in ("heads", "mlp_ratio", "patch")]


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(lambda: vit.init(CFG, jax.random.key(0), TowerSpec())[0])
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: 0.3 * rng.normal(size=s.shape).astype(np.float32), shapes)


@pytest.fixture
def refused(monkeypatch, capsys):
    """(command, arguments) to the one line that it leaves with, at status 2."""

    def run(command, *argv):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, argv)])
        with pytest.raises(SystemExit) as left:
            cli.main(command)
        (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
        assert left.value.code == 2
        return line

    return run


# -------------------------------------------------------------------------- exports of our own


@pytest.fixture(scope="module")
def exported(params, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "out"
    format_.write(CFG, params, {}, PREPROCESS, out, {})
    return out


@pytest.fixture
def embedding(exported, tmp_path, refused):
    """Lets an export be changed, and returns what `facejax.embed` says to it."""

    def run(change):
        out, pictures = tmp_path / "out", tmp_path / "pictures"
        shutil.copytree(exported, out)
        change(out)
        pictures.mkdir()
        Image.fromarray(export.fixed_images(32)[0]).save(pictures / "a.png")
        source = ("--source=folder", f"--path={pictures}")
        return refused(embed.run, f"--export={out}", *source, f"--out={tmp_path / 'made'}")

    return run


def test_bgr_for_rgb(embedding):
    def change(out):
        """As if the pictures had been BGR when the weights were made."""
        tensors = load_file(out / "model.safetensors")
        kernel = tensors["params/patch_embed/kernel"].reshape(64, 3, 32)
        tensors["params/patch_embed/kernel"] = kernel[:, ::-1].reshape(192, 32).copy()
        save_file(tensors, out / "model.safetensors")
        # The mean and the std are then of BGR as well.
        held = json.loads((out / "preprocess.json").read_text())
        (out / "preprocess.json").write_text(
            json.dumps(held | {k: held[k][::-1] for k in ("mean", "std")})
        )

    told = embedding(change)
    assert "than when they were exported: these come from channels in the order BGR" in told


def test_swapped_mean_and_std(embedding):
    def change(out):
        held = json.loads((out / "preprocess.json").read_text())
        held |= {"mean": held["std"], "std": held["mean"]}
        (out / "preprocess.json").write_text(json.dumps(held))

    assert "these come from mean and std swapped" in embedding(change)


def test_quick_gelu_for_gelu(embedding, params, monkeypatch):
    def change(out):
        """The fingerprint of a program whose activation is x sigmoid(1.702 x)."""
        from facejax import layers

        quick = {**layers.ACTIVATIONS, "gelu": lambda x: x * jax.nn.sigmoid(1.702 * x)}
        with monkeypatch.context() as patched:
            patched.setattr(layers, "ACTIVATIONS", quick)
            made = export.fingerprint(_encoder.embedder(CFG, params, {}), PREPROCESS)
        export.write_json(out / "fingerprint.json", made)

    told = embedding(change)
    assert "these come from the activation QuickGELU instead of GELU" in told


# ------------------------------------------------------------------------------ files of others


@pytest.fixture
def starting(params, tmp_path, refused, monkeypatch):
    """What `facejax.train` says to a file of timm's tensors that were changed."""
    monkeypatch.setattr(train.processes, "start", lambda: None)

    def run(change, **facts):
        tensors = names.export_tensors(tables.timm(CFG), params)
        change(tensors)
        save_file(tensors, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(facts))
        return refused(
            train.run,
            "--config=configs/quickstart.py",
            f"--workdir={tmp_path / 'run'}",
            *TINY,
            *OPTIONS,
            f"--config.init_from={tmp_path}",
        )

    return run


def test_another_activation_in_the_config_of_a_folder(starting):
    told = starting(lambda tensors: None, model_args={"act_layer": "quick_gelu"})
    assert told.startswith("error: config.init_from: its activation is quick_gelu, ours is gelu;")


def test_a_missing_key(starting):
    told = starting(lambda tensors: tensors.pop("blocks.1.norm2.bias"))
    assert told.startswith("error: config.init_from: missing: blocks.1.norm2.bias;")


def test_a_scanned_checkpoint_into_an_unscanned_model(starting):
    def stack(tensors):
        for name in [n for n in tensors if n.startswith("blocks.0.")]:
            parts = [tensors.pop(name), tensors.pop(name.replace(".0.", ".1.", 1))]
            tensors[name.replace(".0.", ".", 1)] = np.stack(parts)

    told = starting(stack)
    assert "blocks.mlp.fc1.weight [2, 64, 32] stacks the 2 layers of a scanned model" in told
    assert told.endswith("store each layer under its own name, without the leading axis")
