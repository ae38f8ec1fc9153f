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

DINOV3_IN_MEMORY = ((r"(^|\.)model\.layer\.(\d+)\.", r"\1layer.\2."),)
"""The same for `DINOv3ViTModel`."""

META_DINOV2 = ((r"^register_tokens$", "reg_token"),)
"""From the names of DINOv2's own repository to those of timm."""


def timm(cfg: vit.Config) -> list[Entry]:
    """The table between our parameters and those of timm's `VisionTransformer`.

    timm is built with `no_embed_class=True`, since here neither class token nor registers carry a
    position, and with `fc_norm=False`, since here the norm comes before pooling. Fixed positions
    are written as values. The mask token has no place there. With rotary positions it is timm's
    `Eva`, as that library builds DINOv3.
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
    rope, depth, scales = cfg.positions == "rope", cfg.dims.depth, cfg.layer_scale is not None
    patch = Entry("patch_embed.proj.weight", "patch_embed/kernel", patch_conv(cfg.patch))
    table = [patch, Entry("patch_embed.proj.bias", "patch_embed/bias")]
    if not rope:
        table.append(_positions("pos_embed", cfg, prefix))
    if cfg.has_class_token:
        table.append(Entry("cls_token", "cls_token", TOKENS))
    if cfg.registers:
        table.append(Entry("reg_token", "registers", TOKENS))
    table += timm_blocks("blocks", "", depth, cfg.qkv_bias and not rope, scales and not rope)
    for i in range(depth if rope else 0):
        there, here = f"blocks.{i}", vit.block_name(i)
        if cfg.qkv_bias:
            table += [Entry(f"{there}.attn.{b}", f"{here}/attn/{b}") for b in ("q_bias", "v_bias")]
        if scales:
            table += [Entry(f"{there}.gamma_{n}", f"{here}/ls{n}") for n in (1, 2)]
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
        scales = cfg.layer_scale is not None
        table += [_scale(f"{there}.layer_scale{n}.lambda1", here, n, scales, D) for n in (1, 2)]
    return table + norm("layernorm", "norm")


def dinov3(cfg: vit.Config) -> list[Entry]:
    """The table for the files of transformers' `DINOv3ViTModel`, for rotary positions.

    As in `dinov2`, scales of one stand for no LayerScale, and the mask token means nothing.
    """
    D, scales = cfg.dims.width, cfg.layer_scale is not None
    none = {"register_tokens": np.zeros((1, 0, D)), "mask_token": np.zeros((1, 1, D))}
    patches = "embeddings.patch_embeddings"
    table = [
        Entry(f"{patches}.weight", "patch_embed/kernel", patch_conv(cfg.patch)),
        Entry(f"{patches}.bias", "patch_embed/bias"),
        Entry("embeddings.cls_token", "cls_token", TOKENS),
        Entry("embeddings.mask_token", constant=none["mask_token"], free=True),
    ]
    registers = "embeddings.register_tokens"
    if cfg.registers:
        table.append(Entry(registers, "registers", TOKENS))
    else:
        table.append(Entry(registers, constant=none["register_tokens"], free=True))
    for i in range(cfg.dims.depth):
        there, here = f"layer.{i}", vit.block_name(i)
        table += norm(f"{there}.norm1", f"{here}/norm1") + norm(f"{there}.norm2", f"{here}/norm2")
        for part, name in enumerate("qkv"):
            layer = f"{there}.attention.{name}_proj"
            table += linear(layer, f"{here}/attn/qkv", bias=False, part=(part, 3))
            if cfg.qkv_bias and name != "k":
                table.append(Entry(f"{layer}.bias", f"{here}/attn/{name}_bias"))
        table += linear(f"{there}.attention.o_proj", f"{here}/attn/proj")
        table += linear(f"{there}.mlp.up_proj", f"{here}/mlp/fc1")
        table += linear(f"{there}.mlp.down_proj", f"{here}/mlp/fc2")
        table += [_scale(f"{there}.layer_scale{n}.lambda1", here, n, scales, D) for n in (1, 2)]
    return table + norm("norm", "norm")


def _scale(theirs: str, block: str, n: int, scales: bool, width: int) -> Entry:
    if scales:
        return Entry(theirs, f"{block}/ls{n}")
    return Entry(theirs, constant=np.ones(width, np.float32))
