"""iBOT: DINO between crops, and the same between a masked patch and the teacher's unmasked one.

Source: Zhou et al. 2022, arXiv:2111.07832, and bytedance/ibot. The student sees the two global
crops with blocks of patches replaced by the mask token, and the local crops whole; the teacher, an
average of encoder and head, sees the global crops whole. Teacher logits g, student logits h, K
prototypes of one head for images and patches:

    P_t = softmax((g - c) / teacher_tau),    P_s = softmax(h / tau)
    image   mean over (t, s), t != s, and images of -sum_K P_t log P_s
    patch   mean over the global crops and images of
                sum over masked patches of -sum_K P_t log P_s / max(1, number of them)

Images and patches have centres and teacher temperatures of their own; each centre moves towards the
mean of the teacher's logits over the global batch, that of patches over all patches.

The share of masked patches is drawn per crop: none or 10 to 50 %, at equal odds. The head computes
masked patches only: the mean logits of all others come from their mean features, for the last layer
is linear.

Departures: the image's features are the encoder's pooled ones, which are the class token where
`pool` says so; linear layers start Xavier-uniform.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.config import Rule
from facejax.contracts import Ctx, Ema, Loss, OwnEma, Params, Pass, Spec, Term, Vars
from facejax.errors import UserError
from facejax.objectives import _views
from facejax.ops import centring, masking, similarity
from facejax.schedule import Schedule

SCOPE = "sample"
MOMENTUM = Schedule("cosine", start=0.996, end=1.0)
PATCH_TAU = Schedule("constant", start=0.07, warmup=0.1, warmup_start=0.04)
GLOBALS = ("global_0", "global_1")


@dataclass(frozen=True)
class Config(_views.Crops):
    """Options of `ibot`.

    Attributes:
        scale: area range of the two global crops.
        local_scale: area range of the local crops.
        local_crops: number of local crops.
        ratios: ranges of the share of masked patches; one is drawn at equal odds.
        tau: temperature of the student.
        teacher_tau: temperature of the teacher on images.
        patch_tau: temperature of the teacher on patches; rises over a tenth of the run.
        patch: weight of the loss on patches.
        momentum: of the teacher and its head.
        centre_momentum: of both centres.
        prototypes: number K of prototypes.
        hidden: width of the head's hidden layers.
        bottleneck: width of the features that are compared with prototypes.
        depth: linear layers of the head before the prototypes.
        frozen: steps (below 1: share of the run) during which the prototypes stay as they are.
    """

    scale: tuple[float, float] = (0.25, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.25)
    local_crops: int = 10
    ratios: tuple[tuple[float, float], ...] = ((0.0, 0.0), (0.1, 0.5))
    tau: float = 0.1
    teacher_tau: float | Schedule = 0.04
    patch_tau: float | Schedule = PATCH_TAU
    patch: float = 1.0
    momentum: float | Schedule = MOMENTUM
    centre_momentum: float = 0.9
    prototypes: int = 8192
    hidden: int = 2048
    bottleneck: int = 256
    depth: int = 3
    frozen: float = 0.01

    @classmethod
    def tiny(cls) -> "Config":
        return cls(local_crops=1, prototypes=16, hidden=16, bottleneck=8, depth=2, frozen=0.0)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    views, teacher, mask = _views.crops(cfg, spec), Ema(cfg.momentum), masking.Block(cfg.ratios)
    outputs = ("pooled", "tokens")
    return {
        name: Pass(view, mask, outputs=outputs) if name in GLOBALS else Pass(view)
        for name, view in views.items()
    } | {f"teacher_{n}": Pass(views[n], weights=teacher, outputs=outputs) for n in GLOBALS}


def _projector(cfg: Config) -> layers.MlpHead:
    return layers.MlpHead((cfg.hidden,) * (cfg.depth - 1) + (cfg.bottleneck,), activation="gelu")


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    """Raises UserError if images and patches have features of different width."""
    tower = spec.towers["encoder"]
    if tower.embed != tower.width:
        what = f"images of width {tower.embed} and patches of {tower.width} share a head"
        raise UserError("config.encoder.embed", what, "leave out the neck")
    r_projector, r_prototypes = jax.random.split(rng)
    z = jnp.zeros((1, cfg.bottleneck))
    return Vars(
        params={
            "projector": _projector(cfg).init(r_projector, jnp.zeros((1, tower.width)))["params"],
            "prototypes": layers.Prototypes(cfg.prototypes).init(r_prototypes, z)["params"],
        },
        state={"centre": jnp.zeros(cfg.prototypes), "patch_centre": jnp.zeros(cfg.prototypes)},
        ema={"teacher": OwnEma(("projector", "prototypes"), cfg.momentum)},
    )


def optim(cfg: Config) -> tuple[Rule, ...]:
    return (Rule("prototypes/", frozen_until=cfg.frozen),)


def _bottleneck(cfg: Config, params: Params, x: jax.Array) -> jax.Array:
    """f32[..., bottleneck] of unit length."""
    z = _projector(cfg).apply({"params": params["projector"]}, x)
    return similarity.l2_normalize(z)


def _logits(cfg: Config, params: Params, z: jax.Array) -> jax.Array:
    return layers.Prototypes(cfg.prototypes).apply({"params": params["prototypes"]}, z)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    teacher = ema["teacher"]
    students = [name for name in feats if not name.startswith("teacher_")]
    h = _logits(
        cfg, params, _bottleneck(cfg, params, jnp.stack([feats[n].pooled for n in students]))
    )
    seen = jnp.stack([feats[f"teacher_{n}"].pooled for n in GLOBALS])
    g = _logits(cfg, teacher, _bottleneck(cfg, teacher, seen))
    p = centring.centred(g, state["centre"], ctx.at(cfg.teacher_tau))
    # A student crop is held to the sum of its targets: its own image's teachers, but not itself.
    both = p[0] + p[1]
    images = [
        centring.cross_entropy(both if v > 1 else p[1 - v], h[v], cfg.tau)
        for v in range(len(students))
    ]
    B = h.shape[1]
    patches, logits = zip(*(_patches(cfg, params, teacher, state, feats, n, ctx) for n in GLOBALS))
    masked = [feats[n].mask & masking.REMOVED for n in GLOBALS]
    terms = {
        "image": Term(sum(map(jnp.sum, images)), jnp.float32(2 * (len(students) - 1) * B)),
        "patch": Term(sum(map(jnp.sum, patches)), jnp.float32(2 * B), cfg.patch),
    }
    stats = {"image": jnp.sum(g, axis=(0, 1)), "patch": sum(logits), "count": jnp.float32(2 * B)}
    metrics = {
        "entropy": Term.mean(centring.entropy(p)),
        "masked": Term.mean(jnp.stack(masked).astype(jnp.float32)),
    }
    return Loss(terms, stats=stats, metrics=metrics)


def _patches(cfg: Config, params: Params, teacher: Params, state, feats, name: str, ctx: Ctx):
    """f32[B], the loss on the patches of each image, and f32[K], the teacher's logits.

    The latter are means over the patches of an image, summed over images.
    """
    student = feats[name]
    most = masking.Block(cfg.ratios).most(student.mask.shape[1])
    places, masked = masking.removed_places(student.mask, most)

    def at_places(x):
        return jnp.take_along_axis(x, places[..., None], axis=1)

    h = _logits(cfg, params, _bottleneck(cfg, params, at_places(student.tokens)))
    z = _bottleneck(cfg, teacher, feats[f"teacher_{name}"].tokens)
    p = centring.centred(
        _logits(cfg, teacher, at_places(z)), state["patch_centre"], ctx.at(cfg.patch_tau)
    )
    each = jnp.where(masked, centring.cross_entropy(p, h, cfg.tau), 0.0)
    value = jnp.sum(each, axis=1) / jnp.maximum(jnp.sum(masked, axis=1), 1)
    return value, _logits(cfg, teacher, jnp.sum(z.mean(axis=1), axis=0))


def update(cfg: Config, params, state, stats, ctx: Ctx):
    def moved(centre, total):
        return centring.moved(centre, total / stats["count"], cfg.centre_momentum)

    return params, {
        "centre": moved(state["centre"], stats["image"]),
        "patch_centre": moved(state["patch_centre"], stats["patch"]),
    }


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image of the heads; teachers' have no backward and count a third."""
    tower = spec.towers["encoder"]
    rows, columns = tower.grid(spec.size)
    N = rows * columns
    most = masking.Block(cfg.ratios).most(N)
    project, name = _projector(cfg).flops(tower.width), 2 * cfg.bottleneck * cfg.prototypes
    student = (2 + cfg.local_crops + 2 * most) * (project + name)
    return student + 2 * ((1 + N) * project + (1 + most) * name) / 3
