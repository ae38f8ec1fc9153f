"""export/onnx.py and its converter: what onnxruntime and insightface make of it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from facejax import export
from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import _encoder, _graph
from facejax.export import onnx as onnx_format
from facejax.export._onnx_ops import OPS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

TINY = dataclasses.replace(vit.Config.tiny(), size=24)
CONFIGS = {
    "class": {"scan": True, "dtype": "bfloat16"},
    "mean": {"pool": "mean", "positions": "learned", "qkv_bias": False},
    "rope": {"positions": "rope", "registers": 1, "layer_scale": 0.3},
    "all": {
        "pool": "attention",
        "registers": 2,
        "class_token": True,
        "layer_scale": 0.3,
        "neck": "linear",
        "embed": 6,
    },
}


def drawn(cfg):
    shapes = jax.eval_shape(lambda: vit.init(cfg, jax.random.key(0), TowerSpec(mask_token=True))[0])
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: 0.3 * rng.normal(size=s.shape).astype(np.float32), shapes)


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_onnxruntime_agrees_for_any_batch(options, tmp_path, preprocess):
    cfg = dataclasses.replace(TINY, **options)
    params, out = drawn(cfg), tmp_path / "out"
    onnx_format.write(cfg, params, {}, preprocess, out, {})
    running = session(out / "model.onnx")
    assert [i.name for i in running.get_inputs()] == ["image"]
    assert tuple(o.name for o in running.get_outputs()) == _encoder.OUTPUTS
    for rows in (1, 5):
        images = np.random.default_rng(rows).normal(size=(rows, 24, 24, 3)).astype(np.float32)
        found = running.run(None, {"image": images.transpose(0, 3, 1, 2)})
        ours = _encoder.forward(cfg)(_encoder.exported(params), {}, images)
        for name, theirs in zip(_encoder.OUTPUTS, found):
            scale = np.std(ours[name]) if rows > 1 else np.abs(ours[name]).max()
            # Lengths of embeddings differ so little that float32 cannot hold 1e-5 of it.
            rtol = 4 * np.finfo(np.float32).eps
            np.testing.assert_allclose(theirs, ours[name], rtol=rtol, atol=1e-5 * scale)
    assert json.loads((out / "parity.json").read_text())["max_rel"] <= 1e-4
    assert {*export.FILES, "model.onnx"} == {p.name for p in out.iterdir()}
    read = onnx_format.read(out)
    assert read[0] == cfg
    jax.tree.map(np.testing.assert_array_equal, read[1], _encoder.exported(params))


def test_the_package_insightface_takes_it_for_its_own(tmp_path, preprocess):
    zoo = pytest.importorskip("insightface", exc_type=ImportError).model_zoo
    cfg = dataclasses.replace(TINY, size=112, patch=16, neck="linear", embed=512)
    params, out = drawn(cfg), tmp_path / "out"
    onnx_format.write(cfg, params, {}, {**preprocess, "size": 112}, out, {})
    faces = zoo.get_model(str(out / "insightface.onnx"), providers=["CPUExecutionProvider"])
    assert (faces.taskname, faces.input_size, faces.input_mean) == (
        "recognition",
        (112, 112),
        127.5,
    )
    images = export.fixed_images(112, 2)
    theirs = faces.get_feat([image[:, :, ::-1] for image in images])  # insightface reads BGR
    embed = _encoder.embedder(cfg, _encoder.exported(params), {})
    ours = embed(export.normalise(images, preprocess))
    found = export.agreement(ours, theirs)
    assert theirs.shape == (2, 512)
    assert found["min_cosine"] >= 0.99999
    assert found["max_rel"] <= 1e-4
    (given,), (made,) = faces.session.get_inputs(), faces.session.get_outputs()
    assert (given.name, made.name) == onnx_format.INSIGHTFACE


def converted(function, shape, tmp_path):
    """The function of f32[b, *shape] in onnxruntime."""
    made = _graph.Graph(OPS).model(lambda x: {"y": function(x)}, shape, "x", ("y",))
    onnx.checker.check_model(made, full_check=True)
    onnx.save_model(made, tmp_path / "m.onnx")
    running = session(tmp_path / "m.onnx")
    return lambda x: running.run(None, {"x": np.asarray(x)})[0]


def _conv(x):
    kernel = np.random.default_rng(0).normal(size=(3, 2, 2, 8)).astype(np.float32)
    return lax.conv_general_dilated(
        x,
        kernel,
        (2, 1),
        ((1, 0), (1, 2)),
        rhs_dilation=(1, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=2,
    )


def _pooled(x):
    window, strides, pads = (1, 3, 2, 1), (1, 2, 1, 1), ((0, 0), (1, 1), (0, 1), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads) + lax.reduce_window(
        x, 0.0, lax.add, window, strides, pads
    )


ONES = np.ones((6, 5, 4, 2), np.float32)
PRIMITIVES = {
    "grouped convolution": _conv,
    "pooling": _pooled,
    "activations": lambda x: jax.nn.gelu(x, approximate=True) + jax.nn.relu6(x) + jax.nn.silu(x),
    "choices": lambda x: jnp.where(x > 0, x, 0.1 * x) + jnp.clip(x, -0.5, 0.5) * (x != 0),
    "powers": lambda x: jnp.log1p(x**2) + jnp.abs(x) ** 0.5 - x**3 + jnp.sqrt(jnp.exp(x)),
    "parts": lambda x: jnp.concatenate([x[:, 1:, ::-1], x[:, :2, :, :]], axis=1)[:, :, 1][..., ::3],
    "padding": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=2.0),
    "products": lambda x: jnp.einsum("bhwc,bhvc->bwv", x, x),
    "products over two axes": lambda x: jnp.einsum("bhwc,hwcd->bd", x, ONES) @ ONES[0, 0, 0:2],
    "merged batch": lambda x: (
        x.reshape(-1, 4) @ np.arange(8, dtype=np.float32).reshape(4, 2)
    ).reshape(x.shape[0], -1),
    "a batch of constants": lambda x: (
        jnp.broadcast_to(jnp.arange(4.0), (x.shape[0], 4)) + x.max((1, 2)) - x.min((1, 2))
    ),
    "nested": lambda x: jax.checkpoint(
        jax.jit(lambda y: jax.nn.softmax(y) @ np.eye(4, dtype=np.float32))
    )(x),
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitives_are_what_they_were(name, tmp_path):
    function = PRIMITIVES[name]
    with jax.numpy_rank_promotion("allow"):
        run = converted(function, (6, 5, 4), tmp_path)
        for rows in (1, 3):
            x = np.random.default_rng(rows).normal(size=(rows, 6, 5, 4)).astype(np.float32)
            want = function(x)
            np.testing.assert_allclose(run(x), want, rtol=1e-5, atol=1e-5)
            assert run(x).shape == want.shape


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jnp.sort(x), "primitive 'sort'"),
        (lambda x: lax.fori_loop(0, 3, lambda i, y: y * 2, x), "primitive 'scan'"),
        (lambda x: jnp.take(x, jnp.argmax(x, axis=1)[:, 0, 0], axis=2), "primitive 'argmax'"),
        (lambda x: jnp.cumsum(x, axis=1), "primitive 'cumsum'"),
        (lambda x: lax.reduce_precision(x, 5, 10), "primitive 'reduce_precision'"),
    ],
)
def test_what_has_no_form_is_refused_by_name(function, message):
    with pytest.raises(UserError, match=f"onnx has no form for the {message}; use the format"):
        _graph.Graph(OPS).model(lambda x: {"y": function(x)}, (6, 5, 4), "x", ("y",))


def test_a_wrong_node_is_noticed_and_nothing_is_left(tmp_path, preprocess, monkeypatch):
    monkeypatch.setitem(OPS, "erfc", lambda graph, eqn, given: graph.add("Erf", given))
    with pytest.raises(RuntimeError, match="onnxruntime disagrees"):
        onnx_format.write(TINY, drawn(TINY), {}, preprocess, tmp_path / "out", {})
    assert not any(tmp_path.iterdir())
