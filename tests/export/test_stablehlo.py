"""export/stablehlo.py: the program alone gives what the encoder gives."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from facejax import export
from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import _encoder
from facejax.export import stablehlo as stablehlo_format

TINY = dataclasses.replace(vit.Config.tiny(), size=24, registers=1, layer_scale=0.3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, preprocess):
    shapes = jax.eval_shape(
        lambda: vit.init(TINY, jax.random.key(0), TowerSpec(mask_token=True))[0]
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: 0.3 * rng.normal(size=s.shape).astype(np.float32), shapes)
    out = tmp_path_factory.mktemp("stablehlo") / "out"
    stablehlo_format.write(TINY, params, {}, preprocess, out, {})
    return _encoder.exported(params), out


def test_the_program_runs_without_the_encoder(exported):
    params, out = exported
    program = jax.export.deserialize((out / "model.stablehlo").read_bytes())
    assert program.platforms == ("cpu", "cuda", "tpu")
    tensors = load_file(out / "model.safetensors")
    for rows in (1, 5):
        images = np.random.default_rng(rows).normal(size=(rows, 24, 24, 3)).astype(np.float32)
        found, ours = program.call(tensors, images), _encoder.forward(TINY)(params, {}, images)
        assert set(found) == set(_encoder.OUTPUTS)
        for name in found:
            np.testing.assert_allclose(found[name], ours[name], rtol=0, atol=1e-5)


def test_products_are_exact_on_every_platform(exported):
    program = jax.export.deserialize((exported[1] / "model.stablehlo").read_bytes())
    products = [x for x in program.mlir_module().splitlines() if "stablehlo.dot_general" in x]
    assert products
    assert all("precision = [HIGHEST, HIGHEST]" in x for x in products)


def test_it_comes_back(exported):
    params, out = exported
    cfg, read, stats, _ = stablehlo_format.read(out)
    assert (cfg, stats) == (TINY, {})
    jax.tree.map(np.testing.assert_array_equal, read, params)
    assert {*export.FILES, "model.stablehlo"} == {p.name for p in out.iterdir()}


def test_outputs_are_the_forms_of_one_embedding(exported):
    images = np.random.default_rng(0).normal(size=(3, 24, 24, 3)).astype(np.float32)
    found = jax.tree.map(np.asarray, _encoder.forward(TINY)(exported[0], {}, images))
    features, _ = vit.apply(TINY, exported[0], {}, {"image": images}, outputs=("pooled", "tokens"))
    np.testing.assert_allclose(found["raw"], features.pooled, atol=1e-5)
    np.testing.assert_allclose(found["norm"], np.linalg.norm(found["raw"], axis=1, keepdims=True))
    np.testing.assert_allclose(found["unit"] * found["norm"], found["raw"], rtol=1e-5)
    np.testing.assert_allclose(found["map"][:, :, 2, 3], features.tokens[:, 15], atol=1e-5)
    np.testing.assert_allclose(found["pooled_map"], found["map"].mean((2, 3)), atol=1e-5)


def test_nothing_is_overwritten(exported, preprocess):
    with pytest.raises(UserError, match="already there"):
        stablehlo_format.write(TINY, exported[0], {}, preprocess, exported[1], {})
