"""FSFM: masked faces whose regions are covered as a whole, and one representation for each face.

Source: Wang et al. 2025 (CVPR), FSFM, and its code. Three terms ("3C"), over an encoder that sees
the kept patches of a CRFR-P mask (`ops/regions.py`):

    loss = L_m + 0.007 L_fr + 0.1 L_sim
    L_m    mean over removed patches of MAE's error: consistency within a region
    L_fr   mean over the patches of the covered region of the same error, over the whole batch: a
           region must be told from the others; 0 if no face of the batch has it
    L_sim  -cos(predictor(projector(z)), target) / 2: local to global; "byol" is 2 - 2 cos

z is the mean output of a small decoder over kept and mask tokens (`_representation.py`), and the
target the same of an average of encoder, decoder and projector that sees all patches. InfoNCE in
place of the cosine compares images, so it is an objective of its own, `fsfm_nce`, to be put beside
this one with `similarity` 0.

Quirks of the reference, kept: the pixel decoder's mask token has the encoder's width and is
mapped with the tokens, and the representation decoder shares it; that decoder's positions are zero
(`represent_positions` gives it MAE's). Linears are Xavier-uniform.

Departures: the average moves once per optimiser step. The reference moves it once per micro-step,
so momentum m with A of them becomes m^A: its 0.996 with A = 4 is 0.984 here. `decoder_width` and
the heads follow the encoder unless given; the paper's are 512, 16 and 16. A step whose loss is not
finite is skipped as a whole.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Ctx, Ema, Features, Loss, OwnEma, Params, Pass, Spec, Term, Vars
from facejax.objectives import _masked, _representation
from facejax.ops import masking, regions
from facejax.ops.similarity import l2_normalize
from facejax.schedule import Schedule

SCOPE = "sample"
PREVIEW = ("input", "covered", "seen", "reconstruction")
MOMENTUM = Schedule("cosine", start=0.996, end=1.0)


@dataclass(frozen=True)
class Config:
    """Options of `fsfm`.

    Attributes:
        mask: which patches are removed, see `ops/regions.py`.
        ratio: share of the patches that is removed.
        region_group: consecutive global rows that cover the same region.
        region: weight of the covered region's error, L_fr.
        similarity: weight of L_sim; 0 leaves out its branch and the target.
        similarity_kind: "cosine" (-cos / 2) or "byol" (2 - 2 cos).
        momentum: of the target.
        scale: area range of a random resized crop; the paper takes the whole image.
        flip: probability of a horizontal flip; the paper does without.
        norm_pixels: normalise the pixels to predict per patch.
        decoder_depth: blocks of the pixel decoder.
        decoder_width: its width; None is half the encoder's, rounded up to a multiple of 32.
        decoder_heads: its attention heads; None is one per 32 channels.
        represent_depth: blocks of the representation decoder.
        represent_heads: its attention heads; None is one per 32 channels.
        represent_positions: whether it adds sine-cosine positions.
        hidden: width of the hidden layer of projector and predictor.
        out: width of the projection.
        dtype: compute type of decoders and heads; follows the run's.
        remat: what the decoder's backward pass recomputes; follows the run's.
    """

    mask: regions.Kind = "crfr-p"
    ratio: float = 0.75
    region_group: int = 256
    region: float = 0.007
    similarity: float = 0.1
    similarity_kind: Literal["cosine", "byol"] = "cosine"
    momentum: float | Schedule = MOMENTUM
    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    norm_pixels: bool = True
    decoder_depth: int = 8
    decoder_width: int | None = None
    decoder_heads: int | None = None
    represent_depth: int = 2
    represent_heads: int | None = None
    represent_positions: bool = False
    hidden: int = 4096
    out: int = 256
    dtype: str = "float32"
    remat: layers.Remat = "none"

    @classmethod
    def tiny(cls) -> "Config":
        return cls(
            region_group=4, decoder_depth=1, decoder_width=16, represent_depth=1, hidden=16, out=8
        )


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    view = _masked.view(spec, cfg.scale, cfg.flip)
    mask = regions.sampler(cfg.mask, cfg.ratio, cfg.region_group)
    online = Pass(view, mask, outputs=("prefix", "tokens", "view"))
    if not cfg.similarity:
        return {"online": online}
    target = Pass(view, weights=Ema(cfg.momentum), outputs=("prefix", "tokens"))
    return {"online": online, "target": target}


def _decoder(cfg: Config, spec: Spec) -> _masked.Decoder:
    tower = spec.towers["encoder"]
    width, heads = _masked.scaled(cfg.decoder_width, cfg.decoder_heads, tower)
    out = tower.patch**2 * 3
    return _masked.Decoder(width, cfg.decoder_depth, heads, out, cfg.dtype, cfg.remat)


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
    tower, decoder = spec.towers["encoder"], _decoder(cfg, spec)
    r_token, r_embed, r_decoder, r_branch = jax.random.split(rng, 4)
    params = {
        "mask_token": 0.02 * jax.random.normal(r_token, (1, 1, tower.width)),
        "embed": layers.dense(decoder.width).init(r_embed, jnp.zeros((1, tower.width)))["params"],
        "decoder": decoder.init(r_decoder, jnp.zeros((1, 1, decoder.width)))["params"],
    }
    if not cfg.similarity:
        return Vars(params=params)
    ema = {"target": OwnEma(_representation.AVERAGED, cfg.momentum)}
    return Vars(params=params | _branch(cfg).init(r_branch, spec), ema=ema)


def decode(cfg: Config, params: Params, features: Features, spec: Spec) -> jax.Array:
    """f32[B, N, patch * patch * 3]: the prediction for every patch, seen or not."""
    decoder = _decoder(cfg, spec)
    _, grid, P = _masked.geometry(spec)
    x = _masked.filled(features, params["mask_token"][0, 0], grid[0] * grid[1])
    x = layers.dense(decoder.width, dtype=cfg.dtype).apply({"params": params["embed"]}, x)
    x = x + _masked.positions(decoder.width, grid, P).astype(x.dtype)
    return decoder.apply({"params": params["decoder"]}, x)[:, P:]


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    online, spec = feats["online"], ctx.spec
    target = _masked.pixels(
        online.view["image"], spec.towers["encoder"].patch, normalise=cfg.norm_pixels
    )
    error = jnp.mean((decode(cfg, params, online, spec) - target) ** 2, axis=-1)
    removed = (online.mask & masking.REMOVED).astype(jnp.float32)
    covered = (online.mask & regions.COVERED != 0).astype(jnp.float32)
    terms = {
        "masked": Term(jnp.sum(error * removed), jnp.sum(removed)),
        "region": Term(jnp.sum(error * covered), jnp.sum(covered), cfg.region),
    }
    metrics = {"covered": Term(jnp.sum(covered), jnp.sum(removed))}
    if cfg.similarity:
        branch, token = _branch(cfg), params["mask_token"][0, 0]
        q = branch.predict(params, branch.project(params, online, token, spec), spec)
        k = branch.project(ema["target"], feats["target"], token, spec)
        cosine = jnp.sum(l2_normalize(q) * l2_normalize(k), axis=-1)
        each = -cosine / 2 if cfg.similarity_kind == "cosine" else 2 - 2 * cosine
        terms["similarity"] = Term.mean(each, cfg.similarity)
        metrics["cosine"] = Term.mean(cosine)
    return Loss(terms, metrics=metrics)


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image of decoders and heads (the encoder counts its own)."""
    decoder = _decoder(cfg, spec)
    tower, grid, P = _masked.geometry(spec)
    tokens = grid[0] * grid[1] + P
    pixels = 2 * tokens * tower.width * decoder.width + decoder.flops(tokens)
    return pixels + (_branch(cfg).flops(spec) if cfg.similarity else 0.0)


def preview(cfg: Config, params, feats, ctx: Ctx) -> dict[str, jax.Array]:
    """Columns of f32[B, S, S, 3] in the view's normalised units; "covered" is that region alone."""
    online, spec = feats["online"], ctx.spec
    tower, grid, _ = _masked.geometry(spec)
    pred = decode(cfg, params, online, spec)
    shown = _masked.pictures(spec, online, pred, cfg.norm_pixels)
    covered = (online.mask & regions.COVERED != 0)[..., None]
    alone = jnp.where(covered, masking.patchify(shown["input"], tower.patch), 0.0)
    return {**shown, "covered": masking.unpatchify(alone, tower.patch, grid)}
