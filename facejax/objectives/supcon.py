"""Supervised contrastive learning: views of images of one class attract each other.

Source: Khosla et al. 2020, arXiv:2004.11362, eq. 2, and HobbitLong/SupContrast. For anchor i among
the 2B unit projections of two views, P(i) the other rows of its class (its own second view among
them), s = <z, z'> / tau:

    loss = tau / base_tau * mean_i 1/|P(i)| sum_{p in P(i)} -log( e^{s_ip} / sum_{a != i} e^{s_ia} )

With all classes distinct this is half of `simclr`, which sums its two directions. An image without
a label is a class of its own.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Ctx, Loss, Pass, Spec, Term, Vars
from facejax.objectives import _measures, _views
from facejax.ops import similarity

SCOPE = "batch"


@dataclass(frozen=True)
class Config(_views.Views):
    """Options of `supcon`.

    Attributes:
        label: batch field of class numbers.
        tau: temperature.
        base_tau: temperature at which the loss has its plain scale.
        hidden: width of the projector's hidden layers.
        out: width of the projection.
        depth: linear layers of the projector.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    blur: tuple[float, float] = (0.0, 0.0)
    solarize: tuple[float, float] = (0.0, 0.0)
    label: str = "identity"
    tau: float = 0.07
    base_tau: float = 0.07
    hidden: int = 2048
    out: int = 128
    depth: int = 2

    @classmethod
    def tiny(cls) -> "Config":
        return cls(hidden=16, out=8)


def fields(cfg: Config) -> tuple[str, ...]:
    return (cfg.label,)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    return {name: Pass(view) for name, view in _views.several(cfg, spec).items()}


def _projector(cfg: Config) -> layers.MlpHead:
    return layers.MlpHead((cfg.hidden,) * (cfg.depth - 1) + (cfg.out,))


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    features = jnp.zeros((2, spec.towers["encoder"].embed))
    return Vars(params={"projector": _projector(cfg).init(rng, features)["params"]})


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    project = _projector(cfg).apply
    z_a, z_b = (
        similarity.l2_normalize(project({"params": params["projector"]}, feats[v].pooled))
        for v in ("a", "b")
    )
    # Class numbers are not negative, so these are nobody else's.
    alone = -1 - jnp.arange(len(z_a))
    owner = jnp.where(batch[f"has_{cfg.label}"], batch[cfg.label], alone)
    z = similarity.interleave(z_a, z_b)
    each = similarity.sup_con(z, jnp.repeat(owner, 2), cfg.tau)
    return Loss(
        {"supcon": Term.mean(each, weight=cfg.tau / cfg.base_tau)},
        metrics=_measures.compared(z_a, z_b),
    )


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: two projections, and this image's rows of the similarity matrix."""
    head = _projector(cfg).flops(spec.towers["encoder"].embed)
    return 2 * head + 2 * 2 * (2 * spec.global_batch) * cfg.out
