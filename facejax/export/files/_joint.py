"""Both towers in a folder of transformers, a `CLIPModel` or a `SiglipModel`."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from facejax.contracts import TowerSpec
from facejax.encoders import text, vit
from facejax.export import _transformers_joint as joint
from facejax.export import names
from facejax.export.files import WHERE, Facts
from facejax.export.names import clip as clip_names

KINDS = tuple(joint.TABLES)
CLASS = {"clip": 1, "siglip": 0}
"""Positions of the class token."""
_USUAL = {
    "clip": {
        "vision_config": Facts(activation="quick_gelu", heads=12, eps=1e-5),
        "text_config": Facts(activation="quick_gelu", heads=8, eps=1e-5),
    },
    "siglip": dict.fromkeys(
        ("vision_config", "text_config"),
        Facts(activation="gelu_pytorch_tanh", heads=12, eps=1e-6),
    ),
}
"""What config.json leaves out, as transformers' configuration classes have it."""
_TEXT = "text_model.embeddings"
_VISION = "vision_model.embeddings"
_ANCHORS = {
    "clip": (
        *(f"{_VISION}.patch_embedding.weight", *clip_names.CLASS_AT["transformers"]),
        "visual_projection.weight",
    ),
    "siglip": (
        *(f"{_VISION}.patch_embedding.weight", f"{_VISION}.position_embedding.weight"),
        *(f"vision_model.head.attention.in_proj_{kind}" for kind in ("weight", "bias")),
        "text_model.head.weight",
    ),
}
_FIRST = ("encoder.layers.0.mlp.fc1.weight",)
_IGNORED = r".*\.position_ids$"


@dataclass(frozen=True)
class Towers:
    """What a folder holds, in the geometry that it came in.

    Attributes:
        kind: "clip" or "siglip".
        image, words: configs of towers of that geometry; what tensors don't show is the run's.
        params: flat, "encoder/...", "encoder_text/...", "objective/...".
        notes: what was changed on the way.
    """

    kind: str
    image: vit.Config
    words: text.Config
    params: dict[str, np.ndarray]
    notes: list[str]


def facts(kind: str, config: Mapping[str, Any], tower: str) -> Facts:
    """What config.json says of "vision_config" or "text_config", and what it leaves out."""
    told, usual = config.get(tower) or {}, _USUAL[kind][tower]
    return Facts(
        activation=told.get("hidden_act", usual.activation),
        heads=told.get("num_attention_heads", usual.heads),
        eps=told.get("layer_norm_eps", usual.eps),
    )


def legal(cfg: vit.Config | text.Config) -> Facts:
    """What a file must say of the tower that is to start from it."""
    heads = cfg.dims.heads if isinstance(cfg, vit.Config) else cfg.heads
    return Facts(activation=joint.ACTIVATIONS[cfg.activation], heads=heads, eps=cfg.eps)


def recognise(
    kind: str, image: vit.Config, words: text.Config | None, tensors: Mapping[str, np.ndarray]
) -> Towers:
    """Names the tensors as ours.

    Args:
        image, words: of the run; without a text tower the file's is read as a default one.

    Raises:
        UserError: tensors are missing, unexpected or of a wrong shape.
    """
    tensors = {k: v for k, v in tensors.items() if not re.match(_IGNORED, k)}
    embeddings = (f"{_TEXT}.token_embedding.weight", f"{_TEXT}.position_embedding.weight")
    hidden = [f"{tower}.{name}" for tower in ("vision_model", "text_model") for name in _FIRST]
    wanted = (*_ANCHORS[kind], *embeddings, *hidden)
    missing = [name for name in wanted if name not in tensors]
    names.complain({"missing": missing}, WHERE)
    image, words = _image(kind, image, tensors), _words(kind, words or text.Config(), tensors)
    notes = []
    if kind == "clip":
        own = np.asarray(tensors[clip_names.CLASS_AT["transformers"][1]])[0]
        notes += ["position of the class token added to it"] * bool(np.any(own))
        tensors = clip_names.folded(tensors, "transformers")
    tensors = joint.READ[kind](tensors)
    out = tensors["visual_projection.weight"].shape[0] if kind == "clip" else 0
    found = names.match(joint.TABLES[kind](image, words), tensors, _shapes(kind, image, words, out))
    names.complain(found.problems, WHERE)
    return Towers(kind, image, words, found.params, notes)


def _image(kind: str, cfg: vit.Config, tensors: Mapping[str, np.ndarray]) -> vit.Config:
    width, _, patch, _ = tensors[f"{_VISION}.patch_embedding.weight"].shape
    places = len(tensors[f"{_VISION}.position_embedding.weight"]) - CLASS[kind]
    return dataclasses.replace(
        cfg,
        **_blocks("vision_model", width, tensors),
        heads=cfg.dims.heads if width % cfg.dims.heads == 0 else 1,
        patch=patch,
        size=round(places**0.5) * patch,
        positions="learned",
        pool="class" if kind == "clip" else "attention",
        class_token=kind == "clip",
        pre_norm=kind == "clip",
        patch_bias=kind == "siglip",
        qkv_bias=True,
        registers=0,
        layer_scale=None,
        neck="none",
        embed=0,
    )


def _words(kind: str, cfg: text.Config, tensors: Mapping[str, np.ndarray]) -> text.Config:
    vocab, width = tensors[f"{_TEXT}.token_embedding.weight"].shape
    neck = "none" if kind == "clip" else "linear"
    return dataclasses.replace(
        cfg,
        **_blocks("text_model", width, tensors),
        heads=cfg.heads if width % cfg.heads == 0 else 1,
        vocab=vocab,
        length=len(tensors[f"{_TEXT}.position_embedding.weight"]),
        mask="causal" if kind == "clip" else "none",
        pool="end" if kind == "clip" else "last",
        neck=neck,
        embed=0 if kind == "clip" else tensors["text_model.head.weight"].shape[0],
        context=0,
    )


def _blocks(tower: str, width: int, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    found = [re.match(rf"{tower}\.encoder\.layers\.(\d+)\.", name) for name in tensors]
    hidden = tensors[f"{tower}.{_FIRST[0]}"].shape[0]
    depth = 1 + max(int(m[1]) for m in found if m)
    # The ratio whose product with the width is this number, whatever the rounding.
    ratio = hidden / width
    ratio = ratio if int(width * ratio) == hidden else float(np.nextafter(ratio, np.inf))
    return {"width": width, "depth": depth, "mlp_ratio": ratio}


def _shapes(kind: str, image: vit.Config, words: text.Config, out: int) -> dict[str, Any]:
    """The parameters as shapes; the objective's are those of its table."""
    towers = {"encoder": (vit, image), "encoder_text": (text, words)}
    shapes = jax.eval_shape(
        lambda key: {k: m.init(cfg, key, TowerSpec())[0] for k, (m, cfg) in towers.items()},
        jax.random.key(0),
    )
    scalars = ("logit_scale",) if kind == "clip" else ("logit_scale", "logit_bias")
    widths = {"image": image.dims.width, "text": words.width} if kind == "clip" else {}
    own = {name: np.zeros(()) for name in scalars}
    own |= {side: {"kernel": np.zeros((width, out))} for side, width in widths.items()}
    return {**shapes, "objective": own}
