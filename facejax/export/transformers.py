"""The format `transformers`: `transformers.AutoModel.from_pretrained("<out>")` opens it.

An encoder `vit` with a class token becomes a `ViTModel`; with LayerScale or registers, a
`Dinov2Model` or a `Dinov2WithRegistersModel`; with rotary positions, a `DINOv3ViTModel`. Its
embedding there is

    pool="class"    `pooler_output` of ViTModel (its pooler is our neck, or the identity), and
                    `last_hidden_state[:, 0]` of the others, which have no place for a neck
    pool="mean"     the mean of `last_hidden_state` after the class token and the registers
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from facejax import export
from facejax.contracts import Params
from facejax.encoders import vit
from facejax.encoders._tokens import ROPE_BASE
from facejax.errors import UserError
from facejax.export import _encoder, _transformers_joint, names
from facejax.export._timm import import_torch
from facejax.export.names import vit as vit_names

write_joint, read_joint = _transformers_joint.write, _transformers_joint.read
"""Of towers trained by `clip` or `siglip`, both in one model."""


def write(
    cfg: vit.Config,
    params: Params,
    stats: Params,
    preprocess: Mapping[str, Any],
    out: Path,
    meta: Mapping[str, Any],
) -> None:
    """Writes an encoder for transformers, and compares the two where transformers is installed.

    Raises:
        UserError: `out` is not empty, or transformers has no such encoder.
        RuntimeError: transformers computes something else from what was written.
    """
    _check(cfg)
    export.check_preprocess(preprocess, str(out))
    params = _encoder.exported(params)
    with export.new_folder(out) as draft:
        tensors = names.export_tensors(table(cfg), params)
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        export.write_json(draft / "config.json", hub_config(cfg))
        processor = _transformers_joint.processor_config(preprocess, "ViTImageProcessor")
        export.write_json(draft / "preprocessor_config.json", processor)
        embed = _encoder.embedder(cfg, params, stats)
        result = parity(draft, cfg, embed, preprocess)
        usage = (
            "import transformers\n"
            f'model = transformers.AutoModel.from_pretrained("{out.name}")\n'
            f"embeddings = model(pixel_values=images).{_said(cfg)}"
        )
        export.finish(draft, cfg, embed, preprocess, meta, usage, result)


def read(path: Path) -> tuple[vit.Config, Params, Params, dict[str, Any]]:
    """Opens an export, without transformers, and checks its fingerprint.

    Raises:
        UserError: a file is missing or broken, or the files don't belong together.
    """
    if "joint" in export.read_json(path / "config.json").get("facejax", {}):
        return read_joint(path)[:4]
    return _encoder.read_foreign(path, table)


def table(cfg: vit.Config) -> list[names.Entry]:
    """The table of names of the model that this encoder becomes."""
    tables = {"ViTModel": vit_names.transformers, "DINOv3ViTModel": vit_names.dinov3}
    return tables.get(model_of(cfg), vit_names.dinov2)(cfg)


def model_of(cfg: vit.Config) -> str:
    """The model that an encoder becomes, in the words of transformers."""
    if cfg.positions == "rope":
        return "DINOv3ViTModel"
    if cfg.registers:
        return "Dinov2WithRegistersModel"
    return "ViTModel" if cfg.layer_scale is None else "Dinov2Model"


def hub_config(cfg: vit.Config) -> dict[str, Any]:
    """config.json as transformers writes it, with our own config beside it."""
    width, depth, heads, mlp_ratio = cfg.dims
    name, hidden = model_of(cfg), int(width * mlp_ratio)
    dinov2 = {"mlp_ratio": int(mlp_ratio), "layerscale_value": 1.0, "use_swiglu_ffn": False}
    biases = {f"{part}_bias": cfg.qkv_bias for part in ("query", "value")}
    own = {
        "ViTModel": {
            "model_type": "vit",
            "intermediate_size": hidden,
            "pooler_act": "linear",
            "pooler_output_size": cfg.embed or width,
            "qkv_bias": cfg.qkv_bias,
        },
        "Dinov2Model": {"model_type": "dinov2", "qkv_bias": cfg.qkv_bias, **dinov2},
        "Dinov2WithRegistersModel": {
            "model_type": "dinov2_with_registers",
            "num_register_tokens": cfg.registers,
            "qkv_bias": cfg.qkv_bias,
            **dinov2,
        },
        "DINOv3ViTModel": {
            "model_type": "dinov3_vit",
            "num_register_tokens": cfg.registers,
            "intermediate_size": hidden,
            "rope_theta": ROPE_BASE,
            "key_bias": False,
            "layerscale_value": 1.0,
            "use_gated_mlp": False,
            **biases,
        },
    }
    return {
        "architectures": [name],
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "hidden_act": "gelu",
        "layer_norm_eps": cfg.eps,
        "image_size": cfg.size,
        "patch_size": cfg.patch,
        "num_channels": 3,
        **own[name],
        "facejax": _encoder.described("transformers", cfg),
    }


def parity(
    path: Path, cfg: vit.Config, embed: export.Embed, preprocess: Mapping[str, Any]
) -> dict[str, Any]:
    """Compares what we and transformers make of the fixed images; see `export.verdict`."""
    try:
        torch = import_torch()
        import transformers
    except ImportError as error:
        return export.not_checked(error, "install torch and transformers and export again")
    pixels = export.normalise(export.fixed_images(preprocess["size"], 8), preprocess)
    model = transformers.AutoModel.from_pretrained(path).eval()
    with torch.no_grad():
        images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        theirs = _pooled(cfg)(model(pixel_values=images)).numpy()
    return export.verdict(embed(pixels), theirs, ("transformers", "torch", "jax"), "transformers")


def _pooled(cfg: vit.Config) -> Callable[[Any], Any]:
    if cfg.pool == "mean":
        return lambda found: found.last_hidden_state[:, cfg.prefix :].mean(1)
    if model_of(cfg) == "ViTModel":
        return lambda found: found.pooler_output
    return lambda found: found.last_hidden_state[:, 0]


def _said(cfg: vit.Config) -> str:
    if cfg.pool == "mean":
        return f"last_hidden_state[:, {cfg.prefix}:].mean(1)"
    return "pooler_output" if model_of(cfg) == "ViTModel" else "last_hidden_state[:, 0]"


def _check(cfg: Any) -> None:
    if not isinstance(cfg, vit.Config):
        what = "transformers is for the encoder 'vit'"
        raise UserError("--format", what, "choose another format")
    name = model_of(cfg)
    wrong = {
        "no class token": not cfg.has_class_token,
        "attention pooling": cfg.pool == "attention",
        "a neck behind the mean": cfg.pool == "mean" and cfg.neck != "none",
        "a neck beside LayerScale, registers or rotary positions": cfg.neck != "none"
        and name != "ViTModel",
        "MLPs that are no whole multiple of the width": name.startswith("Dinov2")
        and cfg.dims.mlp_ratio != int(cfg.dims.mlp_ratio),
    }
    for what, there in wrong.items():
        if there:
            raise UserError("--format", f"transformers has no ViT with {what}", "use --format=timm")
