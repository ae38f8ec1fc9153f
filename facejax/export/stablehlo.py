"""The format `stablehlo`: `jax.export.deserialize(...)`, for CPU, CUDA and TPU, any batch.

`model.stablehlo` is the program of any encoder in StableHLO, which needs neither facejax nor the
encoder's code. It takes the tensors of model.safetensors by name and images f32[batch, S, S, 3],
normalised as preprocess.json says, and returns "raw", "unit", "norm", "map" and "pooled_map".
Products are in full float32 on every platform.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file

from facejax import export
from facejax.contracts import Params
from facejax.export import _encoder, names

PLATFORMS = ("cpu", "cuda", "tpu")


def write(
    cfg: Any,
    params: Params,
    stats: Params,
    preprocess: Mapping[str, Any],
    out: Path,
    meta: Mapping[str, Any],
) -> None:
    """Writes an encoder as StableHLO, and runs the written program on this machine.

    Raises:
        UserError: `out` is not empty.
        RuntimeError: the program computes something else.
    """
    params = _encoder.exported(params)
    with export.new_folder(out) as draft:
        _encoder.write_own(draft / "model.safetensors", params, stats)
        (draft / "model.stablehlo").write_bytes(program(cfg).serialize())
        export.write_json(draft / "config.json", {"facejax": _encoder.described("stablehlo", cfg)})
        embed = _encoder.embedder(cfg, params, stats)
        pixels = export.normalise(export.fixed_images(preprocess["size"], 8), preprocess)
        loaded = jax.export.deserialize((draft / "model.stablehlo").read_bytes())
        theirs = loaded.call(load_file(draft / "model.safetensors"), pixels)["raw"]
        result = export.verdict(embed(pixels), np.asarray(theirs), ("jax",), "the program")
        usage = (
            "import jax\nfrom safetensors.numpy import load_file\n"
            f'program = jax.export.deserialize(open("{out.name}/model.stablehlo", "rb").read())\n'
            f'unit = program.call(load_file("{out.name}/model.safetensors"), images)["unit"]'
        )
        export.finish(draft, cfg, embed, preprocess, meta, usage, result)


read = _encoder.read_own


def program(cfg: Any) -> jax.export.Exported:
    """The program: (tensors by name, images f32[b, S, S, 3]) to outputs by name."""
    cfg = _encoder.exact(cfg, scan=True)
    params, stats = _encoder.shapes(cfg)
    tensors = names.flatten({"params": params, **({"stats": stats} if stats else {})})

    def function(tensors, images):
        tree = names.unflatten(tensors)
        return _encoder.outputs(cfg, tree["params"], tree.get("stats", {}), images)

    (b,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((b, cfg.size, cfg.size, 3), np.float32)
    with jax.default_matmul_precision("highest"):
        return jax.export.export(jax.jit(function), platforms=PLATFORMS)(tensors, images)
