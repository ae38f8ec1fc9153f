"""Hallucinator: a generator of features makes one more query per anchor, for the same positive.

Source: Wu et al. 2023, arXiv:2307.12168, and its reference code. With u ~ U(0, 0.1), one number per
step, an anchor is pushed away from its positive and mixed with itself by a small network:

    e = (1 + u) q - u k,     h = MLP([q; e]),     queries q and h / |h|, both with the positive k

There are then twice as many anchors; the base's mean over them keeps its scale. What a queue takes
doubles too, so the queue's size must be a multiple of it. The generator learns from the base's own
loss; gradients stop where the base stops them (at k, under a momentum encoder).

Under bases whose negatives come from the batch, hallucinated queries meet the others' negatives and
are nobody's. Where an anchor has several positives, e is made with the first. The paper's first
view is a ContrastiveCrop with a fixed central box; views belong to the objective, and none has it.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Ctx, Loss, Pairs, Spec, Term, Vars
from facejax.modifiers import _anchors
from facejax.ops import similarity


@dataclass(frozen=True)
class Config:
    """Options of `hallucinator`.

    Attributes:
        reach: the most that an anchor is pushed away from its positive.
        hidden: width of the generator's two hidden layers; None is twice the pairs' width.
    """

    reach: float = 0.1
    hidden: int | None = None

    @classmethod
    def tiny(cls) -> "Config":
        return cls()


def _generator(cfg: Config, width: int) -> layers.MlpHead:
    return layers.MlpHead((cfg.hidden or 2 * width,) * 2 + (width,))


def init(cfg: Config, rng: jax.Array, spec: Spec, width: int) -> Vars:
    generator = _generator(cfg, width).init(rng, jnp.zeros((2, 2 * width)))["params"]
    return Vars(params={"generator": generator})


def pushed(q: jax.Array, k: jax.Array, u: jax.Array) -> jax.Array:
    """e: the anchor q [A, D], moved away from k [A, D] by the share u of their distance."""
    return (1 + u) * q - u * k


def transform(cfg: Config, params, state, pairs: Pairs, ctx: Ctx) -> tuple[Pairs, Loss]:
    given = _anchors.wide(pairs)
    A, P, D = given.k.shape
    u = cfg.reach * jax.random.uniform(ctx.draw.fold("reach").key)
    inputs = jnp.concatenate([given.q, pushed(given.q, given.k[:, 0], u)], axis=1)
    made = _generator(cfg, D).apply({"params": params["generator"]}, inputs)
    h = similarity.l2_normalize(made)
    out = dataclasses.replace(_anchors.repeat(given, 2), q=similarity.interleave(given.q, h))
    if given.qp is not None:
        itself = jnp.broadcast_to(h[:, None], (A, P, D))
        out = dataclasses.replace(out, qp=similarity.interleave(given.qp, itself))
    if given.enqueue is not None:
        out = dataclasses.replace(out, enqueue=jnp.repeat(given.enqueue, 2, axis=0))
    return out, Loss({}, metrics={"similarity": Term.mean(jnp.sum(given.q * h, axis=-1))})


def flops(cfg: Config, spec: Spec, width: int, negatives: int) -> float:
    """Forward FLOPs per image: the generator, and what the base does with one more anchor."""
    return _generator(cfg, width).flops(2 * width) + 2.0 * negatives * width
