"""A test encoder that finds shapes where they stand: strided convolutions, then a linear map."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import linen as nn

from facejax.contracts import Features, Tower
from facejax.layers import dense, layer_norm


@dataclass(frozen=True)
class Config:
    widths: tuple[int, ...] = (24, 48, 96, 128)
    embed: int = 64
    size: int | None = None

    @classmethod
    def tiny(cls):
        return cls(widths=(4, 8), embed=8, size=16)


class Net(nn.Module):
    cfg: Config

    @nn.compact
    def __call__(self, x):
        for i, width in enumerate(self.cfg.widths):
            x = nn.Conv(width, (3, 3), strides=2, name=f"conv_{i}")(x)
            x = nn.relu(layer_norm(x, f"norm_{i}"))
        return x, dense(self.cfg.embed, name="head")(x.reshape(len(x), -1))


def tower(cfg):
    return Tower(cfg.widths[-1], cfg.embed, patch=0, prefix=0, size=cfg.size, depth=1)


def init(cfg, rng, spec):
    return Net(cfg).init(rng, jnp.zeros((1, cfg.size, cfg.size, 3)))["params"], {}


def apply(
    cfg, params, stats, inputs, *, mask=None, context=None, cond=None, draw=None, train=False,
    outputs=("pooled",),
):  # fmt: skip
    x, pooled = Net(cfg).apply({"params": params}, inputs["image"])
    tokens = x.reshape(len(x), -1, x.shape[-1])
    found = {"pooled": pooled, "tokens": tokens, "layers": (tokens,), "prefix": tokens[:, :0]}
    return Features(**{name: found[name] for name in outputs}), stats


def flops(cfg, size=None, keep=None):
    side, inputs, total = size or cfg.size, 3, 0
    for width in cfg.widths:
        side //= 2
        total += 2 * side**2 * 9 * inputs * width
        inputs = width
    return float(total + 2 * side**2 * inputs * cfg.embed)
