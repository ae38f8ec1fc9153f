"""Names of the encoder `vit` in other libraries."""

from facejax.encoders import vit
from facejax.export.names import TOKENS, Entry, linear, norm, patch_conv
from facejax.layers import sincos_2d


def timm(cfg: vit.Config) -> list[Entry]:
    """The table between our parameters and those of timm's `VisionTransformer`.

    timm is built with `no_embed_class=True`, since here neither class token nor registers carry a
    position, and with `fc_norm=False`, since here the norm comes before pooling. Fixed positions
    are written as values. The mask token has no place there.
    """
    patch = Entry("patch_embed.proj.weight", "patch_embed/kernel", patch_conv(cfg.patch))
    table = [patch, Entry("patch_embed.proj.bias", "patch_embed/bias")]
    if cfg.positions == "learned":
        table.append(Entry("pos_embed", "pos_embed", TOKENS))
    else:
        positions = sincos_2d(cfg.dims.width, vit.tower(cfg).grid())
        table.append(Entry("pos_embed", constant=positions[None]))
    if cfg.has_class_token:
        table.append(Entry("cls_token", "cls_token", TOKENS))
    if cfg.registers:
        table.append(Entry("reg_token", "registers", TOKENS))
    for i in range(cfg.dims.depth):
        theirs, ours = f"blocks.{i}", vit.block_name(i)
        table += norm(f"{theirs}.norm1", f"{ours}/norm1")
        table += linear(f"{theirs}.attn.qkv", f"{ours}/attn/qkv", bias=cfg.qkv_bias)
        table += linear(f"{theirs}.attn.proj", f"{ours}/attn/proj")
        table += norm(f"{theirs}.norm2", f"{ours}/norm2")
        table += linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1")
        table += linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2")
        if cfg.layer_scale is not None:
            table += [Entry(f"{theirs}.{ls}.gamma", f"{ours}/{ls}") for ls in ("ls1", "ls2")]
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
