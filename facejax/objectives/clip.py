"""CLIP: an image and its text find each other among all images and texts of the batch.

Source: Radford et al. 2021, arXiv:2103.00020, figure 3, with unit vectors x and y of the common
space and s_ij = e^t <x_i, y_j>:

    loss = 1/2 mean_i CE(s_i., i) + 1/2 mean_i CE(s_.i, i)

t starts at ln(1 / .07) and is kept at ln 100 at most. The batch is the global one, whatever the
mesh and the micro-batch. Images without a text are left out, of the others' denominators too. Texts
that repeat within a batch are false negatives. With `frozen` or `cached` the image tower is locked
(LiT, Zhai et al. 2022, arXiv:2111.07991).
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.contracts import Ctx, Loss, Pass, Spec, Term, Vars
from facejax.objectives import _image_text
from facejax.objectives._image_text import FIELDS as FIELDS
from facejax.objectives._image_text import Towers
from facejax.ops.similarity import clip_softmax

SCOPE = "batch"


@dataclass(frozen=True)
class Config(Towers):
    """Options of `clip`.

    Attributes:
        tau: temperature at the start.
    """

    tau: float = 0.07

    @classmethod
    def tiny(cls) -> "Config":
        return cls(out=6)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    return _image_text.passes(cfg, spec)


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    start = jnp.float32(math.log(1 / cfg.tau))
    return Vars(params={**_image_text.init(cfg, rng, spec), "logit_scale": start})


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    x, y, there = _image_text.pairs(cfg, params, feats, batch)
    scale = jnp.exp(params["logit_scale"])
    each = clip_softmax(x, y, scale, there)
    count = jnp.sum(there, dtype=jnp.float32)
    metrics = {**_image_text.metrics(x, y, there), "scale": Term(scale, jnp.float32(1))}
    return Loss({"contrast": Term(jnp.sum(each), count)}, metrics=metrics)


def update(cfg: Config, params, state, stats, ctx: Ctx):
    return _image_text.clamped(params), state


def embed_image(cfg: Config, params, pooled: jax.Array) -> jax.Array:
    return _image_text.embedded(params, "image", pooled)


def embed_text(cfg: Config, params, pooled: jax.Array) -> jax.Array:
    return _image_text.embedded(params, "text", pooled)


def scale_bias(cfg: Config, params) -> tuple[jax.Array, jax.Array]:
    return jnp.exp(params["logit_scale"]), jnp.float32(0)


def flops(cfg: Config, spec: Spec) -> float:
    return _image_text.flops(cfg, spec)
