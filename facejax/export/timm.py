"""The format `timm`: `timm.create_model("local-dir:<out>", pretrained=True)` loads it strictly."""

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
    "Ti": "vit_tiny_patch16_224",
    "S": "vit_small_patch16_224",
    "B": "vit_base_patch16_224",
    "L": "vit_large_patch16_224",
    "H": "vit_huge_patch14_224",
    "g": "vit_giant_patch14_224",
}
"""timm's entry points; every argument that they set is overridden by `model_args`."""

DINOV3 = "vit_small_patch16_dinov3"
"""With rotary positions. timm builds DINOv3 with norms of another eps."""

POOLS = {"class": "token", "mean": "avg", "attention": "map"}


def write(
    cfg: vit.Config,
    params: Params,
    stats: Params,
    preprocess: Mapping[str, Any],
    out: Path,
    meta: Mapping[str, Any],
) -> None:
    """Writes an encoder for timm, and compares the two where timm is installed.

    Args:
        cfg: of the encoder `vit`, with `size` set.
        params: its parameters; the mask token is left out.
        stats: empty.
        preprocess, meta: see `facejax.export`.
        out: the folder to make.

    Raises:
        UserError: `out` is not empty, or timm has no such encoder.
        RuntimeError: timm computes something else from what was written.
    """
    _check(cfg)
    export.check_preprocess(preprocess, str(out))
    params = _encoder.exported(params)
    with export.new_folder(out) as draft:
        tensors = names.export_tensors(vit_names.timm(cfg), params)
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        export.write_json(draft / "config.json", hub_config(cfg, preprocess))
        embed = _encoder.embedder(cfg, params, stats)
        result = parity(draft, embed, preprocess)
        usage = f'import timm\nmodel = timm.create_model("local-dir:{out.name}", pretrained=True)'
        export.finish(draft, cfg, embed, preprocess, meta, usage, result)


def read(path: Path) -> tuple[vit.Config, Params, Params, dict[str, Any]]:
    """Opens an export, without timm, and checks its fingerprint.

    Returns:
        (cfg, params, stats, preprocess): params without mask token, NumPy f32; stats is empty.

    Raises:
        UserError: a file is missing or broken, or the files don't belong together.
    """
    return _encoder.read_foreign(path, vit_names.timm)


def parity(path: Path, embed: export.Embed, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """Compares what we and timm make of the fixed images; see `export.verdict`.

    Args:
        path: the folder of an export: its weights and config.json.
        embed: our raw embedding.
        preprocess: of the encoder.
    """
    try:
        torch, timm = import_timm()
    except (ImportError, RuntimeError) as error:  # torchvision raises RuntimeError when it breaks
        remedy = "install timm, torch and the torchvision built for that torch, and export again"
        return export.not_checked(error, remedy)
    pixels = export.normalise(export.fixed_images(preprocess["size"], 8), preprocess)
    model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    with torch.no_grad():
        theirs = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
    return export.verdict(embed(pixels), theirs, ("timm", "torch", "jax"), "timm")


def hub_config(cfg: vit.Config, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """config.json in the format of timm's hub, with our own config beside it."""
    width, depth, heads, mlp_ratio = cfg.dims
    rope = cfg.positions == "rope"
    own = {"reg_tokens": cfg.registers, "fc_norm": False}
    if rope:
        own = {"num_reg_tokens": cfg.registers, "use_fc_norm": False}
    return {
        "architecture": DINOV3 if rope else ARCHITECTURES[cfg.variant],
        "num_classes": cfg.embed,
        "num_features": width,
        "global_pool": POOLS[cfg.pool],
        "model_args": {
            "img_size": cfg.size,
            "patch_size": cfg.patch,
            "embed_dim": width,
            "depth": depth,
            "num_heads": heads,
            "mlp_ratio": mlp_ratio,
            "qkv_bias": cfg.qkv_bias,
            "init_values": cfg.layer_scale,
            "class_token": cfg.has_class_token,
            "no_embed_class": True,
            "global_pool": POOLS[cfg.pool],
            **own,
        },
        "pretrained_cfg": {
            "input_size": [3, cfg.size, cfg.size],
            "fixed_input_size": not rope,
            "interpolation": preprocess.get("interpolation", "bicubic"),
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(preprocess["mean"]),
            "std": list(preprocess["std"]),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
        "facejax": _encoder.described("timm", cfg),
    }


def _check(cfg: Any) -> None:
    if not isinstance(cfg, vit.Config):
        raise UserError("--format", "timm is for the encoder 'vit'", "choose another format")
    rope = cfg.positions == "rope"
    eps = vit.ROPE_EPS if rope else vit.NORM_EPS
    wrong = {
        f"norm_eps {cfg.eps} beside positions '{cfg.positions}'": cfg.eps != eps,
        "rotary positions whose attention pooling leaves tokens out": rope
        and cfg.pool == "attention"
        and cfg.prefix,
    }
    for what, there in wrong.items():
        if there:
            raise UserError("--format", f"timm has no ViT with {what}", "use --format=onnx")
