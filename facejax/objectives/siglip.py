"""SigLIP: each image and each text of the batch, told by itself whether they belong together.

Source: Zhai et al. 2023, arXiv:2303.15343, algorithm 1, and big_vision's `image_text/siglip.py`.
With unit vectors x and y of the common space, l_ij = e^t <x_i, y_j> + b and z_ij = 1 for i = j and
-1 else:

    loss = -1/B sum_ij log sigmoid(z_ij l_ij)

e^t starts at 10 and b at -10, so that the many negatives start as good as told; at cosines of 0 the
loss of a batch of 1,024 is 10.046. The batch is the global one, its text passing from device to
device (`ops/ring.py`). Images without a text are left out, and their count is not in B. As with
`clip`, e^t is kept at 100 at most (big_vision does not; [D]), and with `frozen` or `cached` the
image tower is locked.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.contracts import Ctx, Loss, Pass, Spec, Term, Vars
from facejax.objectives import _image_text
from facejax.objectives._image_text import FIELDS as FIELDS
from facejax.objectives._image_text import Towers
from facejax.ops.similarity import sigmoid_loss

SCOPE = "batch"


@dataclass(frozen=True)
class Config(Towers):
    """Options of `siglip`.

    Attributes:
        start: e^t at the start.
        bias: b at the start.
    """

    project: str = "none"
    start: float = 10.0
    bias: float = -10.0

    @classmethod
    def tiny(cls) -> "Config":
        return cls()


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    return _image_text.passes(cfg, spec)


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    own = {
        "logit_scale": jnp.float32(math.log(cfg.start)),
        "logit_bias": jnp.float32(cfg.bias),
    }
    return Vars(params={**_image_text.init(cfg, rng, spec), **own})


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    x, y, there = _image_text.pairs(cfg, params, feats, batch)
    scale, bias = scale_bias(cfg, params)
    each = sigmoid_loss(x, y, scale, bias, there)
    count = jnp.sum(there, dtype=jnp.float32)
    metrics = {
        **_image_text.metrics(x, y, there),
        "scale": Term(scale, jnp.float32(1)),
        "bias": Term(bias, jnp.float32(1)),
    }
    return Loss({"contrast": Term(jnp.sum(each), count)}, metrics=metrics)


def update(cfg: Config, params, state, stats, ctx: Ctx):
    return _image_text.clamped(params), state


def embed_image(cfg: Config, params, pooled: jax.Array) -> jax.Array:
    return _image_text.embedded(params, "image", pooled)


def embed_text(cfg: Config, params, pooled: jax.Array) -> jax.Array:
    return _image_text.embedded(params, "text", pooled)


def scale_bias(cfg: Config, params) -> tuple[jax.Array, jax.Array]:
    return jnp.exp(params["logit_scale"]), params["logit_bias"]


def flops(cfg: Config, spec: Spec) -> float:
    return _image_text.flops(cfg, spec)
