"""The format `transformers`: `transformers.AutoModel.from_pretrained("<out>")`.

The encoder `vit` becomes a `ViTModel`, with LayerScale a `Dinov2Model` and with registers a
`Dinov2WithRegistersModel`. `pooler_output` is the embedding of pool "class"; with pool "mean" it is
the mean of the patch tokens of `last_hidden_state`. These models always have a class token, and
they pool by no other attention, so other encoders are refused. The format `timm` takes them, and
transformers opens its folders too, as `TimmWrapperModel`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from facejax import export
from facejax.contracts import Params
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import _encoder, names
from facejax.export._timm import import_timm
from facejax.export.names import vit as vit_names

ARCHITECTURES = {
    "vit": "ViTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
}


def write(
    cfg: vit.Config,
    params: Params,
    stats: Params,
    preprocess: Mapping[str, Any],
    out: Path,
    meta: Mapping[str, Any],
) -> None:
    """Writes an encoder for transformers, and compares the two where that is installed.

    Raises:
        UserError: `out` is not empty, or transformers has no such encoder.
        RuntimeError: transformers computes something else from what was written.
    """
    kind = kind_of(cfg)
    export.check_preprocess(preprocess, str(out))
    params = _encoder.exported(params)
    with export.new_folder(out) as draft:
        tensors = names.export_tensors(table(cfg), params)
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        export.write_json(draft / "config.json", hub_config(cfg, kind))
        export.write_json(draft / "preprocessor_config.json", processor(preprocess))
        embed = _encoder.embedder(cfg, params, stats)
        result = parity(draft, cfg, embed, preprocess)
        usage = (
            "import transformers\n"
            f'model = transformers.AutoModel.from_pretrained("{out.name}")\n'
            f"embedding = model(pixel_values).{_pooled(cfg)}"
        )
        export.finish(draft, cfg, embed, preprocess, meta, usage, result)


def read(path: Path) -> tuple[vit.Config, Params, Params, dict[str, Any]]:
    """Opens an export, without transformers, and checks its fingerprint.

    Raises:
        UserError: a file is missing or broken, or the files don't belong together.
    """
    return _encoder.read_foreign(path, table)


def kind_of(cfg: vit.Config) -> str:
    """The `model_type` of an encoder.

    Raises:
        UserError: transformers has none that computes the same.
    """
    if not isinstance(cfg, vit.Config):
        what = "transformers is for the encoder 'vit'"
        raise UserError("--format", what, "choose another format")
    kind = "vit" if cfg.layer_scale is None else "dinov2"
    kind = "dinov2_with_registers" if cfg.registers else kind
    missing = {
        "encoder without class token": not cfg.has_class_token,
        "pool 'attention'": cfg.pool == "attention",
        "neck on LayerScale or registers": cfg.neck == "linear" and kind != "vit",
        f"mlp_ratio {cfg.dims.mlp_ratio} here": kind != "vit" and cfg.dims.mlp_ratio % 1 != 0,
        "neck on pool 'mean'": cfg.neck == "linear" and cfg.pool == "mean",
    }
    for what, lacking in missing.items():
        if lacking:
            raise UserError("--format", f"transformers has no {what}", "choose the format timm")
    return kind


def table(cfg: vit.Config) -> list[names.Entry]:
    """The table of names of an encoder."""
    return (vit_names.transformers if kind_of(cfg) == "vit" else vit_names.dinov2)(cfg)


def _pooled(cfg: vit.Config) -> str:
    if cfg.pool == "class":
        return "pooler_output"
    return f"last_hidden_state[:, {cfg.prefix}:].mean(1)"


def hub_config(cfg: vit.Config, kind: str) -> dict[str, Any]:
    """config.json of transformers, with our own config beside it."""
    width, depth, heads, mlp_ratio = cfg.dims
    common = {
        "model_type": kind,
        "architectures": [ARCHITECTURES[kind]],
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "hidden_act": "gelu",
        "layer_norm_eps": vit.NORM_EPS,
        "image_size": cfg.size,
        "patch_size": cfg.patch,
        "num_channels": 3,
        "qkv_bias": cfg.qkv_bias,
        "dtype": "float32",
    }
    own = {"mlp_ratio": int(mlp_ratio), "layerscale_value": 1.0, "use_swiglu_ffn": False}
    if kind == "vit":
        hidden = int(width * mlp_ratio)
        own = {"intermediate_size": hidden, "pooler_act": "linear", "encoder_stride": cfg.patch}
        own["pooler_output_size"] = vit.tower(cfg).embed
    if cfg.registers:
        own["num_register_tokens"] = cfg.registers
    return {**common, **own, "facejax": _encoder.described("transformers", cfg)}


def processor(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json: square images, resized and normalised."""
    size = preprocess["size"]
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 3,  # bicubic, in Pillow's numbers
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess["mean"]),
        "image_std": list(preprocess["std"]),
    }


def parity(
    path: Path, cfg: vit.Config, embed: export.Embed, preprocess: Mapping[str, Any]
) -> dict[str, Any]:
    """Compares what we and transformers make of the fixed images; see `export.verdict`."""
    try:
        torch, _ = import_timm()  # makes torchvision importable, which transformers needs too
        import transformers
    except (ImportError, RuntimeError) as error:
        return export.not_checked(error, "install transformers and torch, and export again")
    pixels = export.normalise(export.fixed_images(preprocess["size"], 8), preprocess)
    model = transformers.AutoModel.from_pretrained(path).eval()
    with torch.no_grad():
        found = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    theirs = found.pooler_output
    if cfg.pool == "mean":
        theirs = found.last_hidden_state[:, cfg.prefix :].mean(1)
    packages = ("transformers", "torch", "jax")
    return export.verdict(embed(pixels), theirs.numpy(), packages, "transformers")
