"""GenView: views of which one is a generated image, each pair weighted by its quality.

Source: Li et al. 2024, arXiv:2403.12003, and xiaojieli0903/genview. A pair is good where the two
views show the same foreground before different backgrounds. With patch features F [N, D] of a view
by a fixed encoder, their first principal component scaled to [0, 1] per view is a foreground map A,
and

    z_f = sum_n A_n F_n / sum A,     z_b = sum_n (1 - A_n) F_n / sum (1 - A)
    w_i = B softmax_i( gamma (cos(z_f, z_f') - cos(z_b, z_b')) )

weighs the losses of the anchors of image i, without gradient. The weights sum to B, so the base's
scale stays. Any base takes them.

The generated image is a field of the batch, `generated`, made beforehand (see docs/data.md), and
the base shows it by its option `second`; without it, or where a record has none, the second view is
drawn from the image itself. Features come from one more forward of both views by the run or export
`encoder`; without one, from the base's own forwards, which is no cost and no paper.

Departures: the principal component is that of the batch's patches (by power iteration), not of
10,000 images set aside. Its sign, which is arbitrary, is such that patches near the centre of the
views are foreground, where an aligned face is. Weights are over the global batch, the code's over a
device's. The second view is always the generated one; the paper's is either at random. The
generator and its noise level by foreground share stay outside.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.contracts import Ctx, Frozen, Histogram, Loss, Pairs, Pass, Spec, Term, Vars, View
from facejax.errors import UserError
from facejax.ops import similarity

ITERATIONS = 16  # of the power iteration


@dataclass(frozen=True)
class Config:
    """Options of `genview`.

    Attributes:
        encoder: a run or an export of this image size whose patch features tell foreground from
            background; None for those of the run's own encoder.
        gamma: sharpness of the weights; 0 gives the base.
    """

    encoder: str | None = None
    gamma: float = 1.0

    @classmethod
    def tiny(cls) -> "Config":
        return cls()


def passes(cfg: Config, base: Mapping[str, Pass], spec: Spec) -> dict[str, Pass]:
    """Patch features of the first two views that the base looks at."""
    first: dict[View, Pass] = {}
    for p in base.values():
        if p.mask is None and p.cached is None:
            first.setdefault(p.view, dataclasses.replace(p, outputs=("tokens",)))
    if len(first) < 2:
        raise UserError("encoder", "the objective looks at one view only", "drop genview")
    frozen = {} if cfg.encoder is None else {"weights": Frozen(cfg.encoder)}
    return {name: dataclasses.replace(p, **frozen) for name, p in zip("ab", first.values())}


def init(cfg: Config, rng: jax.Array, spec: Spec, width: int) -> Vars:
    return Vars()


def principal(x: jax.Array) -> jax.Array:
    """[D]: the first principal direction of the rows of [n, D], either sign; 0 without spread."""
    x = x - x.mean(0)[None]

    def iterate(_, v):
        return similarity.l2_normalize(_times(x.T, _times(x, v)))

    longest = jnp.argmax(jnp.sum(x**2, axis=1))
    return jax.lax.fori_loop(0, ITERATIONS, iterate, similarity.l2_normalize(x[longest]))


def _times(x: jax.Array, v: jax.Array) -> jax.Array:
    return jnp.matmul(x, v, precision=similarity.PRECISION)


def foreground(tokens: jax.Array, axis: jax.Array) -> jax.Array:
    """[B, N] in [0, 1]: the tokens' projections [B, N, D] on `axis`, stretched per image."""
    score = _times(tokens, axis)
    low, high = score.min(1, keepdims=True), score.max(1, keepdims=True)
    return jnp.where(high > low, (score - low) / jnp.where(high > low, high - low, 1.0), 0.0)


def centred(score: jax.Array) -> jax.Array:
    """Whether scores [..., N] of a square grid are higher near its centre: above 0 if so."""
    side = math.isqrt(score.shape[-1])
    place = jnp.arange(side) - (side - 1) / 2
    distance = jnp.square(place)[:, None] + jnp.square(place)[None]
    nearness = (distance.mean() - distance).reshape((1,) * (score.ndim - 1) + (-1,))
    return jnp.sum(score * nearness)


def quality(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Similarity [B] of the foregrounds and of the backgrounds of two views' tokens [B, N, D]."""
    axis = principal(jnp.concatenate([a, b]).reshape(-1, a.shape[-1]))
    sign = sum(centred(_times(x, axis)) for x in (a, b))
    maps = [foreground(x, jnp.where(sign < 0, -axis, axis)) for x in (a, b)]

    def alike(shares):
        pooled = (jnp.einsum("bn,bnd->bd", s, x) for s, x in zip(shares, (a, b)))
        first, second = map(similarity.l2_normalize, pooled)  # the shares' sums cancel
        return jnp.sum(first * second, axis=1)

    return alike(maps), alike([1 - m for m in maps])


def weights(gamma: float, front: jax.Array, back: jax.Array) -> jax.Array:
    """[B], summing to B, from the similarities [B] of foregrounds and backgrounds."""
    return len(front) * jax.nn.softmax(gamma * (front - back))


def transform(cfg: Config, params, state, pairs: Pairs, ctx: Ctx) -> tuple[Pairs, Loss]:
    a, b = (jax.lax.stop_gradient(ctx.feats[name].tokens) for name in "ab")
    wide = jnp.promote_types(a.dtype, jnp.float32)
    front, back = quality(a.astype(wide), b.astype(wide))
    weight = weights(cfg.gamma, front, back)
    metrics = {
        "quality": Histogram.of(front - back, low=-2.0, high=2.0),
        "foreground": Term.mean(front),
        "background": Term.mean(back),
        "largest_weight": Term.mean(jnp.max(weight)),
    }
    weighted = dataclasses.replace(pairs, weight=pairs.weight * weight[pairs.owner])
    return weighted, Loss({}, metrics=metrics)
