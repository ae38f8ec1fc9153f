"""export/_causes.py: a fingerprint that does not fit is explained."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from facejax import export
from facejax.contracts import TowerSpec
from facejax.data.align import MEAN_STD
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import _encoder
from facejax.export import timm as timm_format

TINY = dataclasses.replace(vit.Config.tiny(), size=24, scan=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, preprocess):
    shapes = jax.eval_shape(lambda: vit.init(TINY, jax.random.key(0), TowerSpec())[0])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: 0.3 * rng.normal(size=s.shape).astype(np.float32), shapes)
    out = tmp_path_factory.mktemp("causes") / "out"
    timm_format.write(TINY, params, {}, preprocess, out, {})
    return params, out


def read_with(out, embeddings):
    """Reads the export as if its fingerprint were these embeddings."""
    path = out / "fingerprint.json"
    kept = path.read_text()
    held = json.loads(kept) | {"embeddings": np.asarray(embeddings).tolist()}
    path.write_text(json.dumps(held))
    try:
        timm_format.read(out)
    finally:
        path.write_text(kept)


IMAGES = export.fixed_images(24)
MISTAKES = {
    "channels in the order BGR": lambda p: export.normalise(IMAGES[..., ::-1], p),
    "mean and std swapped": lambda p: export.normalise(
        IMAGES, {"mean": p["std"], "std": p["mean"]}
    ),
    "mean and std of 'imagenet'": lambda p: export.normalise(
        IMAGES, dict(zip(("mean", "std"), MEAN_STD["imagenet"]))
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_in_the_input_is_named(what, exported, preprocess):
    params, out = exported
    embeddings = _encoder.embedder(TINY, params, {})(MISTAKES[what](preprocess))
    with pytest.raises(UserError, match=f"than when they were exported: these come from {what}"):
        read_with(out, embeddings)


@pytest.mark.torch
def test_another_activation_is_named(exported, preprocess, torch_and_timm):
    """Against the activation of timm itself."""
    torch, timm = torch_and_timm
    model = timm.create_model(f"local-dir:{exported[1]}", pretrained=True).eval()
    for block in model.blocks:
        block.mlp.act = timm.layers.QuickGELU()
    pixels = export.normalise(IMAGES, preprocess).transpose(0, 3, 1, 2)
    with torch.no_grad():
        embeddings = model(torch.from_numpy(pixels.copy())).numpy()
    with pytest.raises(UserError, match="these come from the activation QuickGELU instead of GELU"):
        read_with(exported[1], embeddings)


def test_what_no_mistake_explains_is_said_plainly(exported):
    embeddings = np.random.default_rng(0).normal(size=(4, 32))
    with pytest.raises(UserError, match="than when they were exported; restore"):
        read_with(exported[1], embeddings)
