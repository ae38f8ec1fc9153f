"""ISR: crops of two frames of a video are matched, and each match is a pair of one identity.

Source: Dou et al. 2023, arXiv:2308.08887. Its training code is not public: the matching is the
paper's, the form of the reliability and of the loss around it is derived from the abstract. With
unit projections z of all crops of the batch, W = z z^T without gradient, and for each clip the
crops X of one frame and Y of the frame `delta` later,

    A* = the matching of X and Y, each crop at most once, with the largest sum of W
    r_i = (softmax over Y of W_i. / tau_r + softmax over X of W_.j / tau_r) / 2 at the match j of i
    loss = sum_i r_i l_i / sum_i r_i,    l = InfoNCE of a match against all other crops

Both crops of a match are anchors. Crops without a match are negatives only.

The data: every row is one crop, with class numbers `clip` (whose crops may be matched) and `frame`
(when it was seen, counted so that frames to be matched differ by `delta`). `config.data.group`
keeps the crops of a clip in one batch. The matching is an auction on the device (`ops.matching`).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Aug, Ctx, Histogram, Loss, Pairs, Pass, Spec, Term, Vars, View
from facejax.ops import matching, similarity

SCOPE = "batch"
FIELDS = ("clip", "frame")


@dataclass(frozen=True)
class Config:
    """Options of `isr`; the paper's are unknown but for `out`.

    Attributes:
        tau: temperature of InfoNCE.
        tau_r: temperature of the reliability; None weighs all matches alike.
        delta: frames between the crops of a pair.
        uncertain: whether crops of another frame of the same clip, which may show the same person,
            are negatives. Other crops of one's own frame always are: they show somebody else.
        out: width of the linear projection.
        scale: area range of the random resized crop.
        jitter: strength of brightness, contrast, saturation and hue.
        flip: probability of a horizontal flip.
    """

    tau: float = 0.1
    tau_r: float | None = 0.1
    delta: int = 1
    uncertain: bool = True
    out: int = 512
    scale: tuple[float, float] = (0.5, 1.0)
    jitter: tuple[float, float, float, float] = (0.2, 0.2, 0.1, 0.0)
    flip: float = 0.5

    @classmethod
    def tiny(cls) -> "Config":
        return cls(out=16)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    aug = Aug(
        spec.size, cfg.scale, ratio=(3 / 4, 4 / 3), flip=cfg.flip, jitter=cfg.jitter, **spec.aug
    )
    return {"crop": Pass(View(aug=aug))}


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    features = jnp.zeros((1, spec.towers["encoder"].embed))
    projector = layers.dense(cfg.out, use_bias=False).init(rng, features)["params"]
    return Vars(params={"projector": projector}, pairs=cfg.out)


def matches(cfg: Config, z: jax.Array, clip: jax.Array, frame: jax.Array, known: jax.Array):
    """Who is matched with whom, and how reliably.

    Args:
        z: [B, D], unit vectors.
        clip: i32[B].
        frame: i32[B].
        known: bool[B], whose clip and frame are known.

    Returns:
        The row of the later crop that each row is matched with, i32[B], -1 for none, and the
        reliability of that match, [B], 0 for none; no gradient.
    """
    z = jax.lax.stop_gradient(z)
    weight = jnp.matmul(z, z.T, precision=similarity.PRECISION)
    known = known[:, None] & known[None]
    later = known & (clip[:, None] == clip[None]) & (frame[None] - frame[:, None] == cfg.delta)
    match = matching.assign_blocks(weight, later)
    matched = match >= 0
    if cfg.tau_r is None:
        return match, matched.astype(z.dtype)
    logits = jnp.where(later, weight / cfg.tau_r, -jnp.inf)
    place = (jnp.arange(len(z)), match)
    # A row or a column without candidates is -inf throughout; nobody is matched there.
    shares = [jnp.exp(logits - jax.nn.logsumexp(logits, axis, keepdims=True)) for axis in (0, 1)]
    return match, jnp.where(matched, (shares[0][place] + shares[1][place]) / 2, 0.0)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    project = layers.dense(cfg.out, use_bias=False).apply
    z = similarity.l2_normalize(project({"params": params["projector"]}, feats["crop"].pooled))
    clip, frame, known = batch["clip"], batch["frame"], batch["has_clip"] & batch["has_frame"]
    match, reliability = matches(cfg, z, clip, frame, known)
    B, row = len(z), jnp.arange(len(z))
    back = jnp.full(B, -1).at[jnp.where(match < 0, B, match)].set(row, mode="drop")
    # Every row is an anchor twice: as the earlier and as the later crop of a match.
    partner = jnp.concatenate([match, back])
    weight = jnp.concatenate([reliability, jnp.where(back < 0, 0.0, reliability[back])])

    allowed = partner[:, None] != row[None]
    if not cfg.uncertain:
        unsure = (clip[:, None] == clip[None]) & (frame[:, None] != frame[None])
        allowed &= ~jnp.tile(unsure & known[:, None] & known[None], (2, 1))
    pairs = ctx.modify(
        Pairs(
            q=jnp.concatenate([z, z]),
            k=z[partner][:, None],
            neg=z,
            tau=cfg.tau,
            owner=jnp.concatenate([row, row]),
            neg_owner=row,
            positive=(partner >= 0)[:, None],
            weight=weight,
            allowed=allowed,
        )
    )
    each = similarity.info_nce(pairs) * pairs.weight
    total = jnp.sum(pairs.weight)
    value = jnp.sum(each) / jnp.where(total > 0, total, 1.0)
    matched = jnp.sum(match >= 0).astype(jnp.float32)
    similar = jnp.sum(z * z[match], -1)
    metrics = {
        "matched": Term(matched, jnp.float32(B)),
        "reliability": Term(jnp.sum(reliability), matched),
        "positive": Histogram.of(similar, where=match >= 0),
    }
    return Loss({"info_nce": Term(value, jnp.float32(1))}, metrics=metrics)


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: projection, W, and the similarities of two anchors."""
    return 2 * spec.towers["encoder"].embed * cfg.out + 2 * 3 * spec.global_batch * cfg.out
