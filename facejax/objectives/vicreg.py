"""VICReg: two views agree, every feature varies over the batch, and features do not covary.

Source: Bardes et al. 2022, arXiv:2105.04906, eqs. 1 to 6, and facebookresearch/vicreg. With
x, y = expand(f(view)), D features, unbiased moments over the batch,

    loss = invariance * mean (x - y)^2
         + variance * [ v(x) + v(y) ] / 2,     v(x) = mean_d relu(1 - sqrt(var_d(x) + 1e-4))
         + covariance * [ c(x) + c(y) ],       c(x) = sum_{i != j} cov_ij(x)^2 / D

Only the first part is a sum over images. Of `Pairs` it takes anchors, positives and weights; the
other two keep to the expansions themselves, multiplied by the mean weight.
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
    """Options of `vicreg`.

    Attributes:
        invariance: weight of the distance between views.
        variance: weight of the hinge on standard deviations.
        covariance: weight of the covariances.
        hidden: width of the expander's hidden layers.
        out: width of the expansion.
        depth: linear layers of the expander.
    """

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    hidden: int = 8192
    out: int = 8192
    depth: int = 3

    @classmethod
    def tiny(cls) -> "Config":
        return cls(hidden=16, out=8, depth=2)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    return {name: Pass(view) for name, view in _views.several(cfg, spec).items()}


def _expander(cfg: Config) -> layers.MlpHead:
    widths = (cfg.hidden,) * (cfg.depth - 1) + (cfg.out,)
    return layers.MlpHead(widths, norm="batch", final_bias=False)


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    features = jnp.zeros((2, spec.towers["encoder"].embed))
    return Vars(params={"expander": _expander(cfg).init(rng, features)["params"]}, pairs=cfg.out)


def distance(pairs: Pairs) -> jax.Array:
    """f32[A]: the mean squared difference per feature, over the positives of each anchor."""
    q = pairs.q[:, None] if pairs.qp is None else pairs.qp
    each = jnp.where(pairs.positive, jnp.mean((q - pairs.k) ** 2, axis=-1), 0.0)
    return jnp.sum(each, 1) / jnp.maximum(jnp.sum(pairs.positive, 1), 1)


def spread(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(v, c) of features [B, D]: the hinge on deviations and the sum of squared covariances."""
    B, D = x.shape
    x = x - x.mean(0, keepdims=True)
    cov = jnp.matmul(x.T, x, precision=similarity.PRECISION) / max(B - 1, 1)
    deviation = jnp.sqrt(jnp.diagonal(cov) + 1e-4)
    others = jnp.where(jnp.eye(D, dtype=bool), 0.0, cov)
    return jnp.mean(jax.nn.relu(1 - deviation)), jnp.sum(others**2) / D


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    expand = _expander(cfg).apply
    x, y = (expand({"params": params["expander"]}, feats[v].pooled) for v in ("a", "b"))
    x, y = (z.astype(jnp.promote_types(z.dtype, jnp.float32)) for z in (x, y))
    B = len(x)
    pairs = ctx.modify(
        Pairs(
            q=x,
            k=y[:, None],
            neg=jnp.zeros((0, cfg.out)),
            tau=1.0,
            owner=jnp.arange(B),
            neg_owner=jnp.zeros(0, jnp.int32),
            positive=jnp.ones((B, 1), bool),
            weight=jnp.ones(B),
        )
    )
    (v_x, c_x), (v_y, c_y) = spread(x), spread(y)
    scale, one = jnp.mean(pairs.weight), jnp.float32(1)
    return Loss(
        {
            "invariance": Term.mean(distance(pairs) * pairs.weight, cfg.invariance),
            "variance": Term(scale * (v_x + v_y) / 2, one, cfg.variance),
            "covariance": Term(scale * (c_x + c_y), one, cfg.covariance),
        },
        metrics={"std": Term.mean(similarity.deviation(similarity.l2_normalize(x)))},
    )


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: two expansions, and this image's part of two covariances."""
    return 2 * (_expander(cfg).flops(spec.towers["encoder"].embed) + 2 * cfg.out**2)
