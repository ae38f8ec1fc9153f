"""BEiT: name the visual code of every masked patch.

Source: Bao et al. 2022, arXiv:2106.08254, and microsoft/unilm. Blocks of patches are masked, the
mask token stands in for them, and a Linear over the encoder's normed tokens names each one's code c
among K:

    loss = mean over masked patches of -log softmax(logits)[c]

Where the codes come from is the departure. The paper's are those of a frozen discrete VAE of 8192
codes, trained elsewhere. Here `codes` is one of

- "field": the records bring them, i32[N] per image as the batch field `codes`, made by whatever
  tokenizer. They belong to the places of the whole image, so crops and flips are off.
- "kmeans": the nearest of K centres in the pixels of the patch, averaged down to 8 x 8 or less.
  The centres are learned online from masked patches during the first `learn` of the run, by
  k-means with exponentially decayed counts (as van den Oord et al. 2017, arXiv:1711.00937, app. A);
  a centre that nothing is assigned to restarts at a random patch of the batch. After that they are
  frozen. Until then targets move, so the loss of those steps is not comparable. Such codes are of
  colour and edges: this is BEiT's loss, not its tokenizer.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Aug, Ctx, Loss, Pass, Spec, Term, Vars, View
from facejax.objectives import _masked
from facejax.ops import masking

SCOPE = "sample"


@dataclass(frozen=True)
class Config:
    """Options of `beit`.

    Attributes:
        codes: "kmeans" learns a codebook of patches, "field" reads the batch field `codes`.
        vocabulary: number of codes.
        learn: share of the run during which the codebook is learned (from 1 on: steps).
        decay: of the codebook's counts, per step.
        ratio: largest share of the patches that the block mask removes.
        scale: area range of the random resized crop.
        flip: probability of a horizontal flip.
        jitter: strength of brightness, contrast, saturation and hue, always applied.
        dtype: compute type of the head; follows the run's.
    """

    codes: Literal["kmeans", "field"] = "kmeans"
    vocabulary: int = 8192
    learn: float = 0.1
    decay: float = 0.99
    ratio: float = 75 / 196
    scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.0)
    dtype: str = "float32"

    @classmethod
    def tiny(cls) -> "Config":
        return cls(vocabulary=6)


def _mask(cfg: Config) -> masking.Block:
    return masking.Block(((cfg.ratio, cfg.ratio),))


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    colour = {"jitter": cfg.jitter, "jitter_p": 1.0, **spec.aug}
    if cfg.codes == "field":
        student = Pass(View(aug=Aug(spec.size, **colour)), _mask(cfg), outputs=("tokens",))
        return {"student": student, "codes": Pass(cached="codes")}
    aug = Aug(spec.size, scale=cfg.scale, ratio=(3 / 4, 4 / 3), flip=cfg.flip, **colour)
    return {"student": Pass(View(aug=aug), _mask(cfg), outputs=("tokens", "view"))}


def _side(patch: int) -> int:
    """Side of a patch as the codebook sees it: the largest divisor of `patch` up to 8."""
    return max(d for d in range(1, 9) if patch % d == 0)


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    tower = spec.towers["encoder"]
    r_head, r_centres = jax.random.split(rng)
    head = layers.dense(cfg.vocabulary).init(r_head, jnp.zeros((1, tower.width)))
    params = {"head": head["params"]}
    if cfg.codes == "field":
        return Vars(params=params)
    centres = jax.random.normal(r_centres, (cfg.vocabulary, _side(tower.patch) ** 2 * 3))
    return Vars(params=params, state={"centres": centres, "count": jnp.zeros(cfg.vocabulary)})


def described(image: jax.Array, patch: int) -> jax.Array:
    """f32[B, N, F]: what the codebook sees of each patch, its pixels at low resolution."""
    B, S = image.shape[:2]
    step = patch // _side(patch)
    small = _masked.wide(image).reshape(B, S // step, step, S // step, step, 3).mean((2, 4))
    return masking.patchify(small, patch // step)


def nearest(x: jax.Array, centres: jax.Array) -> tuple[jax.Array, jax.Array]:
    """i32[B, M] and f32[B, M]: the nearest of [K, F] centres to [B, M, F], its squared distance."""
    products = jnp.einsum("bmf,kf->bmk", x, centres, precision=jax.lax.Precision.HIGHEST)
    distance = jnp.sum(centres**2, -1)[None, None] - 2 * products
    code = jnp.argmin(distance, axis=-1)
    away = jnp.sum((x - centres[code]) ** 2, axis=-1)
    return code, away


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    student, tower = feats["student"], ctx.spec.towers["encoder"]
    most = _mask(cfg).most(student.mask.shape[1])
    places, counted = masking.removed_places(student.mask, most)
    stats, metrics = None, {}
    if cfg.codes == "field":
        code = jnp.take_along_axis(feats["codes"].pooled, places, axis=1)
        counted = counted & batch["has_codes"][:, None]
    else:
        x = described(student.view["image"], tower.patch)
        x = jnp.take_along_axis(x, places[..., None], axis=1)
        code, away = nearest(x, state["centres"])
        stats = _statistics(cfg, x, code, counted, ctx)
        metrics["distance"] = _mean(away, counted)
    tokens = jnp.take_along_axis(student.tokens, places[..., None], axis=1)
    head = layers.dense(cfg.vocabulary, dtype=cfg.dtype)
    logits = _masked.wide(head.apply({"params": params["head"]}, tokens))
    named = jnp.take_along_axis(logits, code[..., None], axis=-1)[..., 0]
    metrics["accuracy"] = _mean(jnp.argmax(logits, axis=-1) == code, counted)
    term = _mean(jax.nn.logsumexp(logits, axis=-1) - named, counted)
    return Loss({"codes": term}, stats=stats, metrics=metrics)


def _mean(values: jax.Array, counted: jax.Array) -> Term:
    return Term(jnp.sum(jnp.where(counted, values, 0)), jnp.sum(counted).astype(jnp.float32))


def _statistics(cfg: Config, x: jax.Array, code: jax.Array, counted: jax.Array, ctx: Ctx):
    """Sums and counts per code: of what is assigned to it, and of what it may restart at.

    Each patch is offered to one of as many places as the global batch has patches, so a code is
    offered one patch on average.
    """
    M, F = x.shape[1:]
    offers = ctx.spec.global_batch * M
    keys = ctx.draw.fold("restart").keys()
    offered = jax.vmap(lambda key: jax.random.randint(key, (M,), 0, offers))(keys)

    def sums(index):
        index = jnp.where(counted, index, cfg.vocabulary).ravel()
        total = jnp.zeros((cfg.vocabulary, F), x.dtype).at[index].add(x.reshape(-1, F), mode="drop")
        return total, jnp.zeros(cfg.vocabulary, x.dtype).at[index].add(1.0, mode="drop")

    return {"assigned": sums(code), "offered": sums(offered)}


def update(cfg: Config, params, state, stats, ctx: Ctx):
    """One step of k-means, while the codebook is learned."""
    if cfg.codes == "field":
        return params, state
    total, number = stats["assigned"]
    offer, offers = stats["offered"]
    before = cfg.decay * state["count"]
    count = before + number
    mean = (before[:, None] * state["centres"] + total) / jnp.maximum(count, 1e-6)[:, None]
    centres = jnp.where((count > 1e-6)[:, None], mean, state["centres"])
    restart = (count < 1) & (offers == 1)
    new = {
        "centres": jnp.where(restart[:, None], offer, centres),
        "count": jnp.where(restart, 1.0, count),
    }
    until = cfg.learn * ctx.spec.steps if cfg.learn < 1 else cfg.learn
    return params, jax.tree.map(lambda a, b: jnp.where(ctx.step < until, a, b), new, state)


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: the head, and the search for codes at a third (no backward)."""
    tower, grid, _ = _masked.geometry(spec)
    masked = _mask(cfg).most(grid[0] * grid[1])
    search = _side(tower.patch) ** 2 * 3 / 3 if cfg.codes == "kmeans" else 0
    return 2.0 * masked * cfg.vocabulary * (tower.width + search)
