"""What objectives of images and their texts share: towers, projections, the pairs that exist."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.contracts import Aug, Features, Frozen, Histogram, Params, Pass, Spec, Student, View
from facejax.errors import UserError, nearest
from facejax.ops.similarity import l2_normalize

FIELDS = ("text",)
MAX_SCALE = 100.0
"""Logits are never scaled by more (CLIP, arXiv:2103.00020, section 2.5)."""


@dataclass(frozen=True)
class Towers:
    """Options of a pair of towers.

    Attributes:
        project: which towers a linear map without bias follows; without, widths have to agree.
        out: width of the common space, where something is projected.
        frozen: run or export whose encoder stands in for the image tower and isn't trained (LiT).
        cached: batch field with image embeddings that were computed earlier; no image tower runs.
        scale: area range of the random resized crops.
        flip: probability of a horizontal flip.
    """

    project: str = "both"
    out: int = 512
    frozen: str | None = None
    cached: str | None = None
    scale: tuple[float, float] = (0.9, 1.0)
    flip: float = 0.0


PROJECT = {"both": ("image", "text"), "text": ("text",), "image": ("image",), "none": ()}


def projected(cfg: Towers) -> tuple[str, ...]:
    """The sides with a projection.

    Raises:
        UserError: no such choice.
    """
    if cfg.project not in PROJECT:
        raise UserError("project", f"no such choice '{cfg.project}'", nearest(cfg.project, PROJECT))
    return PROJECT[cfg.project]


def passes(cfg: Towers, spec: Spec) -> dict[str, Pass]:
    """The passes "image" and "text"."""
    if "encoder_text" not in spec.towers:
        raise UserError("config.encoder_text", "missing", "add a section with name 'text'")
    aug = Aug(spec.size, scale=cfg.scale, flip=cfg.flip, **spec.aug)
    weights = Frozen(cfg.frozen) if cfg.frozen and not cfg.cached else Student()
    return {
        "image": Pass(cached=cfg.cached) if cfg.cached else Pass(View(aug=aug), weights=weights),
        "text": Pass(View("text"), tower="encoder_text"),
    }


def init(cfg: Towers, rng: jax.Array, spec: Spec) -> Params:
    """Projections, normal with deviation 1 / sqrt(width) as CLIP's."""
    widths = {"image": spec.towers["encoder"].embed, "text": spec.towers["encoder_text"].embed}
    sides = projected(cfg)
    out = {side: cfg.out if side in sides else width for side, width in widths.items()}
    if out["image"] != out["text"]:
        what = f"images end in {out['image']} numbers, texts in {out['text']}"
        raise UserError("project", what, "project both, or make the towers' embeddings equal")
    keys = dict(zip(("image", "text"), jax.random.split(rng)))
    shapes = {side: (widths[side], cfg.out) for side in sides}
    return {
        side: {"kernel": jax.random.normal(keys[side], shape) / math.sqrt(shape[0])}
        for side, shape in shapes.items()
    }


def embedded(params: Params, side: str, pooled: jax.Array) -> jax.Array:
    """A tower's features [..., D] as unit vectors of the common space, fp32 or wider."""
    if side in params:
        pooled = pooled @ params[side]["kernel"]
    return l2_normalize(pooled)


def pairs(cfg: Towers, params: Params, feats: dict[str, Features], batch):
    """Unit vectors of images and texts [B, D], and bool[B]: the rows that have both."""
    there = batch["has_text"]
    if cfg.cached:
        there &= batch[f"has_{cfg.cached}"]
    x, y = (embedded(params, side, feats[side].pooled) for side in ("image", "text"))
    return x, y, there


def clamped(params: Params) -> Params:
    """`logit_scale` at ln 100 at most, and at 0 at least, as open_clip does after each step."""
    return {**params, "logit_scale": jnp.clip(params["logit_scale"], 0.0, math.log(MAX_SCALE))}


def metrics(x: jax.Array, y: jax.Array, there: jax.Array) -> dict[str, Histogram]:
    """Cosines of pairs, and of up to 256 rows with each other's texts."""
    some, those, real = x[:256], y[:256], there[:256]
    others = real[:, None] & real[None] & ~jnp.eye(len(some), dtype=bool)
    return {
        "positive": Histogram.of(jnp.sum(x * y, axis=-1), where=there),
        "negative": Histogram.of(some @ those.T, where=others),
    }


def flops(cfg: Towers, spec: Spec) -> float:
    """Forward FLOPs per pair: projections, and its rows of the similarities."""
    sides = projected(cfg)
    widths = {"image": spec.towers["encoder"].embed, "text": spec.towers["encoder_text"].embed}
    width = cfg.out if sides else widths["text"]
    return float(2 * cfg.out * sum(widths[s] for s in sides) + 2 * spec.global_batch * width)
