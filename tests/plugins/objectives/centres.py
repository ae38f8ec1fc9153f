"""Identity classification with row-updated class centres (every class, or a sample of them)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.contracts import Aug, Loss, Pass, Sparse, Term, Vars, View
from facejax.ops.similarity import l2_normalize

SCOPE = "batch"
FIELDS = ("identity",)


@dataclass(frozen=True)
class Config:
    scale: float = 8.0
    sampled: int = 0
    augment: bool = False
    lr: float = 1.0

    @classmethod
    def tiny(cls):
        return cls()


def passes(cfg, spec):
    crop = {"scale": (0.8, 1.0), "flip": 0.5} if cfg.augment else {}
    return {"image": Pass(View(aug=Aug(spec.size, **crop, **spec.aug)))}


def init(cfg, rng, spec):
    shape = (spec.classes["identity"], spec.towers["encoder"].embed)
    value = 0.1 * jax.random.normal(rng, shape)
    return Vars(sparse={"centres": Sparse(value, momentum=0.9, lr=cfg.lr)})


def rows(cfg, params, batch, ctx):
    C = ctx.spec.classes["identity"]
    if not cfg.sampled:
        return {"centres": jnp.arange(C)}
    # Positives first, then the lowest other classes; places beyond C are padding.
    wanted = jnp.zeros(C).at[batch["identity"]].set(1.0)
    order = jnp.argsort(-wanted, stable=True)[: cfg.sampled]
    return {"centres": jnp.concatenate([order, jnp.full(2, C)])}


def loss(cfg, params, ema, state, feats, batch, ctx):
    rows, C = ctx.rows["centres"], ctx.spec.classes["identity"]
    z, w = l2_normalize(feats["image"].pooled), l2_normalize(params["centres"])
    logits = jnp.where((rows < C)[None], cfg.scale * z @ w.T, -jnp.inf)
    hit = rows[None] == batch["identity"][:, None]
    target = jnp.sum(jnp.where(hit, logits, 0.0), axis=1)
    return Loss({"softmax": Term.mean(jax.nn.logsumexp(logits, axis=1) - target)})
