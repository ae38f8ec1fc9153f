"""Names of the encoder `vit` in other libraries."""

import numpy as np

from facejax.encoders import vit
from facejax.export.names import TOKENS, Entry, linear, norm, patch_conv, positions
from facejax.layers import sincos_2d

TRANSFORMERS_IN_MEMORY = (
    (r"(^|\.)layers\.(\d+)\.", r"\1encoder.layer.\2."),
    (r"decoder_encoder\.layer\.", "decoder_layers."),
    (r"attention\.q_proj\.", "attention.attention.query."),
    (r"attention\.k_proj\.", "attention.attention.key."),
    (r"attention\.v_proj\.", "attention.attention.value."),
    (r"attention\.o_proj\.", "attention.output.dense."),
    (r"((?:encoder\.layer|decoder_layers)\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"((?:encoder\.layer|decoder_layers)\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
)
"""From the names of `ViTModel` and `ViTMAE` in the memory of transformers 5 to those in files.

transformers 5.24 writes the layers of ViTMAE's decoder as `decoder_encoder.layer`; files on its hub
have `decoder_layers`.
"""

DINOV2_IN_MEMORY = TRANSFORMERS_IN_MEMORY[2:6]
"""The same for `Dinov2Model` and `Dinov2WithRegistersModel`."""

META_DINOV2 = ((r"^register_tokens$", "reg_token"),)
"""From the names of DINOv2's own repository to those of timm."""


def timm(cfg: vit.Config) -> list[Entry]:
    """The table between our parameters and those of timm's `VisionTransformer`.

    timm is built with `no_embed_class=True`, since here neither class token nor registers carry a
    position, and with `fc_norm=False`, since here the norm comes before pooling. Fixed positions
    are written as values. The mask token has no place there.
    """
    return _timm(cfg, 0)


def timm_with_prefix(cfg: vit.Config) -> list[Entry]:
    """As `timm`, for `no_embed_class=False`: prefix tokens have positions, which are zero here.

    The layout of timm's DINOv2 without registers, of DeiT and of the encoder of MAE.
    """
    return _timm(cfg, cfg.prefix)


def timm_blocks(theirs: str, ours: str, depth: int, qkv_bias: bool, scales: bool) -> list[Entry]:
    """The blocks `<theirs>.0`, ... as timm and MAE name their parts; ours lie below `ours`."""
    table = []
    for i in range(depth):
        there, here = f"{theirs}.{i}", f"{ours}{vit.block_name(i)}"
        table += norm(f"{there}.norm1", f"{here}/norm1")
        table += linear(f"{there}.attn.qkv", f"{here}/attn/qkv", bias=qkv_bias)
        table += linear(f"{there}.attn.proj", f"{here}/attn/proj")
        table += norm(f"{there}.norm2", f"{here}/norm2")
        table += linear(f"{there}.mlp.fc1", f"{here}/mlp/fc1")
        table += linear(f"{there}.mlp.fc2", f"{here}/mlp/fc2")
        if scales:
            table += [Entry(f"{there}.{ls}.gamma", f"{here}/{ls}") for ls in ("ls1", "ls2")]
    return table


def _positions(theirs: str, cfg: vit.Config, prefix: int) -> Entry:
    layout = positions(prefix)
    if cfg.positions == "learned":
        return Entry(theirs, "pos_embed", layout)
    return Entry(theirs, constant=layout.write(sincos_2d(cfg.dims.width, vit.tower(cfg).grid())))


def _timm(cfg: vit.Config, prefix: int) -> list[Entry]:
    patch = Entry("patch_embed.proj.weight", "patch_embed/kernel", patch_conv(cfg.patch))
    table = [patch, Entry("patch_embed.proj.bias", "patch_embed/bias")]
    table.append(_positions("pos_embed", cfg, prefix))
    if cfg.has_class_token:
        table.append(Entry("cls_token", "cls_token", TOKENS))
    if cfg.registers:
        table.append(Entry("reg_token", "registers", TOKENS))
    scales = cfg.layer_scale is not None
    table += timm_blocks("blocks", "", cfg.dims.depth, cfg.qkv_bias, scales)
    table += norm("norm", "norm")
    if cfg.pool == "attention":
        table.append(Entry("attn_pool.latent", "attn_pool/latent", TOKENS))
        for layer in ("q", "kv", "proj"):
            table += linear(f"attn_pool.{layer}", f"attn_pool/{layer}")
        table += norm("attn_pool.norm", "attn_pool/norm")
        table += linear("attn_pool.mlp.fc1", "attn_pool/mlp/fc1")
        table += linear("attn_pool.mlp.fc2", "attn_pool/mlp/fc2")
    if cfg.neck == "linear":
        table += linear("head", "neck")
    return table


def transformers_blocks(theirs: str, ours: str, depth: int, qkv_bias: bool) -> list[Entry]:
    """The blocks of `ViTModel` and `ViTMAE`, `<theirs>.0`, ...; ours lie below `ours`."""
    table = []
    for i in range(depth):
        there, here = f"{theirs}.{i}", f"{ours}{vit.block_name(i)}"
        table += norm(f"{there}.layernorm_before", f"{here}/norm1")
        table += attention(there, here, qkv_bias)
        table += norm(f"{there}.layernorm_after", f"{here}/norm2")
        table += linear(f"{there}.intermediate.dense", f"{here}/mlp/fc1")
        table += linear(f"{there}.output.dense", f"{here}/mlp/fc2")
    return table


def attention(theirs: str, ours: str, qkv_bias: bool) -> list[Entry]:
    """The attention of a block of transformers: three layers there are a fused one here."""
    table = []
    for i, name in enumerate(("query", "key", "value")):
        there = f"{theirs}.attention.attention.{name}"
        table += linear(there, f"{ours}/attn/qkv", bias=qkv_bias, part=(i, 3))
    return table + linear(f"{theirs}.attention.output.dense", f"{ours}/attn/proj")


def transformers_embeddings(cfg: vit.Config) -> list[Entry]:
    """What comes before the blocks of every ViT of transformers; the class token is wanted."""
    patches = "embeddings.patch_embeddings.projection"
    return [
        Entry(f"{patches}.weight", "patch_embed/kernel", patch_conv(cfg.patch)),
        Entry(f"{patches}.bias", "patch_embed/bias"),
        Entry("embeddings.cls_token", "cls_token", TOKENS),
        _positions("embeddings.position_embeddings", cfg, 1),
    ]


def transformers(cfg: vit.Config) -> list[Entry]:
    """The table for transformers' `ViTModel`, for encoders without registers and LayerScale.

    The names are those of files. The neck is the pooler's layer, and without one the pooler's layer
    is the identity: with `pooler_act="linear"` the pooler of the class token is ours.
    """
    table = transformers_embeddings(cfg)
    table += transformers_blocks("encoder.layer", "", cfg.dims.depth, cfg.qkv_bias)
    table += norm("layernorm", "norm")
    if cfg.neck == "linear":
        return table + linear("pooler.dense", "neck")
    width = cfg.dims.width
    identity = Entry("pooler.dense.weight", constant=np.eye(width, dtype=np.float32), free=True)
    zero = Entry("pooler.dense.bias", constant=np.zeros(width, np.float32), free=True)
    return [*table, identity, zero]


def dinov2(cfg: vit.Config) -> list[Entry]:
    """The table for transformers' `Dinov2Model`, and with registers `Dinov2WithRegistersModel`.

    Where there is no LayerScale here, scales of one are written. The mask token means nothing once
    training is over.
    """
    D = cfg.dims.width
    table = transformers_embeddings(cfg)
    table.append(Entry("embeddings.mask_token", constant=np.zeros((1, D), np.float32), free=True))
    if cfg.registers:
        table.append(Entry("embeddings.register_tokens", "registers", TOKENS))
    for i in range(cfg.dims.depth):
        there, here = f"encoder.layer.{i}", vit.block_name(i)
        table += norm(f"{there}.norm1", f"{here}/norm1")
        table += attention(there, here, cfg.qkv_bias)
        table += norm(f"{there}.norm2", f"{here}/norm2")
        table += linear(f"{there}.mlp.fc1", f"{here}/mlp/fc1")
        table += linear(f"{there}.mlp.fc2", f"{here}/mlp/fc2")
        for n in (1, 2):
            scale = f"{there}.layer_scale{n}.lambda1"
            if cfg.layer_scale is None:
                table.append(Entry(scale, constant=np.ones(D, np.float32)))
            else:
                table.append(Entry(scale, f"{here}/ls{n}"))
    return table + norm("layernorm", "norm")
