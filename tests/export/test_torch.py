"""export/torch.py: a folder that PyTorch loads on its own, and that we open again bit for bit."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from recognisers import case, drawn

from facejax import model
from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import torch as torch_format

pytestmark = pytest.mark.torch
PREPROCESS = {
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "color": "RGB",
    "alignment": "none",
    "flip": "none",
    "embedding": "raw",
}
META = {"step": 3, "config": {}, "data": ["synthetic"], "metrics": {}, "versions": {}}


@pytest.fixture(scope="module", params=["iresnet", "mobilefacenet", "face_vit"])
def made(request, tmp_path_factory):
    pytest.importorskip("torch")
    _, config, _ = case(request.param)
    variables = drawn(*case(request.param)[:2])
    preprocess = {"size": config.size, **PREPROCESS}
    out = tmp_path_factory.mktemp("export") / "torch"
    torch_format.write(config, variables["params"], variables["stats"], preprocess, out, META)
    return out, config, variables


def test_torch_agrees_and_we_open_it_bit_for_bit(made):
    out, config, variables = made
    parity = json.loads((out / "parity.json").read_text())
    assert parity["min_cosine"] >= 0.99999
    assert parity["max_rel"] <= 1e-4
    cfg, params, stats, _ = torch_format.read(out)
    assert cfg == config
    for got, want in zip(jax.tree.leaves((params, stats)), jax.tree.leaves(
        (variables["params"], variables["stats"])
    ), strict=True):  # fmt: skip
        np.testing.assert_array_equal(got, want)
    images = np.random.default_rng(0).integers(0, 256, (2, cfg.size, cfg.size, 3), np.uint8)
    assert np.isfinite(model.load(out).embed(images)).all()


def test_the_folder_needs_neither_facejax_nor_insightface(made):
    out, config, _ = made
    script = (
        "import json, sys, torch, safetensors.torch, torch_nets\n"
        "facts = json.load(open('config.json'))\n"
        "model = getattr(torch_nets, facts['net'])(**facts['options']).eval()\n"
        "model.load_state_dict(safetensors.torch.load_file('model.safetensors'), strict=False)\n"
        f"print(tuple(model(torch.zeros(2, 3, {config.size}, {config.size})).shape))\n"
        "assert not {'facejax', 'jax', 'insightface'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"(2, {config.embed})"


def test_an_encoder_without_a_module_is_told(tmp_path):
    cfg = vit.Config.tiny()
    params, stats = vit.init(cfg, jax.random.key(0), TowerSpec())
    with pytest.raises(UserError, match="'vit' has no module in PyTorch"):
        torch_format.write(
            cfg, params, stats, {"size": cfg.size, **PREPROCESS}, tmp_path / "x", META
        )
