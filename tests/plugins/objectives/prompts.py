"""Classifies by what the student makes of fixed pictures, one a class, and by a fixed bank."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from facejax.contracts import Aug, Loss, Pass, Term, Vars, View
from facejax.ops.similarity import l2_normalize

SCOPE = "batch"
FIELDS = ("identity",)


@dataclass(frozen=True)
class Config:
    classes: int = 3
    seed: int = 0

    @classmethod
    def tiny(cls):
        return cls()


def constants(cfg, spec):
    rng = np.random.default_rng(cfg.seed)
    shape = (cfg.classes, spec.size, spec.size, 3)
    bank = rng.normal(size=(cfg.classes, spec.towers["encoder"].embed))
    return {
        "shown": rng.integers(0, 256, shape, dtype=np.uint8),
        "bank": bank.astype(np.float32),
        "prior": np.linspace(0, 1, cfg.classes, dtype=np.float32),
    }


def passes(cfg, spec):
    aug = Aug(spec.size, scale=(0.5, 1.0), flip=0.5, **spec.aug)
    return {
        "image": Pass(View(aug=aug)),
        "shown": Pass(View("shown", aug), batched=False),
        "bank": Pass(cached="bank", batched=False),
    }


def init(cfg, rng, spec):
    return Vars()


def loss(cfg, params, ema, state, feats, batch, ctx):
    z, w, bank = (l2_normalize(feats[name].pooled) for name in ("image", "shown", "bank"))
    logits = 4.0 * z @ w.T + z @ bank.T + ctx.constants["prior"][None]
    target = batch["identity"] % cfg.classes
    picked = jnp.take_along_axis(logits, target[:, None], axis=1)[:, 0]
    return Loss({"softmax": Term.mean(jax.nn.logsumexp(logits, axis=1) - picked)})
