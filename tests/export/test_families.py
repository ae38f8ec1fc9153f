"""Every encoder goes out as ONNX and StableHLO and comes back; recognisers come in from files."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from facejax import plugins
from facejax.contracts import TowerSpec
from facejax.errors import UserError
from facejax.export import _encoder, files, names
from facejax.export import onnx as onnx_format
from facejax.export import stablehlo as stablehlo_format

ENCODERS = [n for n in plugins.names("encoder") if n not in ("toy", "conv", "text")]
RECOGNISERS = [n for n in ENCODERS if n != "vit"]


def made(name, preprocess):
    """(cfg, params, stats, preprocess) of the encoder at its smallest, everything off its start."""
    module = plugins.load("encoder", name, "test")
    cfg = module.Config.tiny()
    shapes = jax.eval_shape(lambda: module.init(cfg, jax.random.key(0), TowerSpec()))
    rng = np.random.default_rng(0)

    def draw(path, s):
        if path[-1].key in ("scale", "var", "slope"):  # near one, above zero
            return rng.uniform(0.7, 1.3, s.shape).astype(np.float32)
        return 0.2 * rng.normal(size=s.shape).astype(np.float32)

    params, stats = jax.tree_util.tree_map_with_path(draw, shapes)
    return cfg, params, stats, {**preprocess, "size": cfg.size}


def assert_same(read, cfg, params, stats):
    assert read[0] == cfg
    for ours, back in ((params, read[1]), (stats, read[2])):
        assert jax.tree.structure(ours) == jax.tree.structure(back)
        jax.tree.map(np.testing.assert_array_equal, ours, back)


@pytest.mark.parametrize("name", ENCODERS)
def test_onnx_there_and_back(name, tmp_path, preprocess):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    cfg, params, stats, preprocess = made(name, preprocess)
    onnx_format.write(cfg, params, stats, preprocess, tmp_path / "out", {})
    assert_same(onnx_format.read(tmp_path / "out"), cfg, params, stats)
    images = np.random.default_rng(1).normal(size=(3, cfg.size, cfg.size, 3)).astype(np.float32)
    ours = _encoder.forward(cfg)(params, stats, images)
    session = runtime.InferenceSession(tmp_path / "out/model.onnx")
    found = session.run(None, {"image": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})
    for output, theirs in zip(_encoder.OUTPUTS, found):
        atol = 1e-4 * np.std(ours[output])
        np.testing.assert_allclose(theirs, ours[output], rtol=1e-5, atol=atol, err_msg=output)


@pytest.mark.parametrize("name", RECOGNISERS)
def test_stablehlo_there_and_back(name, tmp_path, preprocess):
    cfg, params, stats, preprocess = made(name, preprocess)
    stablehlo_format.write(cfg, params, stats, preprocess, tmp_path / "out", {})
    assert_same(stablehlo_format.read(tmp_path / "out"), cfg, params, stats)


@pytest.mark.parametrize("name", RECOGNISERS)
def test_recognisers_come_in_from_files(name, tmp_path, preprocess):
    cfg, params, stats, _ = made(name, preprocess)
    family = files.family(name)
    table = plugins.importlib.import_module(f"facejax.export.names.{name}").torch(cfg)
    both = {"params": params, **({"stats": stats} if stats else {})}
    tensors = names.export_tensors(table, both)
    tensors |= {"module.bn1.num_batches_tracked": np.zeros(1, np.float32)}
    tensors = {k if k.startswith("module.") else f"module.{k}": v for k, v in tensors.items()}
    save_file(tensors, tmp_path / "w.safetensors")
    found = family.recognise(cfg, load_file(tmp_path / "w.safetensors"))
    want = names.flatten({"encoder": params, "stats": stats})
    assert found.params.keys() == want.keys()
    for path, value in want.items():
        np.testing.assert_array_equal(found.params[path], value, err_msg=path)
    some = next(k for k in tensors if not k.endswith("tracked"))
    del tensors[some]
    with pytest.raises(UserError, match=f"missing: {some.removeprefix('module.')}"):
        family.recognise(cfg, tensors)


def test_an_encoder_without_a_known_layout_says_so():
    with pytest.raises(UserError, match="no foreign layout of the encoder 'toy' is known"):
        files.family("toy")
