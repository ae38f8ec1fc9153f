"""SimCLR: two views of an image attract each other, all other images of the batch repel (NT-Xent).

Source: Chen et al. 2020, arXiv:2002.05709, eq. 1, and google-research/simclr (TF2). For anchor i of
one view, with unit projections z and s = <z, z'> / tau, the positive is the same image's other view
and the negatives are the 2B - 2 other images' views:

    loss = mean_i l(a_i) + mean_i l(b_i),     l = -log softmax over {positive, negatives}

As in the reference code the two directions are *summed*; the paper's mean over 2B anchors is half
of it, so learning rates carry over from the code. The negatives are the global batch, whatever the
mesh and the micro-batch. The logged similarities of negatives are those of up to 256 images.
"""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Ctx, Histogram, Loss, Pairs, Pass, Spec, Term, Vars
from facejax.objectives import _views
from facejax.ops import similarity

SCOPE = "batch"


@dataclass(frozen=True)
class Config:
    """Options of `simclr`.

    Attributes:
        tau: temperature.
        hidden: width of the projector's hidden layers.
        out: width of the projection.
        depth: linear layers of the projector.
        norm: of its hidden layers.
        scale: area range of the random resized crops.
        strength: of the colour jitter (the paper's 1.0 is .8, .8, .8, .2).
        gray: probability of grayscale.
        blur: probability of blur.
        flip: probability of a horizontal flip.
        second: batch field that the second view shows, such as a generated twin of the image.
    """

    tau: float = 0.1
    hidden: int = 2048
    out: int = 128
    depth: int = 3
    norm: str = "batch"
    scale: tuple[float, float] = (0.08, 1.0)
    strength: float = 1.0
    gray: float = 0.2
    blur: float = 0.5
    flip: float = 0.5
    second: str = "image"

    @classmethod
    def tiny(cls) -> "Config":
        return cls(hidden=32, out=16, depth=2)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    s = cfg.strength
    recipe = _views.Views(
        scale=cfg.scale,
        flip=cfg.flip,
        jitter=(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s),
        gray=cfg.gray,
        blur=(cfg.blur, cfg.blur),
        solarize=(0.0, 0.0),
        second=cfg.second,
    )
    return {name: Pass(view) for name, view in _views.several(recipe, spec).items()}


def _projector(cfg: Config) -> layers.MlpHead:
    widths = (cfg.hidden,) * (cfg.depth - 1) + (cfg.out,)
    return layers.MlpHead(widths, norm=cfg.norm, final_norm=cfg.norm == "batch")


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    features = jnp.zeros((2, spec.towers["encoder"].embed))
    return Vars(params={"projector": _projector(cfg).init(rng, features)["params"]}, pairs=cfg.out)


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    project = _projector(cfg).apply
    views = [project({"params": params["projector"]}, feats[v].pooled) for v in ("a", "b")]
    z_a, z_b = (similarity.l2_normalize(z) for z in views)
    B = z_a.shape[0]
    z = similarity.interleave(z_a, z_b)
    image = jnp.repeat(jnp.arange(B), 2)
    pairs = ctx.modify(
        Pairs(
            q=z,
            k=similarity.interleave(z_b, z_a)[:, None],
            neg=z,
            tau=cfg.tau,
            owner=image,
            neg_owner=image,
            positive=jnp.ones((2 * B, 1), bool),
            weight=jnp.ones(2 * B),
        )
    )
    each = similarity.info_nce(pairs) * pairs.weight
    some = z_a[:256]
    metrics = {
        "positive": Histogram.of(jnp.sum(z_a * z_b, axis=-1)),
        "negative": Histogram.of(some @ some.T, where=~jnp.eye(len(some), dtype=bool)),
        "alignment": Term.mean(jnp.sum(z_a * z_b, axis=-1)),
    }
    # Two directions, each a mean over half of the anchors.
    return Loss({"nt_xent": Term(jnp.sum(each), jnp.float32(len(each) / 2))}, metrics=metrics)


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: two projections, and this image's rows of the similarity matrix."""
    widths = [spec.towers["encoder"].embed, *[cfg.hidden] * (cfg.depth - 1), cfg.out]
    head = sum(2 * a * b for a, b in itertools.pairwise(widths))
    return 2 * head + 2 * 2 * (2 * spec.global_batch) * cfg.out
