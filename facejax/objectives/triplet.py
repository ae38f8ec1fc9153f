"""FaceNet's triplets: an image is nearer to its own person than to others, by a margin.

Source: Schroff et al. 2015, arXiv:1503.03832, eq. 3, and section 6 for the harmonic form. On the
unit sphere, with d the squared distance, over all pairs (a, p) of two images of one person in the
global batch, each with one semi-hard negative n, for which d(a, p) < d(a, n) < d(a, p) + margin:

    loss = mean over pairs of max(0, d(a, p) - d(a, n) + margin)

to which pairs without a semi-hard negative contribute 0 (the paper sums). The paper does not say
which semi-hard negative it takes; here the nearest one, or any of them at random.

With `old`, an encoder of an earlier run, embeddings stay comparable with its own: a, p and n may
each come from the old encoder (which gets no gradient) or the new one, in every combination that
the new one takes part in; an image then also has its own old embedding for a positive. The mixed
combinations count `harmonic` times as much as the plain one, in all.

Batches need several images of a person: `data.sampler` = {"type": "pk", ...}. B images, D width.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from facejax.contracts import Aug, Ctx, Frozen, Loss, Params, Pass, Spec, Term, Vars, View
from facejax.errors import UserError
from facejax.ops import similarity
from facejax.ops.logits import product

SCOPE = "batch"


@dataclass(frozen=True)
class Config:
    """Options of `triplet`.

    Attributes:
        label: batch field of class numbers.
        margin: in squared distance, which is at most 4.
        pick: which of the semi-hard negatives, the "nearest" or a "random" one.
        flip: probability of a horizontal flip.
        old: a run or an export whose embeddings the new ones have to fit, or None.
        harmonic: weight of the triplets that old embeddings take part in.
    """

    label: str = "identity"
    margin: float = 0.2
    pick: Literal["nearest", "random"] = "nearest"
    flip: float = 0.5
    old: str | None = None
    harmonic: float = 1.0

    @classmethod
    def tiny(cls) -> "Config":
        return cls(margin=1.0)


def fields(cfg: Config) -> tuple[str, ...]:
    return (cfg.label,)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    view = View(aug=Aug(spec.size, flip=cfg.flip, **spec.aug))
    old = {} if cfg.old is None else {"old": Pass(view, weights=Frozen(cfg.old))}
    return {"new": Pass(view), **old}


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    return Vars()


def triplets(
    cfg: Config,
    a: jax.Array,
    p: jax.Array,
    n: jax.Array,
    same: jax.Array,
    pairs: jax.Array,
    known: jax.Array,
    rank: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The loss of every pair, and which pairs have a semi-hard negative.

    Args:
        a: f32[B, D], unit anchors.
        p: f32[B, D], unit positives.
        n: f32[B, D], unit negatives.
        same: bool[B, B], of one person.
        pairs: bool[B, B], anchors and their positives.
        known: bool[B], rows that may be negatives.
        rank: f32[B, B] in [0, 1), which of a pair's semi-hard negatives is picked: 0 the nearest.

    Returns:
        f32[B, B] and bool[B, B].
    """
    to_p = 2.0 - 2.0 * product(a, p)
    to_n = 2.0 - 2.0 * product(a, n)
    stranger = ~same & known[None]
    order = jnp.argsort(jnp.where(stranger, jax.lax.stop_gradient(to_n), jnp.inf), axis=1)
    ordered = jnp.take_along_axis(jnp.where(stranger, to_n, jnp.inf), order, axis=1)

    def first(row: jax.Array, bars: jax.Array, side: str) -> jax.Array:
        return jnp.searchsorted(row, bars, side=side)

    fixed = jax.lax.stop_gradient
    start = jax.vmap(first, (0, 0, None))(fixed(ordered), fixed(to_p), "right")
    end = jax.vmap(first, (0, 0, None))(fixed(ordered), fixed(to_p) + cfg.margin, "left")
    some = pairs & (end > start)
    place = start + jnp.floor(rank * (end - start)).astype(start.dtype)
    negative = jnp.take_along_axis(ordered, jnp.minimum(place, len(a) - 1), axis=1)
    each = to_p - jnp.where(some, negative, 0.0) + cfg.margin
    return jnp.where(some, each, 0.0), some


def loss(cfg: Config, params: Params, ema, state, feats, batch: Mapping, ctx: Ctx) -> Loss:
    versions = {name: similarity.l2_normalize(feats[name].pooled) for name in feats}
    new = versions["new"]
    if "old" in versions and versions["old"].shape != new.shape:
        what = f"its embeddings are {versions['old'].shape[1]} wide, the new ones {new.shape[1]}"
        raise UserError("old", what, "give the new encoder as wide a neck")
    known = batch[f"has_{cfg.label}"]
    labels = batch[cfg.label]
    same = (labels[:, None] == labels[None]) & known[:, None] & known[None]
    others = same & ~jnp.eye(len(new), dtype=bool)

    terms, share = {}, []
    for kinds in itertools.product(versions, repeat=3):
        if set(kinds) == {"old"}:
            continue
        name = "triplet" if set(kinds) == {"new"} else "_".join(kinds)
        a, p, n = (versions[kind] for kind in kinds)
        pairs = others if kinds[0] == kinds[1] else same
        each, some = triplets(cfg, a, p, n, same, pairs, known, _ranks(cfg, ctx, name, len(new)))
        weight = 1.0 if name == "triplet" else cfg.harmonic / 6
        terms[name] = Term(jnp.sum(each), jnp.sum(pairs, dtype=each.dtype), weight)
        share.append(jnp.sum(some) / jnp.maximum(jnp.sum(pairs), 1))
    cosines = product(new, new)
    wide = cosines.dtype
    return Loss(
        terms,
        metrics={
            "semi_hard": Term.mean(jnp.stack(share)),
            "pos_sim": _over(cosines, others, wide),
            "neg_sim": _over(cosines, ~same & known[:, None] & known[None], wide),
        },
    )


def _ranks(cfg: Config, ctx: Ctx, name: str, B: int) -> jax.Array:
    if cfg.pick == "nearest":
        return jnp.zeros((B, B))
    keys = ctx.draw.fold(name).keys()
    return jax.vmap(lambda key: jax.random.uniform(key, (B,)))(keys)


def _over(values: jax.Array, where: jax.Array, dtype) -> Term:
    values = jax.lax.stop_gradient(values)
    return Term(jnp.sum(jnp.where(where, values, 0)), jnp.sum(where, dtype=dtype))


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: its rows of the distances within and between the versions."""
    # The old ones to each other have no backward pass and count a third.
    tables = 1 if cfg.old is None else 3 + 1 / 3
    return 2 * tables * spec.global_batch * spec.towers["encoder"].embed
