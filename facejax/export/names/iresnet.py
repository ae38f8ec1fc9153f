"""Names of the encoder `iresnet` in arcface_torch, which are those of `_torch_nets.iresnet`."""

from typing import Any

import numpy as np

from facejax.encoders import iresnet
from facejax.export.names import Entry, linear
from facejax.export.names._arcface import (
    batch_norm,
    batch_norm_without_scale,
    conv,
    prelu,
    under_params,
)


def torch(cfg: iresnet.Config) -> list[Entry]:
    """The table; our tree is {"params": params, "stats": stats}.

    The scale of the last batch norm is fixed at 1 and a constant here.
    """
    table = [*conv("conv1", "stem_conv"), *batch_norm("bn1", "stem_norm")]
    table += prelu("prelu", "stem_prelu")
    for stage, (_, blocks) in enumerate(cfg.stages, 1):
        for i in range(blocks):
            theirs, ours = f"layer{stage}.{i}", iresnet.block_name(stage, i)
            for n in (1, 2, 3):
                table += batch_norm(f"{theirs}.bn{n}", f"{ours}/norm{n}")
            table += conv(f"{theirs}.conv1", f"{ours}/conv1")
            table += prelu(f"{theirs}.prelu", f"{ours}/prelu")
            table += conv(f"{theirs}.conv2", f"{ours}/conv2")
            if cfg.se:
                for fc in ("fc1", "fc2"):
                    table += under_params(linear(f"{theirs}.se.{fc}", f"{ours}/se/{fc}"))
            if i == 0:
                table += conv(f"{theirs}.downsample.0", f"{ours}/shortcut_conv")
                table += batch_norm(f"{theirs}.downsample.1", f"{ours}/shortcut_norm")
    table += batch_norm("bn2", "norm")
    table += under_params(linear("fc", "fc"))
    table.append(Entry("features.weight", constant=np.ones(cfg.embed, np.float32)))
    return table + batch_norm_without_scale("features", "features")


def torch_options(cfg: iresnet.Config) -> dict[str, Any]:
    """The arguments of `_torch_nets.iresnet`."""
    widths, blocks = zip(*cfg.stages)
    options = {"se": cfg.se, "embed": cfg.embed, "size": cfg.size}
    return {"blocks": blocks, "widths": widths, **options}
