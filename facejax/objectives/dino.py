"""DINO: the student names, from any crop, the prototypes that a slow teacher sees in large ones.

Source: Caron et al. 2021, arXiv:2104.14294, alg. 1, and facebookresearch/dino. Teacher logits g of
the two global crops (averaged encoder and head) and student logits h of all crops, K prototypes:

    P_t = softmax((g - c) / teacher_tau),    P_s = softmax(h / tau)
    loss = mean over (t, s), t != s, and images of -sum_K P_t log P_s
    c <- centre_momentum c + (1 - centre_momentum) mean(g)       mean over the global batch, both t

The head is an MLP to a bottleneck, unit length, and prototypes of unit length (weight normalisation
with its gain fixed to 1). `teacher_tau` takes a schedule; the authors recommend 0.04 rising to 0.07
over 30 epochs. The prototypes are `frozen` at first, in the paper for one epoch. Crops keep the
paper's share of the image's side.

Departures: linear layers start Xavier-uniform, as everywhere here, instead of from a truncated
normal of deviation 0.02.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.config import Rule
from facejax.contracts import Ctx, Ema, Histogram, Loss, OwnEma, Pass, Spec, Term, Vars
from facejax.objectives import _views
from facejax.ops import centring, similarity
from facejax.schedule import Schedule

SCOPE = "batch"
MOMENTUM = Schedule("cosine", start=0.996, end=1.0)


@dataclass(frozen=True)
class Config(_views.Crops):
    """Options of `dino`.

    Attributes:
        tau: temperature of the student.
        teacher_tau: temperature of the teacher.
        momentum: of the teacher and its head.
        centre_momentum: of the centre.
        prototypes: number K of prototypes.
        hidden: width of the head's hidden layers.
        bottleneck: width of the features that are compared with prototypes.
        depth: linear layers of the head before the prototypes.
        frozen: steps (below 1: share of the run) during which the prototypes stay as they are.
    """

    tau: float = 0.1
    teacher_tau: float | Schedule = 0.04
    momentum: float | Schedule = MOMENTUM
    centre_momentum: float = 0.9
    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    depth: int = 3
    frozen: float = 0.01

    @classmethod
    def tiny(cls) -> "Config":
        return cls(local_crops=1, prototypes=16, hidden=16, bottleneck=8, depth=2, frozen=0.0)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    views, teacher = _views.crops(cfg, spec), Ema(cfg.momentum)
    return {
        **{name: Pass(view) for name, view in views.items()},
        **{f"teacher_{i}": Pass(views[f"global_{i}"], weights=teacher) for i in range(2)},
    }


def _projector(cfg: Config) -> layers.MlpHead:
    return layers.MlpHead((cfg.hidden,) * (cfg.depth - 1) + (cfg.bottleneck,), activation="gelu")


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    r_projector, r_prototypes = jax.random.split(rng)
    features, z = jnp.zeros((2, spec.towers["encoder"].embed)), jnp.zeros((2, cfg.bottleneck))
    prototypes = layers.Prototypes(cfg.prototypes)
    return Vars(
        params={
            "projector": _projector(cfg).init(r_projector, features)["params"],
            "prototypes": prototypes.init(r_prototypes, z)["params"],
        },
        state={"centre": jnp.zeros(cfg.prototypes)},
        ema={"teacher": OwnEma(("projector", "prototypes"), cfg.momentum)},
    )


def optim(cfg: Config) -> tuple[Rule, ...]:
    return (Rule("prototypes/", frozen_until=cfg.frozen),)


def _head(cfg: Config, params, feats, names) -> tuple[jax.Array, jax.Array]:
    """(z [V, B, bottleneck] of unit length, logits [V, B, K]) of the passes `names`."""
    x = jnp.stack([feats[name].pooled for name in names])
    z = _projector(cfg).apply({"params": params["projector"]}, x)
    z = similarity.l2_normalize(z)
    return z, layers.Prototypes(cfg.prototypes).apply({"params": params["prototypes"]}, z)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    names = [name for name in feats if not name.startswith("teacher_")]
    z, h = _head(cfg, params, feats, names)
    _, g = _head(cfg, ema["teacher"], feats, ("teacher_0", "teacher_1"))
    p = centring.centred(g, state["centre"], ctx.at(cfg.teacher_tau))
    # A student crop is held to the sum of its targets: its own image's teachers, but not itself.
    both = p[0] + p[1]
    each = [
        centring.cross_entropy(both if v > 1 else p[1 - v], h[v], cfg.tau)
        for v in range(len(names))
    ]
    terms, B = 2 * (len(names) - 1), h.shape[1]
    return Loss(
        {"cross_entropy": Term(sum(map(jnp.sum, each)), jnp.float32(terms * B))},
        stats=centring.mean_logits(g),
        metrics={
            "positive": Histogram.of(jnp.sum(z[0] * z[1], axis=-1)),
            "std": Term.mean(similarity.deviation(z[0])),
            "entropy": Term.mean(centring.entropy(p)),
            "usage": Term.mean(centring.entropy(p.mean((0, 1)))),
        },
    )


def update(cfg: Config, params, state, stats, ctx: Ctx):
    return params, {"centre": centring.moved(state["centre"], stats, cfg.centre_momentum)}


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image; the two teacher heads have no backward pass and count a third."""
    head = _projector(cfg).flops(spec.towers["encoder"].embed) + 2 * cfg.bottleneck * cfg.prototypes
    return (2 + cfg.local_crops + 2 / 3) * head
