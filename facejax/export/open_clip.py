"""The format `open_clip`: `open_clip.create_model("local-dir:<out>")` opens it.

Of towers trained by `clip` whose architecture is CLIP's; others have no model there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facejax import export
from facejax.errors import UserError
from facejax.export import _joint, names
from facejax.export._timm import import_torch
from facejax.export.names.clip import open_clip as table

if TYPE_CHECKING:
    from facejax.model import Model

ACTIVATIONS = {"gelu": {}, "quick_gelu": {"quick_gelu": True}}


def write(cfg, params, stats, preprocess, out, meta) -> None:
    """Refuses an encoder alone.

    Raises:
        UserError: always.
    """
    what = "open_clip is for both towers of `clip`"
    raise UserError("--format", what, "use --format=timm for an image encoder")


def read(path: Path):
    """The image tower of an export: (cfg, params, stats, preprocess)."""
    return read_joint(path)[:4]


def write_joint(model: "Model", out: Path) -> None:
    """Writes both towers, and compares them with open_clip's where it is installed.

    Raises:
        UserError: `out` is not empty, or open_clip has no such model.
        RuntimeError: open_clip computes something else from what was written.
    """
    _joint.check(model, "open_clip", ("clip",))
    image, words = model.encoder_config, model.space.tower.config
    if image.activation != words.activation or image.activation not in ACTIVATIONS:
        what = f"towers with {image.activation} and {words.activation}"
        raise UserError("--format", f"open_clip has no {what}", "use --format=transformers")
    export.check_preprocess(model.preprocess, str(out))
    with export.new_folder(out) as draft:
        tensors = names.export_tensors(table(image, words), _joint.tree(model))
        _joint.write_files(model, draft, tensors)
        described = _joint.described("open_clip", model)
        export.write_json(draft / "config.json", {"facejax": described})
        export.write_json(draft / "open_clip_config.json", hub_config(model))
        result = parity(draft, model)
        usage = (
            "import open_clip, tokenizers\n"
            f'model = open_clip.create_model("local-dir:{out.name}")\n'
            f'read = tokenizers.Tokenizer.from_file("{out.name}/tokenizer.json")\n'
            f"read.enable_truncation({model.space.length})\n"
            "ids = [found.ids for found in read.encode_batch(texts)]  # pad to the same length\n"
            "embeddings = model.encode_image(images), model.encode_text(torch.tensor(ids))"
        )
        _joint.finish(model, draft, usage, result)


def read_joint(path: Path) -> _joint.Parts:
    """Opens such an export, without open_clip, and checks its fingerprint."""
    return _joint.read(path, lambda _: table, lambda _: dict)


def hub_config(model: "Model") -> dict[str, Any]:
    """open_clip_config.json: the architecture, and mean and std."""
    image, words = model.encoder_config, model.space.tower.config
    width, depth, heads, ratio = image.dims
    vision = {
        "image_size": image.size,
        "patch_size": image.patch,
        "width": width,
        "layers": depth,
        "head_width": width // heads,
        "mlp_ratio": ratio,
        "norm_kwargs": {"eps": image.eps},
    }
    language = {
        "context_length": words.length,
        "vocab_size": words.vocab,
        "width": words.width,
        "layers": words.depth,
        "heads": words.heads,
        "mlp_ratio": words.mlp_ratio,
        "norm_kwargs": {"eps": words.eps},
        "pool_type": "eos",
        "eos_id": words.end_id,
        "pad_id": words.pad_id,
    }
    config = {
        "embed_dim": model.space.objective.config.out,
        "vision_cfg": vision,
        "text_cfg": language,
        **ACTIVATIONS[image.activation],
    }
    preprocess: Mapping[str, Any] = model.preprocess
    of_pixels = {"mean": list(preprocess["mean"]), "std": list(preprocess["std"])}
    return {
        "model_cfg": config,
        "preprocess_cfg": {**of_pixels, "interpolation": "bicubic", "resize_mode": "shortest"},
    }


def parity(path: Path, model: "Model") -> dict[str, Any]:
    """Compares unit embeddings of images and texts; see `export.verdict`."""
    try:
        torch = import_torch()
        import open_clip
    except ImportError as error:
        return export.not_checked(error, "install torch and open_clip_torch and export again")
    pixels = export.normalise(export.fixed_images(model.preprocess["size"], 8), model.preprocess)
    there = open_clip.create_model(f"local-dir:{path}").eval()
    ids = model.space.tokenizer.encode(_joint.TEXTS, model.space.length)
    ids = ids[np.arange(len(pixels)) % len(ids)]
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        found = (
            there.encode_image(images, normalize=True),
            there.encode_text(torch.from_numpy(ids).long(), normalize=True),
        )
    theirs = np.concatenate([x.numpy() for x in found], axis=1)
    ours = _joint.embedder(model.encoder_config, model.params, model.space)(pixels)
    return export.verdict(ours, theirs, ("open_clip_torch", "torch", "jax"), "open_clip")
