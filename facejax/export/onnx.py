"""The format `onnx`: `onnxruntime.InferenceSession("<out>/model.onnx")`, with a dynamic batch.

Any encoder whose evaluation is made of the primitives in `_onnx_ops.py`; others are refused by the
primitive's name. Input "image" f32[batch, 3, S, S], normalised as preprocess.json says; outputs
"raw", "unit", "norm", "map" and "pooled_map".

`insightface.onnx` is the same encoder for the package `insightface`: one output, the raw embedding,
and an input normalised by 127.5, whatever the run used. `insightface.model_zoo.get_model` takes it
for a recogniser if the side is a multiple of 16 and at least 112, so for other sizes it isn't
written.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from facejax import export
from facejax.contracts import Params
from facejax.errors import UserError
from facejax.export import _encoder
from facejax.export._graph import Graph
from facejax.export._onnx_ops import OPS

INSIGHTFACE = ("data", "fc1")
"""Names of the input and of the output of insightface's first recognition models."""
EXTERNAL = 1_500_000_000
"""Bytes past which the weights go to a file beside the model: protobuf ends at 2 GiB."""


def write(
    cfg: Any,
    params: Params,
    stats: Params,
    preprocess: dict[str, Any],
    out: Path,
    meta: dict[str, Any],
) -> None:
    """Writes an encoder as ONNX, and compares it with ours where onnxruntime is installed.

    Raises:
        UserError: `out` is not empty, `onnx` is not installed, or the encoder computes something
            that has no form in ONNX.
        RuntimeError: onnxruntime computes something else from what was written.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise UserError("--format", "onnx is not installed", "pip install onnx") from None
    params = _encoder.exported(params)
    with export.new_folder(out) as draft:
        _save(model(cfg, params, stats), draft / "model.onnx")
        size = preprocess["size"]
        with_insightface = size % 16 == 0 and size >= 112
        if with_insightface:
            _save(insightface(cfg, params, stats, preprocess), draft / "insightface.onnx")
        _encoder.write_own(draft / "model.safetensors", params, stats)
        export.write_json(draft / "config.json", {"facejax": _encoder.described("onnx", cfg)})
        embed = _encoder.embedder(cfg, params, stats)
        result = parity(draft / "model.onnx", embed, preprocess)
        usage = (
            f'import onnxruntime\nsession = onnxruntime.InferenceSession("{out.name}/model.onnx")\n'
            'unit = session.run(["unit"], {"image": images})[0]  # f32[n, 3, S, S], normalised'
        )
        if with_insightface:
            usage += (
                "\n\nimport insightface\n"
                f'faces = insightface.model_zoo.get_model("{out.name}/insightface.onnx")'
            )
        export.finish(draft, cfg, embed, preprocess, meta, usage, result)


read = _encoder.read_own


def model(cfg: Any, params: Params, stats: Params) -> Any:
    """The ONNX model with all outputs; images f32[batch, 3, S, S]."""
    cfg = _encoder.exact(cfg, scan=False)

    def function(images):
        return _encoder.outputs(cfg, params, stats, images.transpose(0, 2, 3, 1))

    return Graph(OPS).model(function, (3, cfg.size, cfg.size), "image", _encoder.OUTPUTS)


def insightface(cfg: Any, params: Params, stats: Params, preprocess: dict[str, Any]) -> Any:
    """The ONNX model with insightface's names, for images (x - 127.5) / 127.5."""
    cfg = _encoder.exact(cfg, scan=False)
    given, made = INSIGHTFACE
    mean, std = (np.float32(preprocess[key]) for key in ("mean", "std"))

    def function(images):
        images = images.transpose(0, 2, 3, 1)
        if not (np.all(mean == 0.5) and np.all(std == 0.5)):
            scale, shift = (jnp.reshape(x, (1, 1, 1, 3)) for x in (0.5 / std, (0.5 - mean) / std))
            images = images * scale + shift
        return {made: _encoder.outputs(cfg, params, stats, images)["raw"]}

    return Graph(OPS).model(function, (3, cfg.size, cfg.size), given, (made,))


def _save(made: Any, path: Path) -> None:
    import onnx

    if sum(len(t.raw_data) for t in made.graph.initializer) > EXTERNAL:
        onnx.save_model(made, path, save_as_external_data=True, location=f"{path.name}.data")
    else:
        onnx.save_model(made, path)
    onnx.checker.check_model(str(path), full_check=True)


def parity(path: Path, embed: export.Embed, preprocess: dict[str, Any]) -> dict[str, Any]:
    """Compares what we and onnxruntime make of the fixed images; see `export.verdict`."""
    try:
        import onnxruntime
    except ImportError as error:
        return export.not_checked(error, "install onnxruntime and export again")
    pixels = export.normalise(export.fixed_images(preprocess["size"], 8), preprocess)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    theirs = session.run(["raw"], {"image": planes})[0]
    return export.verdict(embed(pixels), theirs, ("onnxruntime", "jax"), "onnxruntime")
