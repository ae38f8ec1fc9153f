"""Names of two towers trained by `clip` in other libraries.

Our tree is {"encoder": ..., "encoder_text": ..., "objective": ...}, the last being the objective's
own parameters: the projections and `logit_scale`.
"""

from collections.abc import Mapping

import numpy as np

from facejax.encoders import text, vit
from facejax.export.names import Array, Entry, Layout, below, linear, norm, patch_conv

CLASS = Layout(lambda a: a[0], lambda a: a[None])
"""A class token [1, D] here is [D] there."""
PLACES = Layout(lambda a: np.pad(a, ((1, 0), (0, 0))), lambda a: a[1:])
"""Positions [N, D] here are [1 + N, D] there, zero for the class token."""
CLASS_AT = {
    "transformers": (
        "vision_model.embeddings.class_embedding",
        "vision_model.embeddings.position_embedding.weight",
    ),
    "open_clip": ("visual.class_embedding", "visual.positional_embedding"),
}


def folded(tensors: Mapping[str, Array], form: str) -> dict[str, Array]:
    """The same function with no position of the class token, which is added to the token."""
    token, places = CLASS_AT[form]
    out = dict(tensors)
    own = np.array(out[places], np.float32)
    out[token] = np.asarray(out[token], np.float32) + own[0]
    own[0] = 0
    out[places] = own
    return out


def blocks(theirs: str, ours: str, depth: int) -> list[Entry]:
    """The blocks `<theirs>.0`, ... of both towers of transformers' CLIP and SigLIP."""
    table = []
    for i in range(depth):
        there, here = f"{theirs}.{i}", f"{ours}/{vit.block_name(i)}"
        table += norm(f"{there}.layer_norm1", f"{here}/norm1")
        for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
            table += linear(f"{there}.self_attn.{name}", f"{here}/attn/qkv", part=(part, 3))
        table += linear(f"{there}.self_attn.out_proj", f"{here}/attn/proj")
        table += norm(f"{there}.layer_norm2", f"{here}/norm2")
        for layer in ("fc1", "fc2"):
            table += linear(f"{there}.mlp.{layer}", f"{here}/mlp/{layer}")
    return table


def text_tower(cfg: text.Config) -> list[Entry]:
    """The text tower of transformers' CLIP and SigLIP, without what follows its norm."""
    embeddings = "text_model.embeddings"
    return [
        Entry(f"{embeddings}.token_embedding.weight", "encoder_text/embedding"),
        Entry(f"{embeddings}.position_embedding.weight", "encoder_text/pos_embed"),
        *blocks("text_model.encoder.layers", "encoder_text", cfg.depth),
        *norm("text_model.final_layer_norm", "encoder_text/norm"),
    ]


def transformers(image: vit.Config, words: text.Config) -> list[Entry]:
    """The table for the files of transformers' `CLIPModel`."""
    patches = "vision_model.embeddings.patch_embedding.weight"
    token, places = CLASS_AT["transformers"]
    table = [
        Entry(patches, "encoder/patch_embed/kernel", patch_conv(image.patch)),
        Entry(token, "encoder/cls_token", CLASS),
        Entry(places, "encoder/pos_embed", PLACES),
        *norm("vision_model.pre_layrnorm", "encoder/pre_norm"),
        *blocks("vision_model.encoder.layers", "encoder", image.dims.depth),
        *norm("vision_model.post_layernorm", "encoder/norm"),
        *text_tower(words),
        *linear("visual_projection", "objective/image", bias=False),
        *linear("text_projection", "objective/text", bias=False),
        Entry("logit_scale", "objective/logit_scale"),
    ]
    return table


def _open_clip_blocks(theirs: str, depth: int) -> list[Entry]:
    table = []
    for i in range(depth):
        there, here = f"{theirs}.{i}", vit.block_name(i)
        table += norm(f"{there}.ln_1", f"{here}/norm1")
        fused = linear("", f"{here}/attn/qkv")
        names = (f"{there}.attn.in_proj_weight", f"{there}.attn.in_proj_bias")
        table += [Entry(name, e.ours, e.layout) for name, e in zip(names, fused)]
        table += linear(f"{there}.attn.out_proj", f"{here}/attn/proj")
        table += norm(f"{there}.ln_2", f"{here}/norm2")
        table += linear(f"{there}.mlp.c_fc", f"{here}/mlp/fc1")
        table += linear(f"{there}.mlp.c_proj", f"{here}/mlp/fc2")
    return table


def open_clip(image: vit.Config, words: text.Config) -> list[Entry]:
    """The table for the `state_dict` of open_clip's `CLIP`."""
    token, places = CLASS_AT["open_clip"]
    vision = [
        Entry("visual.conv1.weight", "patch_embed/kernel", patch_conv(image.patch)),
        Entry(token, "cls_token", CLASS),
        Entry(places, "pos_embed", PLACES),
        *norm("visual.ln_pre", "pre_norm"),
        *_open_clip_blocks("visual.transformer.resblocks", image.dims.depth),
        *norm("visual.ln_post", "norm"),
    ]
    own = [
        Entry("token_embedding.weight", "embedding"),
        Entry("positional_embedding", "pos_embed"),
        *_open_clip_blocks("transformer.resblocks", words.depth),
        *norm("ln_final", "norm"),
    ]
    return [
        *below(vision, "encoder"),
        *below(own, "encoder_text"),
        Entry("visual.proj", "objective/image/kernel"),
        Entry("text_projection", "objective/text/kernel"),
        Entry("logit_scale", "objective/logit_scale"),
    ]
