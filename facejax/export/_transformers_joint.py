"""Both towers as transformers' `CLIPModel` or `SiglipModel`, with their tokenizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facejax import export
from facejax.export import _joint
from facejax.export import names as tables
from facejax.export._timm import import_torch
from facejax.export.names import clip as clip_names
from facejax.export.names import siglip as siglip_names

if TYPE_CHECKING:
    from facejax.model import Model

TABLES = {"clip": clip_names.transformers, "siglip": siglip_names.transformers}
READ = {"clip": dict, "siglip": siglip_names.split}
WRITE = {"clip": dict, "siglip": siglip_names.fused}
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}
CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}


def write(model: "Model", out: Path) -> None:
    """Writes both towers, and compares them with transformers' where it is installed.

    Raises:
        UserError: `out` is not empty, or transformers has no such model.
        RuntimeError: transformers computes something else from what was written.
    """
    kind = _joint.check(model, "transformers", tuple(TABLES))
    export.check_preprocess(model.preprocess, str(out))
    space = model.space
    with export.new_folder(out) as draft:
        table = TABLES[kind](model.encoder_config, space.tower.config)
        _joint.write_files(
            model, draft, WRITE[kind](tables.export_tensors(table, _joint.tree(model)))
        )
        described = _joint.described("transformers", model)
        export.write_json(draft / "config.json", {**hub_config(kind, model), "facejax": described})
        export.write_json(draft / "tokenizer_config.json", tokenizer_config(model))
        export.write_json(draft / "preprocessor_config.json", _processor(kind, model))
        result = parity(draft, kind, model)
        usage = (
            "import transformers\n"
            f'model = transformers.{CLASSES[kind]}.from_pretrained("{out.name}")\n'
            f'read = transformers.PreTrainedTokenizerFast.from_pretrained("{out.name}")\n'
            f'options = dict(padding="max_length", max_length={space.length}, truncation=True)\n'
            'ids = read(texts, return_tensors="pt", **options)["input_ids"]\n'
            "found = model(input_ids=ids, pixel_values=images)\n"
            "embeddings = found.image_embeds, found.text_embeds"
        )
        _joint.finish(model, draft, usage, result)


def read(path: Path) -> _joint.Parts:
    """Opens such an export, without transformers."""
    return _joint.read(path, TABLES.__getitem__, READ.__getitem__)


def hub_config(kind: str, model: "Model") -> dict[str, Any]:
    """config.json as transformers writes it."""
    image, words, space = model.encoder_config, model.space.tower.config, model.space
    vision = {
        **_blocks(image.dims.width, image.dims.depth, image.dims.heads, image.dims.mlp_ratio),
        "hidden_act": ACTIVATIONS[image.activation],
        "layer_norm_eps": image.eps,
        "image_size": image.size,
        "patch_size": image.patch,
        "num_channels": 3,
    }
    start = space.tokenizer.start
    language = {
        **_blocks(words.width, words.depth, words.heads, words.mlp_ratio),
        "hidden_act": ACTIVATIONS[words.activation],
        "layer_norm_eps": words.eps,
        "vocab_size": words.vocab,
        "max_position_embeddings": words.length,
        "bos_token_id": start,
        "eos_token_id": words.end_id,
        "pad_token_id": words.pad_id,
    }
    found = {
        "model_type": kind,
        "architectures": [CLASSES[kind]],
        "vision_config": vision,
        "text_config": language,
    }
    if kind == "clip":
        found["projection_dim"] = space.objective.config.out
    else:
        language["projection_size"] = words.embed
    return found


def _blocks(width: int, depth: int, heads: int, ratio: float) -> dict[str, int]:
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": int(width * ratio),
    }


def tokenizer_config(model: "Model") -> dict[str, Any]:
    """tokenizer_config.json: which tokens are which."""
    read, length = model.space.tokenizer, model.space.length
    ids = {"bos_token": read.start, "eos_token": read.end, "pad_token": read.pad}
    known = {name: read.token(i) for name, i in ids.items() if i is not None}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "padding_side": "right",
        **known,
    }


def processor_config(preprocess: Mapping[str, Any], name: str) -> dict[str, Any]:
    """preprocessor_config.json: resize, divide by 255, normalise."""
    side = preprocess["size"]
    return {
        "image_processor_type": name,
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess["mean"]),
        "image_std": list(preprocess["std"]),
    }


def _processor(kind: str, model: "Model") -> dict[str, Any]:
    name = "CLIPImageProcessor" if kind == "clip" else "SiglipImageProcessor"
    own = {"do_center_crop": False} if kind == "clip" else {}
    return {**processor_config(model.preprocess, name), **own}


def parity(path: Path, kind: str, model: "Model") -> dict[str, Any]:
    """Compares unit embeddings of images and texts, tokenised there; see `export.verdict`."""
    try:
        torch = import_torch()
        import transformers
    except ImportError as error:
        return export.not_checked(error, "install torch and transformers and export again")
    pixels = export.normalise(export.fixed_images(model.preprocess["size"], 8), model.preprocess)
    there = getattr(transformers, CLASSES[kind]).from_pretrained(path).eval()
    read = transformers.PreTrainedTokenizerFast.from_pretrained(path)
    texts = [_joint.TEXTS[i % len(_joint.TEXTS)] for i in range(len(pixels))]
    options = {"padding": "max_length", "max_length": model.space.length, "truncation": True}
    ids = read(texts, return_tensors="pt", **options)["input_ids"]
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        found = there(input_ids=ids, pixel_values=images)
    theirs = np.concatenate([found.image_embeds.numpy(), found.text_embeds.numpy()], axis=1)
    ours = _joint.embedder(model.encoder_config, model.params, model.space)(pixels)
    return export.verdict(ours, theirs, ("transformers", "torch", "jax"), "transformers")
