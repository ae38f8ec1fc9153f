"""FCCov: features as dependent as they can be on labels of which only distances are known.

Source: Yuan et al. 2025, arXiv:2502.15374; the estimator and the target of its regularisation are
derived from the abstract and a summary, not read in the paper. With r features f of n faces, their
mean f', and distances d of their labels,

    C_jl = 1/n sum_k (f_k - f') [d(y_k, y_j) <= d(y_l, y_j)]
    FCCov = 1/n^2 sum_jl C_jl C_jl^T,       loss = -tr FCCov + lam ||Cov(f) - I||_F^2

Only the order of distances counts, so outlying labels have bounded influence, and labels may be
anything with a distance: landmark shapes, attribute vectors, ages, classes. n is the number of
labelled faces of the global batch and should be large. For each j the distances are sorted and the
features summed up in that order: O(n^2 (log n + r)) instead of O(n^3 r).
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Aug, Ctx, Loss, Pass, Spec, Term, Vars, View
from facejax.ops.similarity import PRECISION, l2_normalize

SCOPE = "batch"


@dataclass(frozen=True)
class Config:
    """Options of `fccov`.

    Attributes:
        field: the labels, a field of the batch.
        distance: "procrustes" compares the shape of points, whatever their place, size and angle;
            "euclidean" compares numbers or vectors; "hamming" counts the attributes that differ, an
            unknown one being half way; "discrete" is 0 within a class and 1 between classes.
        out: r, the width of the linear map of the embedding.
        lam: weight of the regularisation.
        scale: area range of the random resized crop.
        flip: probability of a horizontal flip.
    """

    field: str = "landmarks"
    distance: Literal["procrustes", "euclidean", "hamming", "discrete"] = "procrustes"
    out: int = 8
    lam: float = 0.1
    scale: tuple[float, float] = (0.5, 1.0)
    flip: float = 0.5

    @classmethod
    def tiny(cls) -> "Config":
        return cls(out=3)


def fields(cfg: Config) -> tuple[str, ...]:
    return (cfg.field,)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    aug = Aug(spec.size, scale=cfg.scale, ratio=(3 / 4, 4 / 3), flip=cfg.flip, **spec.aug)
    moves = cfg.field == "landmarks"
    return {"image": Pass(View(aug=aug), outputs=("pooled", "view") if moves else ("pooled",))}


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    # Without a bias, which would have no effect.
    head = layers.dense(cfg.out, use_bias=False)
    return Vars(
        params={"head": head.init(rng, jnp.zeros((1, spec.towers["encoder"].embed)))["params"]}
    )


def distances(kind: str, labels: jax.Array) -> jax.Array:
    """f32[n, n] between labels [n, ...]; of Procrustes the square (only the order counts)."""
    if kind == "discrete":
        return (labels[:, None] != labels[None]).astype(jnp.float32)
    y = labels.astype(jnp.promote_types(labels.dtype, jnp.float32))
    if kind == "procrustes":
        # Points as complex numbers: the best rotation is the phase of the inner product.
        z = y - y.mean(1, keepdims=True)
        z = l2_normalize(z.reshape(len(z), -1)).reshape(z.shape)
        product = jnp.einsum("iks,jkt->stij", z, z, precision=PRECISION)
        real, imaginary = product[0, 0] + product[1, 1], product[0, 1] - product[1, 0]
        return 1 - real**2 - imaginary**2
    y = y.reshape(len(y), -1)
    difference = jnp.abs(y[:, None] - y[None])
    return difference.sum(-1) if kind == "hamming" else jnp.sqrt(jnp.sum(difference**2, -1))


def centre(f: jax.Array, known: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Features [n, r] without the mean of those that are known, 0 for the others; their number.

    The number is a float: its powers would overflow an integer.
    """
    rows, n = known[:, None], jnp.maximum(jnp.sum(known), 1).astype(f.dtype)
    return jnp.where(rows, f - jnp.sum(f, 0, where=rows, keepdims=True) / n, 0.0), n


def trace(f: jax.Array, distance: jax.Array, known: jax.Array) -> jax.Array:
    """tr FCCov.

    Args:
        f: [n, r].
        distance: [n, n].
        known: bool[n], who takes part.
    """
    centred, n = centre(f, known)
    place = jnp.arange(len(f))

    def from_one(d):
        order = jnp.argsort(d)
        ordered, total = d[order], jnp.cumsum(centred[order], 0)
        last = jnp.append(ordered[1:] != ordered[:-1], True)  # of a run of equal distances
        end = jax.lax.cummin(jnp.where(last, place, len(f)), reverse=True)
        return jnp.sum(jnp.sum(total[end] ** 2, 1), where=ordered < jnp.inf)

    each = jax.vmap(from_one)(jnp.where(known[None], distance, jnp.inf))
    return jnp.sum(each, where=known) / n**4


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    image, known = feats["image"], batch[f"has_{cfg.field}"]
    labels = batch[cfg.field] if image.view is None else image.view[cfg.field]
    head = layers.dense(cfg.out, use_bias=False)
    f = head.apply({"params": params["head"]}, image.pooled)
    f = f.astype(jnp.promote_types(f.dtype, jnp.float32))
    distance = jax.lax.stop_gradient(distances(cfg.distance, labels))
    dependence = trace(f, distance, known)

    centred, n = centre(f, known)
    covariance = jnp.matmul(centred.T, centred, precision=PRECISION) / n
    excess = jnp.sum((covariance - jnp.eye(cfg.out, dtype=f.dtype)) ** 2)
    any_known = jnp.any(known).astype(jnp.float32)
    terms = {
        "dependence": Term(-dependence, any_known),
        "covariance": Term(excess, any_known, cfg.lam),
    }
    # Divided by the spread of the features, so that runs of another `lam` or `out` compare.
    spread = jnp.maximum(jnp.trace(covariance), 1e-12)
    return Loss(terms, metrics={"relative": Term(dependence / spread, any_known)})


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: the map, and the running sums and squares of its row."""
    return (2 * spec.towers["encoder"].embed + 3 * spec.global_batch) * cfg.out
