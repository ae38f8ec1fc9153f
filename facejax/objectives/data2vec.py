"""data2vec: predict, at masked patches, what an average of the encoder makes of the whole image.

Source: Baevski et al. 2022, arXiv:2202.03555, and facebookresearch/data2vec_vision. The teacher is
an exponential moving average of the student and sees every patch. With t the layer-normalised mean
(no scale or bias) of the outputs of its last `layers` blocks, and y the student's linear prediction
where the mask token stood in,

    loss = mean over masked patches and channels of smooth_l1(y - t)
    smooth_l1(d) = d^2 / (2 beta) if |d| < beta else |d| - beta / 2

Departures: the momentum rises linearly over the whole run; the reference lets it rise over its
first steps only (`steps` of the schedule does that). Positions are the encoder's.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Aug, Ctx, Ema, Features, Loss, Pass, Spec, Term, Vars, View
from facejax.errors import UserError
from facejax.objectives import _masked
from facejax.ops import masking
from facejax.schedule import Schedule

SCOPE = "sample"
MOMENTUM = Schedule("linear", start=0.999, end=0.9998)


@dataclass(frozen=True)
class Config:
    """Options of `data2vec`.

    Attributes:
        layers: how many of the teacher's last blocks are averaged.
        beta: where the smooth L1 loss turns from a square into a line.
        ratio: largest share of the patches that the block mask removes.
        momentum: of the teacher.
        scale: area range of the random resized crop.
        flip: probability of a horizontal flip.
        jitter: strength of brightness, contrast, saturation and hue, always applied.
        dtype: compute type of the head; follows the run's.
    """

    layers: int = 6
    beta: float = 2.0
    ratio: float = 120 / 196
    momentum: float | Schedule = MOMENTUM
    scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.0)
    dtype: str = "float32"

    @classmethod
    def tiny(cls) -> "Config":
        return cls(layers=1)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    aug = Aug(
        spec.size,
        scale=cfg.scale,
        ratio=(3 / 4, 4 / 3),
        flip=cfg.flip,
        jitter=cfg.jitter,
        jitter_p=1.0,
        **spec.aug,
    )
    mask = masking.Block(((cfg.ratio, cfg.ratio),))
    return {
        "student": Pass(View(aug=aug), mask, outputs=("tokens",)),
        "teacher": Pass(View(aug=aug), weights=Ema(cfg.momentum), outputs=("layers",)),
    }


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    """Raises UserError if the encoder has fewer blocks than are to be averaged."""
    tower = spec.towers["encoder"]
    if cfg.layers > tower.depth:
        what = f"{cfg.layers} blocks of an encoder that has {tower.depth}"
        raise UserError("layers", what, f"give {tower.depth} or fewer")
    head = layers.dense(tower.width).init(rng, jnp.zeros((1, tower.width)))
    return Vars(params={"head": head["params"]})


def target(cfg: Config, teacher: Features, prefix: int) -> jax.Array:
    """f32[B, N, D]: what to predict for every patch."""
    last = [_masked.wide(x[:, prefix:]) for x in teacher.layers[-cfg.layers :]]
    mean = sum(last) / len(last)
    centred = mean - mean.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    student, tower = feats["student"], ctx.spec.towers["encoder"]
    head = layers.dense(tower.width, dtype=cfg.dtype)
    pred = _masked.wide(head.apply({"params": params["head"]}, student.tokens))
    goal = target(cfg, feats["teacher"], tower.prefix)
    far = jnp.abs(pred - goal)
    each = jnp.where(far < cfg.beta, far**2 / (2 * cfg.beta), far - cfg.beta / 2).mean(-1)
    removed = (student.mask & masking.REMOVED).astype(jnp.float32)
    count = jnp.sum(removed)
    # 0 where all targets are the same: a teacher that has collapsed.
    spread = jnp.sum(jnp.std(goal, axis=1))
    metrics = {"target_std": Term(spread, jnp.float32(goal[:, 0].size))}
    return Loss({"smooth_l1": Term(jnp.sum(each * removed), count)}, metrics=metrics)


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image of the head."""
    tower, grid, _ = _masked.geometry(spec)
    return 2.0 * grid[0] * grid[1] * tower.width**2
