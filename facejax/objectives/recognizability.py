"""ArcFace with an index of how recognisable a face is, and attention to what can be recognised.

Source: Chai et al. 2023, arXiv:2304.10066; no code was published and the equations were read
second-hand, so the forms below are reconstructions [M]. With v the unit embedding, u the unit mean
embedding of faces made unrecognisable by blur, theta_P and theta_N the angles to the own and to the
nearest other centre:

    index      xi = (1 - <v, u>) theta_N / (theta_P + theta_N), not differentiated; a small head
               predicts it from the embedding, by smooth-L1 with beta 0.75
    diversion  mean max(0, gap - (predicted - mu) / sigma), mu and sigma those of what the head
               predicts for unrecognisable faces: recognisable ones are kept above them
    attention  an embedding pooled from the last feature map by attention follows
               v - <v, u> u, which is not differentiated, by mean squared error

and z_y, the logits and the centres are those of `arcface`. u, mu and sigma are running means.
Unrecognisable faces go through an average of the encoder, so that they do not enter its running
statistics. B images, N tokens, D width.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from facejax.contracts import Aug, Ctx, Ema, Loss, Pass, Spec, Vars, View
from facejax.layers import dense
from facejax.objectives import _margin
from facejax.objectives._margin import fields as fields
from facejax.objectives._margin import rows as rows
from facejax.ops.similarity import l2_normalize

SCOPE = "batch"
BETA = 0.75


@dataclass(frozen=True)
class Config(_margin.Scaled):
    """Options of `recognizability`.

    Attributes:
        margin: of ArcFace, in radians.
        blur: range of the sigma that makes a face unrecognisable, in pixels of a 224-pixel view.
        momentum: of the encoder's average that sees unrecognisable faces.
        rate: of the running means u, mu and sigma.
        dropout: of the head's input.
        gap: how many sigma the index of a face should be above that of unrecognisable ones.
        weight_index: of the index.
        weight_diversion: of the diversion.
        weight_attention: of the attention.
    """

    margin: float = 0.5
    blur: tuple[float, float] = (12.0, 24.0)
    momentum: float = 0.99
    rate: float = 0.01
    dropout: float = 0.4
    gap: float = 3.0
    weight_index: float = 1.0
    weight_diversion: float = 1.0
    weight_attention: float = 1.0

    @classmethod
    def tiny(cls) -> "Config":
        return cls(scale=8.0)


class _Attention(nn.Module):
    """[B, N, C] to [B, D]: tokens weighted by attention, then a Linear."""

    width: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
        weight = jax.nn.softmax(dense(1, name="score")(tokens), axis=1)
        return dense(self.width, name="out")(jnp.sum(weight * tokens, axis=1))


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    poor = Aug(spec.size, blur_p=1.0, blur_sigma=cfg.blur, **spec.aug)
    image = _margin.passes(cfg, spec)["image"]
    return {
        "image": dataclasses.replace(image, outputs=("pooled", "tokens")),
        "poor": Pass(View(aug=poor, draw="poor"), weights=Ema(cfg.momentum)),
    }


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    tower = spec.towers["encoder"]
    head, attention = jax.random.split(jax.random.fold_in(rng, 1))
    tokens = jnp.zeros((1, 1, tower.width))
    return Vars(
        params={
            "index": dense(1).init(head, jnp.zeros((1, tower.embed)))["params"],
            "attention": _Attention(tower.embed).init(attention, tokens)["params"],
        },
        state={
            "direction": jnp.zeros(tower.embed),
            "mean": jnp.float32(0),
            "deviation": jnp.float32(1),
        },
        sparse=_margin.init(cfg, rng, spec).sparse,
    )


def index(to_poor: jax.Array, own: jax.Array, other: jax.Array) -> jax.Array:
    """xi: it grows with the distance to unrecognisable faces and to other people.

    Args:
        to_poor: [B], 1 - <v, u>.
        own: [B], angle to the own centre.
        other: [B], angle to the nearest other one.
    """
    return to_poor * other / jnp.maximum(own + other, 1e-6)


def predict(params, x: jax.Array) -> jax.Array:
    """The index that the head reads off unit embeddings [B, D]."""
    return dense(1).apply({"params": params["index"]}, x)[:, 0]


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    scored = _margin.score(cfg, params, feats, batch, ctx)
    target = cfg.scale * _margin.add_angle(scored.cosine, cfg.margin)
    found, peak = _margin.softmax_and_peak(cfg, scored, target, cfg.scale, ctx)

    poor = jax.lax.stop_gradient(l2_normalize(feats["poor"].pooled))
    state = _moved(cfg, params, state, poor)
    v, u = scored.x, state["direction"].astype(scored.x.dtype)
    along = jax.lax.stop_gradient(v @ u)
    own, other = (jnp.arccos(jnp.clip(c, -1, 1)) for c in (scored.cosine, peak / cfg.scale))
    xi = jax.lax.stop_gradient(index(1 - along, own, other))

    predicted = predict(params, _dropped(cfg, v, ctx))
    gap = jnp.abs(predicted - xi)
    smooth = jnp.where(gap < BETA, gap**2 / (2 * BETA), gap - BETA / 2)
    above = (predicted - state["mean"]) / jnp.maximum(state["deviation"], 1e-6)
    pooled = _Attention(v.shape[1]).apply({"params": params["attention"]}, feats["image"].tokens)
    clear = jax.lax.stop_gradient(v - jnp.outer(along, u))
    apart = jnp.mean(jnp.square(pooled - clear), axis=1)

    found.terms["index"] = _margin.over(scored, smooth, cfg.weight_index)
    short = jnp.maximum(0.0, cfg.gap - above)
    found.terms["diversion"] = _margin.over(scored, short, cfg.weight_diversion)
    found.terms["attention"] = _margin.over(scored, apart, cfg.weight_attention)
    found.metrics["xi"] = _margin.over(scored, xi)
    found.metrics["to_poor"] = _margin.over(scored, 1 - along)
    return Loss(found.terms, state, found.metrics)


def _dropped(cfg: Config, x: jax.Array, ctx: Ctx) -> jax.Array:
    keys = ctx.draw.fold("dropout").keys()
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - cfg.dropout, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - cfg.dropout), 0.0)


def _moved(cfg: Config, params, state, poor: jax.Array):
    """u, mu and sigma after this batch; none of it passes a gradient."""
    predicted = jax.lax.stop_gradient(predict(params, poor))
    seen = {
        "direction": jnp.mean(poor, axis=0),
        "mean": jnp.mean(predicted),
        "deviation": jnp.std(predicted),
    }
    new = {k: (1 - cfg.rate) * state[k] + cfg.rate * seen[k] for k in seen}
    # Before the first batch there is nothing to average with.
    first = jnp.all(state["direction"] == 0)
    new = {k: jnp.where(first, seen[k], new[k]) for k in new}
    return {**new, "direction": l2_normalize(new["direction"])}


def update(cfg: Config, params, state, stats, ctx: Ctx):
    return params, jax.tree.map(lambda new, old: new.astype(old.dtype), stats, state)


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: the cosines to all centres, both heads."""
    tower = spec.towers["encoder"]
    return _margin.flops(cfg, spec) + 4 * tower.embed + 2 * tower.width * tower.embed
