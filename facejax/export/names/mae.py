"""Names of `vit` trained by `mae`, encoder and decoder, in other libraries.

Our tree is {"encoder": the parameters of the encoder, "mae": those of the objective}. The decoder's
width and depth are those of its parameters; its heads don't show in them.
"""

import dataclasses

from facejax.encoders import vit
from facejax.export.names import Entry, below, linear, norm, positions
from facejax.export.names.vit import (
    timm_blocks,
    timm_with_prefix,
    transformers_blocks,
    transformers_embeddings,
)
from facejax.layers import sincos_2d


def official(cfg: vit.Config, decoder_width: int, decoder_depth: int) -> list[Entry]:
    """The table for the checkpoints of MAE's own repository (He et al. 2022).

    Its encoder is timm's, with positions of the class token. `mask_token` is the decoder's.
    """
    encoder = below(timm_with_prefix(cfg), "encoder")
    return encoder + official_decoder(cfg, decoder_width, decoder_depth)


def official_decoder(cfg: vit.Config, width: int, depth: int) -> list[Entry]:
    """The part of `official` that is the decoder's."""
    table = _around(cfg, width, "decoder_embed", "mask_token", "decoder_pos_embed")
    table += timm_blocks("decoder_blocks", "mae/decoder/", depth, True, False)
    table += norm("decoder_norm", "mae/decoder/norm")
    return table + linear("decoder_pred", "mae/decoder/pred")


def transformers(cfg: vit.Config, decoder_width: int, decoder_depth: int) -> list[Entry]:
    """The table for the files of transformers' `ViTMAEForPreTraining`."""
    encoder = transformers_embeddings(cfg)
    encoder += transformers_blocks("encoder.layer", "", cfg.dims.depth, cfg.qkv_bias)
    encoder += norm("layernorm", "norm")
    inside = below(encoder, "encoder")
    table = [dataclasses.replace(e, theirs=f"vit.{e.theirs}") for e in inside]
    return table + transformers_decoder(cfg, decoder_width, decoder_depth)


def transformers_decoder(cfg: vit.Config, width: int, depth: int) -> list[Entry]:
    """The part of `transformers` that is the decoder's."""
    parts = ("decoder_embed", "mask_token", "decoder_pos_embed")
    table = _around(cfg, width, *(f"decoder.{part}" for part in parts))
    blocks = "decoder.decoder_layers"
    table += transformers_blocks(blocks, "mae/decoder/", depth, cfg.qkv_bias)
    table += norm("decoder.decoder_norm", "mae/decoder/norm")
    return table + linear("decoder.decoder_pred", "mae/decoder/pred")


def _around(cfg: vit.Config, width: int, embed: str, mask: str, where: str) -> list[Entry]:
    fixed = positions(1).write(sincos_2d(width, vit.tower(cfg).grid()))
    return [
        *linear(embed, "mae/embed"),
        Entry(mask, "mae/mask_token"),
        Entry(where, constant=fixed),
    ]
