"""Names of the encoder `mobilefacenet` in arcface_torch: those of `_torch_nets.mobilefacenet`."""

from typing import Any

from facejax.encoders import mobilefacenet
from facejax.export.names import Entry, linear
from facejax.export.names._arcface import batch_norm, conv, prelu, under_params


def torch(cfg: mobilefacenet.Config) -> list[Entry]:
    """The table; our tree is {"params": params, "stats": stats}."""
    table = _conv_norm("layers.0", "stem")
    if cfg.blocks[0] == 1:
        table += _conv_norm("layers.1", "stem_grouped", grouped=True)
    else:
        table += _residuals("layers.1", "stem", cfg.blocks[0])
    for n, count in enumerate(cfg.blocks[1:], 1):
        table += _bottleneck(f"layers.{2 * n}", f"down{n}")
        table += _residuals(f"layers.{2 * n + 1}", f"stage{n}", count)
    table += _conv_norm("conv_sep", "separate")
    table += _conv_norm("features.layers.0", "gdc", active=False, grouped=True)
    table += under_params(linear("features.layers.2", "fc", bias=False))
    return table + batch_norm("features.layers.3", "features")


def torch_options(cfg: mobilefacenet.Config) -> dict[str, Any]:
    """The arguments of `_torch_nets.mobilefacenet`."""
    names = ("blocks", "width", "hidden", "head", "embed", "size")
    return {name: getattr(cfg, name) for name in names}


def _conv_norm(theirs: str, ours: str, active: bool = True, grouped: bool = False) -> list[Entry]:
    table = conv(f"{theirs}.layers.0", f"{ours}/{'grouped' if grouped else 'conv'}")
    table += batch_norm(f"{theirs}.layers.1", f"{ours}/norm")
    return table + (prelu(f"{theirs}.layers.2", f"{ours}/prelu") if active else [])


def _bottleneck(theirs: str, ours: str) -> list[Entry]:
    return [
        *_conv_norm(f"{theirs}.layers.0", f"{ours}/expand"),
        *_conv_norm(f"{theirs}.layers.1", f"{ours}/depthwise", grouped=True),
        *_conv_norm(f"{theirs}.layers.2", f"{ours}/project", active=False),
    ]


def _residuals(theirs: str, stage: str, count: int) -> list[Entry]:
    table = []
    for i in range(count):
        table += _bottleneck(f"{theirs}.layers.{i}", mobilefacenet.block_name(stage, i))
    return table
