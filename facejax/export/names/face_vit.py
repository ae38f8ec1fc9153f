"""Names of the encoder `face_vit` in arcface_torch, which are those of `_torch_nets.face_vit`."""

from typing import Any

import numpy as np

from facejax.encoders import face_vit
from facejax.export.names import TOKENS, Entry, linear, norm, patch_conv
from facejax.export.names._arcface import batch_norm, under_params


def torch(cfg: face_vit.Config) -> list[Entry]:
    """The table; our tree is {"params": params, "stats": stats}.

    Their mask token stands for dropped tokens, so it is `holes`; where `drop_tokens` is 0 it is
    zero and a constant here. Our own mask token has no place there.
    """
    patch = Entry("patch_embed.proj.weight", "patch_embed/kernel", patch_conv(cfg.patch))
    table = [patch, Entry("patch_embed.proj.bias", "patch_embed/bias")]
    table.append(Entry("pos_embed", "pos_embed", TOKENS))
    for i in range(cfg.dims.depth):
        theirs, ours = f"blocks.{i}", face_vit.block_name(i)
        table += norm(f"{theirs}.norm1", f"{ours}/norm1")
        table += linear(f"{theirs}.attn.qkv", f"{ours}/attn/qkv", bias=False)
        table += linear(f"{theirs}.attn.proj", f"{ours}/attn/proj")
        table += norm(f"{theirs}.norm2", f"{ours}/norm2")
        table += linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1")
        table += linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2")
    table += norm("norm", "norm")
    table += linear("feature.0", "neck/fc1", bias=False)
    table += linear("feature.2", "neck/fc2", bias=False)
    if cfg.drop_tokens:
        table.append(Entry("mask_token", "holes/embedding", TOKENS))
    table = under_params(table)
    if not cfg.drop_tokens:
        zeros = np.zeros((1, 1, cfg.dims.width), np.float32)
        table.append(Entry("mask_token", constant=zeros))
    return table + batch_norm("feature.1", "neck/norm1") + batch_norm("feature.3", "neck/norm2")


def torch_options(cfg: face_vit.Config) -> dict[str, Any]:
    """The arguments of `_torch_nets.face_vit`."""
    names = ("mlp_ratio", "patch", "embed", "size")
    return {**cfg.dims._asdict(), **{name: getattr(cfg, name) for name in names}}
