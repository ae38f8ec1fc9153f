"""The format `timm`: `timm.create_model("local-dir:<out>", pretrained=True)` loads it strictly."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from facejax import export
from facejax.contracts import TowerSpec
from facejax.encoders import vit
from facejax.errors import UserError
from facejax.export import names
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

POOLS = {"class": "token", "mean": "avg", "attention": "map"}
EVALUATION = {"dtype": "float32", "attention": "xla", "remat": "none", "scan": True}
"""How the exported encoder is run here: exactly, and quick to compile."""

MAX_REL, MIN_COSINE = 1e-4, 0.99999
"""How far timm may be from us: standard deviations of the embedding, and cosine."""


def write(
    cfg: vit.Config,
    params: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    out: Path,
    meta: Mapping[str, Any],
) -> None:
    """Writes an encoder for timm, and compares the two where timm is installed.

    Args:
        cfg: of the encoder `vit`, with `size` set.
        params: its parameters; the mask token is left out.
        preprocess, meta: see `facejax.export`.
        out: the folder to make.

    Raises:
        UserError: `out` is not empty, or timm has no such encoder.
        RuntimeError: timm computes something else from what was written.
    """
    if not isinstance(cfg, vit.Config):
        raise UserError("--format", "timm is for the encoder 'vit'", "choose another format")
    export.check_preprocess(preprocess)
    params = {name: value for name, value in params.items() if name != "mask_token"}
    with export.new_folder(out) as draft:
        tensors = names.export_tensors(vit_names.timm(cfg), params)
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        export.write_json(draft / "config.json", hub_config(cfg, preprocess))
        export.write_json(draft / "preprocess.json", preprocess)
        fingerprint = export.fingerprint(_embedder(cfg, params), preprocess)
        export.write_json(draft / "fingerprint.json", fingerprint)
        result = parity(draft, export.fixed_images(preprocess["size"], 8))
        if result["status"] == "failed":
            raise RuntimeError(f"timm disagrees with the exported weights: {result}")
        export.write_json(draft / "parity.json", result)
        usage = f'import timm\nmodel = timm.create_model("local-dir:{out.name}", pretrained=True)'
        title = f"ViT of width {cfg.dims.width} and depth {cfg.dims.depth}, patch {cfg.patch}"
        card = export.model_card(title, usage, preprocess, meta)
        (draft / "README.md").write_text(card)


def read(path: Path) -> tuple[vit.Config, dict[str, Any], dict[str, Any]]:
    """Opens an export, without timm, and checks its fingerprint.

    Returns:
        (cfg, params, preprocess): params without mask token, NumPy f32.

    Raises:
        UserError: a file is missing or broken, or the files don't belong together.
    """
    cfg, params, preprocess = _read(path)
    embed = _embedder(cfg, params)
    export.check_fingerprint(path / "fingerprint.json", embed, preprocess)
    return cfg, params, preprocess


def parity(path: Path, images: np.ndarray) -> dict[str, Any]:
    """Compares what we and timm make of the same images, both in float32 from the same files.

    Args:
        path: the folder of an export.
        images: u8[n, S, S, 3] RGB.

    Returns:
        status "ok" or "failed" (see `MAX_REL` and `MIN_COSINE`) with `max_abs`, `max_rel`,
        `min_cosine`, the number of images and the versions; or status "not checked" with the
        reason and what to install.
    """
    try:
        torch, timm = import_timm()
    except (ImportError, RuntimeError) as error:  # torchvision raises RuntimeError when it breaks
        remedy = "install timm, torch and the torchvision built for that torch, and export again"
        return {"status": "not checked", "reason": str(error).splitlines()[0], "remedy": remedy}
    cfg, params, preprocess = _read(path)
    pixels = export.normalise(images, preprocess)
    model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    with torch.no_grad():
        theirs = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
    found = export.agreement(_embedder(cfg, params)(pixels), theirs)
    good = found["max_rel"] <= MAX_REL and found["min_cosine"] >= MIN_COSINE
    versions = {name: importlib.metadata.version(name) for name in ("timm", "torch", "jax")}
    status = "ok" if good else "failed"
    return {"status": status, **found, "images": len(images), "versions": versions}


def hub_config(cfg: vit.Config, preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """config.json in the format of timm's hub, with our own config beside it."""
    width, depth, heads, mlp_ratio = cfg.dims
    return {
        "architecture": ARCHITECTURES[cfg.variant],
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
            "reg_tokens": cfg.registers,
            "global_pool": POOLS[cfg.pool],
            "fc_norm": False,
        },
        "pretrained_cfg": {
            "input_size": [3, cfg.size, cfg.size],
            "fixed_input_size": True,
            "interpolation": preprocess.get("interpolation", "bicubic"),
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(preprocess["mean"]),
            "std": list(preprocess["std"]),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
        "facejax": {"format": "timm", "encoder": "vit", "config": dataclasses.asdict(cfg)},
    }


def _read(path: Path) -> tuple[vit.Config, dict[str, Any], dict[str, Any]]:
    preprocess = export.read_json(path / "preprocess.json")
    where = str(path / "config.json")
    try:
        cfg = vit.Config(**export.read_json(path / "config.json")["facejax"]["config"])
    except (KeyError, TypeError) as error:
        raise UserError(where, f"not of our making ({error})", "export again") from None
    file = path / "model.safetensors"
    try:
        tensors = load_file(file)
    except FileNotFoundError:
        raise UserError(str(file), "no such file", "export again") from None
    except SafetensorError as error:
        raise UserError(str(file), f"not a safetensors file ({error})", "export again") from None
    shapes, _ = jax.eval_shape(lambda: vit.init(cfg, jax.random.key(0), TowerSpec()))
    params = names.import_tensors(vit_names.timm(cfg), tensors, shapes, str(file))
    return cfg, params, preprocess


def _embedder(cfg: vit.Config, params: Mapping[str, Any]) -> export.Embed:
    exact = dataclasses.replace(cfg, **EVALUATION)

    @jax.jit
    def forward(params, images):
        return vit.apply(exact, params, {}, {"image": images})[0].pooled

    def embed(images: np.ndarray) -> np.ndarray:
        with jax.default_matmul_precision("highest"):  # the default is TF32 on GPU, bf16 on TPU
            return np.asarray(forward(params, images))

    return embed
