"""FSFM's local-to-global term as InfoNCE: the masked face tells its own target from all others.

Source: Wang et al. 2025 (CVPR), FSFM, and its code, which offers it in place of the cosine. With
unit predictions q of the masked faces, unit projections k of the whole ones, both as in `fsfm`, and
s = <q, k> / tau,

    loss = 2 tau mean_i -log(e^{s_ii} / sum_j e^{s_ij})

over the global batch, whatever the mesh and the micro-batch. Put beside `fsfm` with `similarity` 0
and this one's weight 0.1, it gives FSFM with InfoNCE: equal options make equal passes, which the
encoder runs once.

Departure: the mask token of the representation decoder is its own, not the pixel decoder's.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.contracts import Ctx, Ema, Histogram, Loss, OwnEma, Pairs, Pass, Spec, Term, Vars
from facejax.objectives import _masked, _representation
from facejax.ops import regions, similarity
from facejax.schedule import Schedule

SCOPE = "batch"
MOMENTUM = Schedule("cosine", start=0.996, end=1.0)


@dataclass(frozen=True)
class Config:
    """Options of `fsfm_nce`; those of `fsfm` have the same names and meanings there.

    Attributes:
        tau: temperature.
        mask: which patches are removed, see `ops/regions.py`.
        ratio: share of the patches that is removed.
        region_group: consecutive global rows that cover the same region.
        momentum: of the target.
        scale: area range of a random resized crop; the paper takes the whole image.
        flip: probability of a horizontal flip; the paper does without.
        represent_depth: blocks of the representation decoder.
        represent_heads: its attention heads; None is one per 32 channels.
        represent_positions: whether it adds sine-cosine positions.
        hidden: width of the hidden layer of projector and predictor.
        out: width of the projection.
        dtype: compute type of decoder and heads; follows the run's.
    """

    tau: float = 0.1
    mask: regions.Kind = "crfr-p"
    ratio: float = 0.75
    region_group: int = 256
    momentum: float | Schedule = MOMENTUM
    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    represent_depth: int = 2
    represent_heads: int | None = None
    represent_positions: bool = False
    hidden: int = 4096
    out: int = 256
    dtype: str = "float32"

    @classmethod
    def tiny(cls) -> "Config":
        return cls(region_group=4, represent_depth=1, hidden=16, out=8)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    view = _masked.view(spec, cfg.scale, cfg.flip)
    mask = regions.sampler(cfg.mask, cfg.ratio, cfg.region_group)
    outputs = ("prefix", "tokens")
    return {
        "online": Pass(view, mask, outputs=outputs),
        "target": Pass(view, weights=Ema(cfg.momentum), outputs=outputs),
    }


def _branch(cfg: Config) -> _representation.Branch:
    return _representation.Branch(
        depth=cfg.represent_depth,
        heads=cfg.represent_heads,
        positions=cfg.represent_positions,
        hidden=cfg.hidden,
        out=cfg.out,
        dtype=cfg.dtype,
    )


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    r_token, r_branch = jax.random.split(rng)
    width = spec.towers["encoder"].width
    token = {"mask_token": 0.02 * jax.random.normal(r_token, (1, 1, width))}
    ema = {"target": OwnEma(_representation.AVERAGED, cfg.momentum)}
    return Vars(params=token | _branch(cfg).init(r_branch, spec), ema=ema, pairs=cfg.out)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    branch, spec, token = _branch(cfg), ctx.spec, params["mask_token"][0, 0]
    projection = branch.project(params, feats["online"], token, spec)
    q = similarity.l2_normalize(branch.predict(params, projection, spec))
    k = similarity.l2_normalize(branch.project(ema["target"], feats["target"], token, spec))
    face = jnp.arange(len(q))
    pairs = ctx.modify(
        Pairs(
            q=q,
            k=k[:, None],
            neg=k,
            tau=cfg.tau,
            owner=face,
            neg_owner=face,
            positive=jnp.ones((len(q), 1), bool),
            weight=jnp.ones(len(q)),
        )
    )
    each = similarity.info_nce(pairs) * pairs.weight
    cosine = jnp.sum(q * k, axis=-1)
    metrics = {"positive": Histogram.of(cosine), "cosine": Term.mean(cosine)}
    return Loss({"nce": Term(2 * cfg.tau * jnp.sum(each), jnp.float32(len(q)))}, metrics=metrics)


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image of decoder and heads, and of this face's row of similarities."""
    return _branch(cfg).flops(spec) + 2.0 * spec.global_batch * cfg.out
