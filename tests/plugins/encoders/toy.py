"""A test encoder that compiles in a moment: patches, one linear map, batch statistics."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.contracts import Features, Tower
from facejax.ops.masking import patchify


@dataclass(frozen=True)
class Config:
    width: int = 8
    patch: int = 8
    size: int | None = None
    norm: bool = False
    drop_path: float = 0.0

    @classmethod
    def tiny(cls):
        return cls(size=16)


def tower(cfg):
    return Tower(cfg.width, cfg.width, cfg.patch, 0, cfg.size, 1)


def init(cfg, rng, spec):
    shape = (cfg.patch**2 * 3, cfg.width)
    params = {
        "embed": {"kernel": jax.random.normal(rng, shape) * shape[0] ** -0.5},
        "head": {
            "kernel": jax.random.normal(jax.random.fold_in(rng, 1), (cfg.width, cfg.width)),
            "bias": jnp.zeros(cfg.width),
        },
    }
    if spec.mask_token:
        params["mask_token"] = jnp.zeros((1, 1, cfg.width))
    stats = {"mean": jnp.zeros(cfg.width)} if cfg.norm else {}
    return params, stats


def apply(
    cfg, params, stats, inputs, *, mask=None, context=None, cond=None, draw=None, train=False,
    outputs=("pooled",),
):  # fmt: skip
    patches = patchify(inputs["image"], cfg.patch)
    if mask is not None and mask.keep is not None:
        patches = jnp.take_along_axis(patches, mask.keep[..., None], axis=1)
    x = jnp.tanh(patches @ params["embed"]["kernel"])
    if mask is not None and mask.keep is None:
        x = jnp.where(mask.mask[..., None] & 1, params["mask_token"], x)
    if draw is not None and train and cfg.drop_path:
        keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - cfg.drop_path))(draw.keys())
        x = x * keep[:, None, None]
    if cfg.norm:
        mean = x.mean((0, 1)) if train else stats["mean"]
        x = x - mean[None, None]
        stats = {"mean": 0.9 * stats["mean"] + 0.1 * mean} if train else stats
    pooled = x.mean(1) @ params["head"]["kernel"] + params["head"]["bias"][None]
    found = {"pooled": pooled, "tokens": x, "layers": (x,), "prefix": x[:, :0]}
    return Features(**{name: found[name] for name in outputs}), stats


def flops(cfg, size=None, keep=None):
    patches = keep or ((size or cfg.size) // cfg.patch) ** 2
    return 2.0 * patches * cfg.patch**2 * 3 * cfg.width + 2.0 * cfg.width**2
