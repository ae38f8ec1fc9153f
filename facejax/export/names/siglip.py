"""Names of two towers trained by `siglip` in transformers.

Our tree is {"encoder": ..., "encoder_text": ..., "objective": ...}, as for `clip`, without
projections: the text tower's neck is `text_model.head`.
"""

from collections.abc import Mapping

import numpy as np

from facejax.encoders import text, vit
from facejax.export.names import TOKENS, Array, Entry, Layout, linear, norm, patch_conv
from facejax.export.names.clip import blocks, text_tower

SCALAR = Layout(lambda a: a[None], lambda a: a[0])
"""A number here is [1] there."""
_HEAD = "vision_model.head"
_PARTS = ("in_proj_q", "in_proj_kv")


def split(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Files of transformers with the pooling's queries apart from its keys and values, as here."""
    out = dict(tensors)
    for kind in ("weight", "bias"):
        whole = np.asarray(out.pop(f"{_HEAD}.attention.in_proj_{kind}"))
        D = len(whole) // 3
        for name, part in zip(_PARTS, (whole[:D], whole[D:])):
            out[f"{_HEAD}.attention.{name}.{kind}"] = part
    return out


def fused(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The inverse of `split`."""
    out = dict(tensors)
    for kind in ("weight", "bias"):
        parts = [out.pop(f"{_HEAD}.attention.{name}.{kind}") for name in _PARTS]
        out[f"{_HEAD}.attention.in_proj_{kind}"] = np.concatenate(parts)
    return out


def transformers(image: vit.Config, words: text.Config) -> list[Entry]:
    """The table for the files of transformers' `SiglipModel`, after `split`."""
    patches = "vision_model.embeddings.patch_embedding"
    places = "vision_model.embeddings.position_embedding.weight"
    table = [
        Entry(f"{patches}.weight", "encoder/patch_embed/kernel", patch_conv(image.patch)),
        Entry(f"{patches}.bias", "encoder/patch_embed/bias"),
        Entry(places, "encoder/pos_embed"),
        *blocks("vision_model.encoder.layers", "encoder", image.dims.depth),
        *norm("vision_model.post_layernorm", "encoder/norm"),
        Entry(f"{_HEAD}.probe", "encoder/attn_pool/latent", TOKENS),
    ]
    for theirs, ours in zip((*_PARTS, "out_proj"), ("q", "kv", "proj")):
        table += linear(f"{_HEAD}.attention.{theirs}", f"encoder/attn_pool/{ours}")
    table += norm(f"{_HEAD}.layernorm", "encoder/attn_pool/norm")
    for layer in ("fc1", "fc2"):
        table += linear(f"{_HEAD}.mlp.{layer}", f"encoder/attn_pool/mlp/{layer}")
    return [
        *table,
        *text_tower(words),
        *linear("text_model.head", "encoder_text/neck"),
        Entry("logit_scale", "objective/logit_scale", SCALAR),
        Entry("logit_bias", "objective/logit_bias", SCALAR),
    ]
