"""BYOL: predict the other view's projection by a slow copy of oneself; there are no negatives.

Source: Grill et al. 2020, arXiv:2006.07733, eqs. 1 and 2, and google-deepmind/deepmind-research
(byol). With p = predict(project(f(x))) and the target projection z of the averaged encoder,

    loss = mean_i [ (2 - 2 cos(p_a, z_b)) + (2 - 2 cos(p_b, z_a)) ]     in [0, 8]

The momentum rises to 1 by half a cosine. BatchNorm uses the statistics of the global batch in both
networks. The average is taken after the optimiser's step, as in the paper.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Ctx, Ema, Loss, OwnEma, Pairs, Pass, Spec, Term, Vars
from facejax.objectives import _measures, _views
from facejax.ops import similarity
from facejax.schedule import Schedule

SCOPE = "batch"
MOMENTUM = Schedule("cosine", start=0.996, end=1.0)


@dataclass(frozen=True)
class Config(_views.Views):
    """Options of `byol`.

    Attributes:
        momentum: of the target encoder and its projector.
        hidden: width of the hidden layer of projector and predictor.
        out: width of the projection.
    """

    momentum: float | Schedule = MOMENTUM
    hidden: int = 4096
    out: int = 256

    @classmethod
    def tiny(cls) -> "Config":
        return cls(hidden=16, out=8)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    views, teacher = _views.several(cfg, spec), Ema(cfg.momentum)
    return {
        **{f"online_{name}": Pass(view) for name, view in views.items()},
        **{f"target_{name}": Pass(view, weights=teacher) for name, view in views.items()},
    }


def _head(cfg: Config) -> layers.MlpHead:
    """Projector and predictor have one shape."""
    return layers.MlpHead((cfg.hidden, cfg.out), norm="batch", final_bias=False)


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    r_projector, r_predictor = jax.random.split(rng)
    features = jnp.zeros((2, spec.towers["encoder"].embed))
    return Vars(
        params={
            "projector": _head(cfg).init(r_projector, features)["params"],
            "predictor": _head(cfg).init(r_predictor, jnp.zeros((2, cfg.out)))["params"],
        },
        ema={"target": OwnEma(("projector",), cfg.momentum)},
        pairs=cfg.out,
    )


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    def project(owner, name):
        return _head(cfg).apply({"params": owner["projector"]}, feats[name].pooled)

    p, z = {}, {}
    for name in ("a", "b"):
        predicted = _head(cfg).apply(
            {"params": params["predictor"]}, project(params, f"online_{name}")
        )
        p[name] = similarity.l2_normalize(predicted)
        z[name] = similarity.l2_normalize(project(ema["target"], f"target_{name}"))
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
    distance = 2 * (pairs.positive.any(axis=1) + similarity.attraction(pairs))
    return Loss(
        # Two directions, each a mean over its anchors.
        {"distance": Term.mean(distance * pairs.weight, weight=2.0)},
        metrics=_measures.compared(p["a"], z["b"]),
    )


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image; the target heads have no backward pass and count a third."""
    head = _head(cfg)
    return 2 * (head.flops(spec.towers["encoder"].embed) * 4 / 3 + head.flops(cfg.out))
