"""The format `torch`: a recogniser under the names of arcface_torch, and a module that loads it.

    model = torch_nets.iresnet(**options)  # torch_nets.py and config.json lie beside the weights
    model.load_state_dict(safetensors.torch.load_file("model.safetensors"), strict=False)

The module stands on its own: neither facejax nor insightface is needed. Only the counters of batch
norms are not in the file, on which nothing depends.
"""

import importlib
import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from facejax import export
from facejax.contracts import Params
from facejax.errors import UserError
from facejax.export import _encoder, _torch_nets, names

NETS = "torch_nets.py"


def write(
    cfg: Any,
    params: Params,
    stats: Params,
    preprocess: Mapping[str, Any],
    out: Path,
    meta: Mapping[str, Any],
) -> None:
    """Writes an encoder for PyTorch, and compares the two where torch is installed.

    Raises:
        UserError: `out` is not empty, or the encoder has no module in PyTorch.
        RuntimeError: torch computes something else from what was written.
    """
    table_of = _names(cfg)
    name, options = _encoder.name_of(cfg), table_of.torch_options(cfg)
    export.check_preprocess(preprocess, str(out))
    both = {"params": _encoder.exported(params), "stats": stats}
    with export.new_folder(out) as draft:
        tensors = names.export_tensors(table_of.torch(cfg), both)
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        shutil.copyfile(_torch_nets.__file__, draft / NETS)
        facts = {"net": name, "options": options, "facejax": _encoder.described("torch", cfg)}
        export.write_json(draft / "config.json", facts)
        embed = _encoder.embedder(cfg, params, stats)
        result = parity(draft, name, options, embed, preprocess)
        usage = (
            "import json, safetensors.torch, torch_nets  # the files of this folder\n"
            f'model = torch_nets.{name}(**json.load(open("config.json"))["options"]).eval()\n'
            'weights = safetensors.torch.load_file("model.safetensors")\n'
            "model.load_state_dict(weights, strict=False)"
        )
        export.finish(draft, cfg, embed, preprocess, meta, usage, result)


def read(path: Path) -> tuple[Any, Params, Params, dict[str, Any]]:
    """Opens an export, without torch, and checks its fingerprint.

    Raises:
        UserError: a file is missing or broken, or the files don't belong together.
    """
    return _encoder.read_both(path, lambda cfg, _: _names(cfg).torch(cfg))


def parity(
    path: Path,
    name: str,
    options: Mapping[str, Any],
    embed: export.Embed,
    preprocess: Mapping[str, Any],
) -> dict[str, Any]:
    """Compares what we and torch make of the fixed images; see `export.verdict`."""
    try:
        import torch
    except ImportError as error:
        return export.not_checked(error, "install torch and export again")
    spec = importlib.util.spec_from_file_location("torch_nets", path / NETS)
    nets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nets)
    net = getattr(nets, name)(**options).eval()
    tensors = load_file(path / "model.safetensors")
    state = {key: torch.from_numpy(value) for key, value in tensors.items()}
    missing, unexpected = net.load_state_dict(state, strict=False)
    if unexpected or any(not key.endswith("num_batches_tracked") for key in missing):
        raise RuntimeError(f"missing {missing}, unexpected {unexpected}")
    pixels = export.normalise(export.fixed_images(preprocess["size"], 8), preprocess)
    with torch.no_grad():
        images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        theirs = net(images).numpy()
    return export.verdict(embed(pixels), theirs, ("torch", "jax"), "torch")


def _names(cfg: Any) -> ModuleType:
    name = _encoder.name_of(cfg)
    try:
        found = importlib.import_module(f"facejax.export.names.{name}")
    except ModuleNotFoundError:
        found = None
    if not hasattr(found, "torch_options"):
        what = f"the encoder '{name}' has no module in PyTorch"
        raise UserError("--format", what, "choose another format")
    return found
