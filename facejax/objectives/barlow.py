"""Barlow Twins: features of two views correlate with themselves and with no other feature.

Source: Zbontar et al. 2021, arXiv:2103.03230, eqs. 1 and 2, and facebookresearch/barlowtwins. With
the projections of two views and C their D x D correlations over the batch,

    loss = sum_i (1 - C_ii)^2 + redundancy * sum_{i != j} C_ij^2

The projections are not scaled to unit length, and the loss is not a sum over images, so of `Pairs`
the weights count thus: C is the correlation over pairs (an anchor and a positive of it), each with
the share that its weight has, and the loss is multiplied by the mean weight. Weights that sum to B
leave the scale as it is; weights of zero switch the loss off.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Ctx, Loss, Pairs, Pass, Spec, Term, Vars
from facejax.objectives import _views
from facejax.ops import similarity

SCOPE = "batch"


@dataclass(frozen=True)
class Config(_views.Views):
    """Options of `barlow`.

    Attributes:
        redundancy: weight of the correlations between different features.
        hidden: width of the projector's hidden layers.
        out: width of the projection.
        depth: linear layers of the projector.
    """

    redundancy: float = 0.0051
    hidden: int = 8192
    out: int = 8192
    depth: int = 3

    @classmethod
    def tiny(cls) -> "Config":
        return cls(hidden=16, out=8, depth=2)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    return {name: Pass(view) for name, view in _views.several(cfg, spec).items()}


def _projector(cfg: Config) -> layers.MlpHead:
    widths = (cfg.hidden,) * (cfg.depth - 1) + (cfg.out,)
    return layers.MlpHead(widths, norm="batch", final_bias=False)


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    features = jnp.zeros((2, spec.towers["encoder"].embed))
    return Vars(params={"projector": _projector(cfg).init(rng, features)["params"]}, pairs=cfg.out)


def _standardised(x: jax.Array, share: jax.Array) -> jax.Array:
    """Features [n, D] with weighted mean 0 and variance 1 over the rows; shares [n, 1]."""
    centred = x - jnp.sum(share * x, axis=0, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.sum(share * centred**2, axis=0, keepdims=True) + 1e-5)


def correlation(pairs: Pairs) -> jax.Array:
    """C, f32[D, D] (wider if the features are), over all anchors and their positives."""
    A, P, D = pairs.k.shape
    q = jnp.broadcast_to(pairs.q[:, None], (A, P, D)) if pairs.qp is None else pairs.qp
    weight = jnp.where(pairs.positive, pairs.weight[:, None], 0.0).reshape(-1, 1)
    total = jnp.sum(weight)
    share = weight / jnp.where(total > 0, total, 1.0)
    x, y = (_standardised(z.reshape(-1, D), share) for z in (q, pairs.k))
    return jnp.matmul((share * x).T, y, precision=similarity.PRECISION)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    project = _projector(cfg).apply
    z_a, z_b = (project({"params": params["projector"]}, feats[v].pooled) for v in ("a", "b"))
    z_a, z_b = (z.astype(jnp.promote_types(z.dtype, jnp.float32)) for z in (z_a, z_b))
    B = len(z_a)
    pairs = ctx.modify(
        Pairs(
            q=z_a,
            k=z_b[:, None],
            neg=jnp.zeros((0, cfg.out)),
            tau=1.0,
            owner=jnp.arange(B),
            neg_owner=jnp.zeros(0, jnp.int32),
            positive=jnp.ones((B, 1), bool),
            weight=jnp.ones(B),
        )
    )
    C, scale = correlation(pairs), jnp.mean(pairs.weight)
    own = jnp.diagonal(C)
    others = jnp.where(jnp.eye(cfg.out, dtype=bool), 0.0, C)
    one = jnp.float32(1)
    return Loss(
        {
            "invariance": Term(scale * jnp.sum((1 - own) ** 2), one),
            "redundancy": Term(scale * jnp.sum(others**2), one, cfg.redundancy),
        },
        metrics={"correlation": Term.mean(own)},
    )


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: two projections, and this image's part of the correlations."""
    return 2 * _projector(cfg).flops(spec.towers["encoder"].embed) + 2 * cfg.out**2
