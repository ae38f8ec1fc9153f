"""What objectives of the margin softmax family share: class centres, their sampling, the softmax.

An objective says what the logit of an image's own class is, of its cosine; the rest is here. With
x an embedding, w_j the centre of class j, c_j = cos(x, w_j), y its class and z_y the target logit:

    loss = mean_i -log( e^{z_y} / (e^{z_y} + sum_{j != y} e^{scale c_j}) )

over the images whose class is known. The centres are one row-updated array over all devices. With
`sample_rate` below 1 it is Partial FC (An et al. 2022, arXiv:2203.15565), which departs from its
authors' code: classes are sampled in each of a fixed number of logical groups, whatever devices
there are, the classes of a batch are never dropped, and rows that were not sampled see neither
momentum nor decay.

What it needs of a device's memory is `bytes_per_device`.

B images, C classes, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from facejax.contracts import Aug, Ctx, Features, Loss, Params, Pass, Sparse, Spec, Term, Vars, View
from facejax.errors import UserError, nearest
from facejax.ops import classes, groups
from facejax.ops.similarity import l2_normalize

WORN = {
    "shrink": (0.5, 0.8),
    "shrink_p": 0.1,
    "hsv_p": 0.2,
    "gray_p": 0.1,
    "blur_p": 0.2,
    "blur_sigma": (1.6, 2.2),
}
"""arcface_torch's optional augmentations, at most 20 degrees of hue and 0.2 of saturation."""


@dataclass(frozen=True)
class Head:
    """Options of every margin objective.

    Attributes:
        label: batch field of class numbers.
        sample_rate: share of the classes that a step compares with.
        groups: logical groups of classes, each sampled by itself; the devices must divide it.
        momentum: of the centres' SGD.
        velocity: dtype in which its velocity is kept.
        weight_decay: of the centres.
        lr: of the centres, as a multiple of the run's.
        noise_filter: cosine to another class above which its logit counts as 0, or None; the
            inter-class filter of arcface_torch for labels with conflicts.
        precision: of the product of embeddings and centres; lower ones use faster units.
        flip: probability of a horizontal flip.
        degrade: probabilities of AdaFace's augmentations: all but a box black, a loss of
            resolution, changed brightness, contrast and saturation. AdaFace takes 0.2 for each.
        worn: in their place arcface_torch's optional augmentations: a loss of resolution (0.1),
            blur and a turn of hue and saturation (0.2 each), grayscale (0.1).
    """

    label: str = "identity"
    sample_rate: float = 1.0
    groups: int = 8
    momentum: float = 0.9
    velocity: Literal["float32", "bfloat16"] = "float32"
    weight_decay: float = 5e-4
    lr: float = 1.0
    noise_filter: float | None = None
    precision: Literal["highest", "high", "default"] = "high"
    flip: float = 0.5
    degrade: tuple[float, float, float] = (0.0, 0.0, 0.0)
    worn: bool = False


@dataclass(frozen=True)
class Scaled(Head):
    """Options of the objectives whose embeddings are of length one.

    Attributes:
        scale: of all cosines, the inverse of a temperature.
    """

    scale: float = 64.0


@dataclass(frozen=True)
class Scored:
    """A batch beside its own classes.

    Attributes:
        x: f32[B, D], unit embeddings.
        length: f32[B], of the embeddings before.
        cosine: f32[B], to the centre of the own class; in [-1, 1] and with its gradient.
        labels: i32[B], -1 where unknown.
        centres: [R, D], those that this step compares with.
        rows: i32[R], their classes.
    """

    x: jax.Array
    length: jax.Array
    cosine: jax.Array
    labels: jax.Array
    centres: jax.Array
    rows: jax.Array

    @property
    def known(self) -> jax.Array:
        return self.labels >= 0


def fields(cfg: Head) -> tuple[str, ...]:
    return (cfg.label,)


def passes(cfg: Head, spec: Spec) -> dict[str, Pass]:
    if cfg.worn:
        aug = Aug(spec.size, flip=cfg.flip, **WORN, **spec.aug)
        return {"image": Pass(View(aug=aug))}
    cut, shrink, jitter = cfg.degrade
    aug = Aug(
        spec.size,
        flip=cfg.flip,
        cut_p=cut,
        shrink_p=shrink,
        jitter=(0.5, 0.5, 0.5, 0.0) if jitter else (0.0, 0.0, 0.0, 0.0),
        jitter_p=jitter,
        **spec.aug,
    )
    return {"image": Pass(View(aug=aug))}


def init(cfg: Head, rng: jax.Array, spec: Spec) -> Vars:
    """Centres drawn from N(0, 0.01^2), as arcface_torch does.

    Raises:
        UserError: no source has such labels, or an option is out of its range.
    """
    C = spec.classes.get(cfg.label, 0)
    if not C:
        known = sorted(name for name, count in spec.classes.items() if count)
        raise UserError(
            "label", f"no source has classes of '{cfg.label}'", nearest(cfg.label, known)
        )
    if not 0 < cfg.sample_rate <= 1:
        raise UserError("sample_rate", f"{cfg.sample_rate} is no share", "give one in (0, 1]")
    if cfg.worn and any(cfg.degrade):
        raise UserError("worn", "set beside degrade", "set one of them")
    if cfg.groups < 1:
        raise UserError("groups", f"{cfg.groups} groups", "give at least 1")
    n, _ = groups.sizes(C, cfg.groups, cfg.sample_rate, spec.global_batch)
    value = 0.01 * jax.random.normal(rng, (cfg.groups * n, spec.towers["encoder"].embed))
    sparse = Sparse(
        value, cfg.momentum, cfg.weight_decay, cfg.lr, groups=cfg.groups, velocity=cfg.velocity
    )
    return Vars(sparse={"centres": sparse})


def rows(cfg: Head, params: Params, batch: Mapping[str, jax.Array], ctx: Ctx):
    labels = _labels(cfg, batch)
    C, key = ctx.spec.classes[cfg.label], ctx.draw.key
    return {"centres": groups.sample(labels, C, cfg.groups, cfg.sample_rate, key)}


def flops(cfg: Head, spec: Spec) -> float:
    """Forward FLOPs per image: the cosines to all centres of a step."""
    sizes = groups.sizes(spec.classes[cfg.label], cfg.groups, cfg.sample_rate, spec.global_batch)
    return 2 * spec.towers["encoder"].embed * cfg.groups * sizes[1]


def bytes_per_device(cfg: Head, spec: Spec, devices: int) -> int:
    """Memory that the head needs on each device while a step is under way.

    With n of the rows of centres on a device and S of them sampled, D wide, B images in the global
    batch and v bytes an element of the velocity (4, or 2 with bfloat16), it is

        (4 + v) n D                 centres and velocity
        8 S D, or 4 n D for all     the sampled centres and their gradient
        3 min(4 B S, chunk)         cosines, logits and their gradient
        16 B D                      all embeddings, and their gradient
    """
    D, B = spec.towers["encoder"].embed, spec.global_batch
    n, S = groups.sizes(spec.classes[cfg.label], cfg.groups, cfg.sample_rate, B)
    share = cfg.groups // devices
    velocity = jnp.dtype(cfg.velocity).itemsize
    sampled = 4 * n * D if n == S else 8 * S * D
    logits = 3 * min(4 * B * share * S, classes.CHUNK)
    return share * ((4 + velocity) * n * D + sampled) + logits + 16 * B * D


def _labels(cfg: Head, batch: Mapping[str, jax.Array]) -> jax.Array:
    return jnp.where(batch[f"has_{cfg.label}"], batch[cfg.label], -1)


def score(
    cfg: Head, params: Params, feats: Mapping[str, Features], batch: Mapping[str, Any], ctx: Ctx
) -> Scored:
    """Compares the batch with the centres of its own classes."""
    pooled = feats["image"].pooled
    pooled = pooled.astype(jnp.promote_types(pooled.dtype, jnp.float32))
    x, labels, rows = l2_normalize(pooled), _labels(cfg, batch), ctx.rows["centres"]
    cosine, centres = classes.at_labels(x, params["centres"], rows, labels)
    # A rounding error outside of [-1, 1] has no angle; the gradient does not end there.
    cosine += jax.lax.stop_gradient(jnp.clip(cosine, -1.0, 1.0) - cosine)
    return Scored(x, jnp.sum(pooled * x, axis=1), cosine, labels, centres, rows)


def sine(cosine: jax.Array) -> jax.Array:
    """sqrt(1 - cosine^2), with a gradient of zero where it would be infinite."""
    square = 1.0 - jnp.square(cosine)
    inside = square > 0
    return jnp.where(inside, jnp.sqrt(jnp.where(inside, square, 1.0)), 0.0)


def add_angle(cosine: jax.Array, margin: jax.Array | float) -> jax.Array:
    """cos(theta + margin), and cos(theta) - margin sin(margin) past pi - margin.

    There the cosine would rise again; the line goes on falling. Source: Deng et al. 2019,
    arXiv:1801.07698, eq. 3; the line is that of its authors' first code.
    """
    moved = cosine * jnp.cos(margin) - sine(cosine) * jnp.sin(margin)
    falls = cosine > -jnp.cos(margin)
    return jnp.where(falls, moved, cosine - margin * jnp.sin(margin))


def softmax(
    cfg: Head,
    scored: Scored,
    target: jax.Array,
    scale: jax.Array | float,
    ctx: Ctx,
    logits: classes.Logits | None = None,
    aux: Any = None,
) -> Loss:
    """The loss of the logits of the own classes, [B], beside those of all others.

    Args:
        scale: of the cosines to other classes, a number or [B].
        logits: (cosines, {"scale", **aux}) -> the logits of other classes; the default multiplies.
        aux: more arrays [B] that it wants.
    """
    return softmax_and_peak(cfg, scored, target, scale, ctx, logits, aux)[0]


def softmax_and_peak(
    cfg: Head,
    scored: Scored,
    target: jax.Array,
    scale: jax.Array | float,
    ctx: Ctx,
    logits: classes.Logits | None = None,
    aux: Any = None,
) -> tuple[Loss, jax.Array]:
    """What `softmax` returns, and the greatest logit of another class, [B]."""

    def others(cosines, aux):
        found = (logits or _multiplied)(cosines, aux)
        if cfg.noise_filter is None:
            return found
        return jnp.where(cosines > cfg.noise_filter, 0.0, found)

    scale = jnp.broadcast_to(jnp.asarray(scale, target.dtype), target.shape)
    log, peak = classes.log_others(
        scored.x,
        scored.centres,
        scored.rows,
        scored.labels,
        ctx.spec.classes[cfg.label],
        others,
        {"scale": scale, **(aux or {})},
        cfg.precision,
    )
    right = scale * scored.cosine >= peak
    found = Loss(
        {"softmax": over(scored, jnp.logaddexp(log, target) - target)},
        metrics={"cosine": over(scored, scored.cosine), "accuracy": over(scored, right)},
    )
    return found, peak


def _multiplied(cosines: jax.Array, aux: Mapping[str, jax.Array]) -> jax.Array:
    return aux["scale"] * cosines


def over(scored: Scored, values: jax.Array, weight: float = 1.0) -> Term:
    """The mean of `values` [B] over the images whose class is known."""
    known = scored.known
    values = jnp.where(known, values, 0).astype(scored.x.dtype)
    return Term(jnp.sum(values), jnp.sum(known, dtype=scored.x.dtype), weight)
