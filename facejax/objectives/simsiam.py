"""SimSiam: predict the other view's projection, with a stopped gradient in place of a slow copy.

Source: Chen & He 2021, arXiv:2011.10566, alg. 1 and eq. 4, and facebookresearch/simsiam. With
z = project(f(x)) and p = predict(z),

    loss = -[ mean_i cos(p_a, sg z_b) + mean_i cos(p_b, sg z_a) ] / 2     in [-1, 1]

The learning rate of the predictor stays at its peak. The curve "std" is near 1 / sqrt(out) as long
as the projections spread, and 0 where they have collapsed.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.config import Rule
from facejax.contracts import Ctx, Loss, Pairs, Pass, Spec, Term, Vars
from facejax.objectives import _measures, _views
from facejax.ops import similarity
from facejax.schedule import Schedule

SCOPE = "batch"


@dataclass(frozen=True)
class Config(_views.Views):
    """Options of `simsiam`.

    Attributes:
        hidden: width of the projector's hidden layers.
        out: width of the projection.
        bottleneck: width of the predictor's hidden layer.
        depth: linear layers of the projector.
        constant_lr: keep the predictor's learning rate at its peak.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    blur: tuple[float, float] = (0.5, 0.5)
    solarize: tuple[float, float] = (0.0, 0.0)
    hidden: int = 2048
    out: int = 2048
    bottleneck: int = 512
    depth: int = 3
    constant_lr: bool = True

    @classmethod
    def tiny(cls) -> "Config":
        return cls(hidden=16, out=8, bottleneck=8, depth=2)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    return {name: Pass(view) for name, view in _views.several(cfg, spec).items()}


def _projector(cfg: Config) -> layers.MlpHead:
    widths = (cfg.hidden,) * (cfg.depth - 1) + (cfg.out,)
    return layers.MlpHead(widths, norm="batch", final_norm=True)


def _predictor(cfg: Config) -> layers.MlpHead:
    return layers.MlpHead((cfg.bottleneck, cfg.out), norm="batch")


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    r_projector, r_predictor = jax.random.split(rng)
    features = jnp.zeros((2, spec.towers["encoder"].embed))
    params = {
        "projector": _projector(cfg).init(r_projector, features)["params"],
        "predictor": _predictor(cfg).init(r_predictor, jnp.zeros((2, cfg.out)))["params"],
    }
    return Vars(params=params, pairs=cfg.out)


def optim(cfg: Config) -> tuple[Rule, ...]:
    return (Rule("predictor/", schedule=Schedule("constant")),) if cfg.constant_lr else ()


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    p, z = {}, {}
    for name in ("a", "b"):
        projected = _projector(cfg).apply({"params": params["projector"]}, feats[name].pooled)
        predicted = _predictor(cfg).apply({"params": params["predictor"]}, projected)
        p[name] = similarity.l2_normalize(predicted)
        z[name] = similarity.l2_normalize(jax.lax.stop_gradient(projected))
    B = len(p["a"])
    pairs = ctx.modify(
        Pairs(
            q=similarity.interleave(p["a"], p["b"]),
            k=similarity.interleave(z["b"], z["a"])[:, None],
            neg=jnp.zeros((0, cfg.out)),
            tau=1.0,
            owner=jnp.repeat(jnp.arange(B), 2),
            neg_owner=jnp.zeros(0, jnp.int32),
            positive=jnp.ones((2 * B, 1), bool),
            weight=jnp.ones(2 * B),
        )
    )
    return Loss(
        {"cosine": Term.mean(similarity.attraction(pairs) * pairs.weight)},
        metrics=_measures.compared(z["a"], z["b"]),
    )


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: both heads on both views."""
    projector, predictor = _projector(cfg), _predictor(cfg)
    return 2 * (projector.flops(spec.towers["encoder"].embed) + predictor.flops(cfg.out))
