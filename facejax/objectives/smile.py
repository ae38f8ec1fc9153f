"""SMILe and SCoRe: classes as sets, kept tight and apart by submodular information.

Sources: Majee et al. 2024 (SMILe), arXiv:2407.02665; Majee et al. 2024 (SCoRe), arXiv:2310.00165,
and their code. With S the cosines of the rows V of a batch (two views of each labelled face) and
A_k the rows of class k, a set function is one of

    fl      f(A) = sum_{i in V} max_{j in A} S_ij                            facility location
    gc      f(A) = sum_{i in A, j in V} S_ij - lam sum_{i, j in A} S_ij      graph cut
    logdet  f(A) = log det(S_A + nu I)

and the loss is (1 - eta) intra + eta inter, where intra is one of

    smile        mean_k f(A_k) / |A_k|
    information  sum_k f(A_k) / |V|                    the total information of SCoRe
    correlation  (sum_k f(A_k) - f(V)) / |V|           its total correlation
    smile-code   mean_i log N_i (fl) or mean_i (N_i - lam P_i) (gc), with N_i and P_i the sums of
                 e^{S_ij / tau} over other classes and over the rest of one's own
    score-code   tau / .07 lam mean_i of log sum_{neg} e^{S_ij} (fl) or sum_{neg} S_ij / |pos| (gc)

    inter = mean_Q I(V \\ Q; Q) / |Q|,       I(A; Q) = f(A) + f(Q) - f(A u Q), over novel classes Q
    fl      I = sum_{i in Q} max_{j in A} S_ij + lam sum_{i in A} max_{j in Q} S_ij
    gc      I = 2 lam sum_{i in Q, j in A} S_ij

A max is tau log sum e^{S / tau} and tends to it as tau falls. What to expect: fl only ever repels;
gc attracts where lam > 1 (within a class a pair counts 1 - lam); logdet with "correlation" makes
classes compact and spreads the batch. fl alone therefore needs another objective beside it.

Departures: the sums over classes are means and I is divided by |Q|, so that the scale does not grow
with the batch; A is all of the batch that is not in Q (the code's A holds Q as well, and its graph
cut has the sign of I reversed). Two random crops of an image stand for proposals that overlap.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Aug, Ctx, Loss, Pass, Spec, Term, Vars, View
from facejax.errors import UserError
from facejax.objectives import _labels
from facejax.ops import similarity

SCOPE = "batch"
TAU_BASE = 0.07  # of SCoRe's code


@dataclass(frozen=True)
class Config:
    """Options of `smile`.

    Attributes:
        field: class numbers of the batch, or "attributes": each is two sets, and losses are means.
        function: the set function.
        intra: see the top of the file.
        eta: weight of `inter`.
        lam: of the graph cut, and of the second half of facility location's information.
        nu: added to the diagonal of `logdet`.
        tau: temperature; 0 is the plain maximum.
        novel: class numbers from here on are novel; None takes every class in turn. Of an attribute
            number 1 is yes.
        out: width of the projection; its hidden layer is as wide as the embedding.
        scale: area range of the random resized crops.
        jitter: strength of brightness, contrast, saturation and hue.
        gray: probability of grayscale.
        flip: probability of a horizontal flip.
    """

    field: str = "identity"
    function: Literal["fl", "gc", "logdet"] = "fl"
    intra: Literal["smile", "information", "correlation", "smile-code", "score-code"] = "smile"
    eta: float = 0.5
    lam: float = 1.0
    nu: float = 0.5
    tau: float = 0.7
    novel: int | None = None
    out: int = 128
    scale: tuple[float, float] = (0.2, 1.0)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    gray: float = 0.2
    flip: float = 0.5

    @classmethod
    def tiny(cls) -> "Config":
        return cls(out=16)


def fields(cfg: Config) -> tuple[str, ...]:
    return (cfg.field,)


def passes(cfg: Config, spec: Spec) -> dict[str, Pass]:
    aug = Aug(
        spec.size,
        scale=cfg.scale,
        ratio=(3 / 4, 4 / 3),
        flip=cfg.flip,
        jitter=cfg.jitter,
        gray_p=cfg.gray,
        **spec.aug,
    )
    return {draw: Pass(View(aug=aug, draw=draw)) for draw in ("a", "b")}


def _projector(cfg: Config, spec: Spec) -> layers.MlpHead:
    return layers.MlpHead((spec.towers["encoder"].embed, cfg.out))


def init(cfg: Config, rng: jax.Array, spec: Spec) -> Vars:
    _labels.shape(spec, cfg.field)
    if cfg.function == "logdet" and cfg.intra.endswith("code"):
        raise UserError("intra", f"'{cfg.intra}' has no logdet", "use 'correlation'")
    features = jnp.zeros((1, spec.towers["encoder"].embed))
    return Vars(params={"projector": _projector(cfg, spec).init(rng, features)["params"]})


# ------------------------------------------------------------------------------ set functions


@dataclass(frozen=True)
class Sets:
    """The classes of one label as sets of rows; a class goes by the number of its first row.

    Attributes:
        S: [n, n], cosines.
        known: bool[n], rows of the ground set V.
        same: bool[n, n], known rows of one class.
        owner: i32[n], the class of a row; n where unknown.
        size: [n], |A_k| by class, 0 where there is none.
    """

    S: jax.Array
    known: jax.Array
    same: jax.Array
    owner: jax.Array
    size: jax.Array

    @classmethod
    def of(cls, S: jax.Array, label: jax.Array, known: jax.Array) -> "Sets":
        same = (label[:, None] == label[None]) & known[:, None] & known[None]
        owner = jnp.where(known, jnp.argmax(same, 1), len(S))
        return cls(S, known, same, owner, jax.ops.segment_sum(known.astype(S.dtype), owner, len(S)))

    @property
    def others(self) -> jax.Array:
        """bool[n, n], known rows of two classes."""
        return self.known[:, None] & self.known[None] & ~self.same

    def by_class(self, rows: jax.Array) -> jax.Array:
        """[n, ...] of rows, summed over each class."""
        return jax.ops.segment_sum(rows, self.owner, len(self.S))


def _most(x: jax.Array, where: jax.Array, tau: float) -> jax.Array:
    """[n], the smooth maximum of each row where `where`, 0 where that is nowhere."""
    some = where.any(1)
    x = jnp.where(where, x, -jnp.inf)
    top = x.max(1) if not tau else tau * jax.nn.logsumexp(x / tau, 1)
    return jnp.where(some, top, 0.0)


def _most_by_class(sets: Sets, tau: float) -> jax.Array:
    """[n classes, n rows]: the smooth maximum of S_ij over j in A_k; 0 for an absent class."""
    there, n = (sets.size > 0)[:, None], len(sets.S)
    top = jax.ops.segment_max(sets.S, sets.owner, n)
    top = jnp.where(there, top, 0.0)
    if not tau:
        return top
    top = jax.lax.stop_gradient(top)
    below = sets.S - top.at[sets.owner].get(mode="clip")
    share = jnp.exp(jnp.where(sets.known[:, None], below, 0.0) / tau)
    return jnp.where(there, top + tau * jnp.log(jnp.where(there, sets.by_class(share), 1.0)), 0.0)


def _log_pivots(matrix: jax.Array) -> jax.Array:
    """[n] that sum to log det of a positive definite matrix, and over a block to that of it."""
    return 2 * jnp.log(jnp.diagonal(jnp.linalg.cholesky(matrix)))


def of_classes(cfg: Config, sets: Sets) -> jax.Array:
    """[n], f(A_k) by class."""
    S, V = sets.S, sets.known[None]
    if cfg.function == "fl":
        return jnp.sum(_most_by_class(sets, cfg.tau), 1, where=V)
    if cfg.function == "gc":
        own = jnp.sum(S, 1, where=sets.same)
        return sets.by_class(jnp.sum(S, 1, where=V) - cfg.lam * own)
    return sets.by_class(_log_pivots(jnp.where(sets.same, S, 0.0) + cfg.nu * jnp.eye(len(S))))


def of_all(cfg: Config, sets: Sets) -> jax.Array:
    """f(V)."""
    pairs = sets.known[:, None] & sets.known[None]
    if cfg.function == "fl":
        return jnp.sum(_most(sets.S, pairs, cfg.tau))
    if cfg.function == "gc":
        return (1 - cfg.lam) * jnp.sum(sets.S, where=pairs)
    matrix = jnp.where(pairs, sets.S, 0.0) + cfg.nu * jnp.eye(len(sets.S))
    return jnp.sum(_log_pivots(matrix), where=sets.known)


def mutual(cfg: Config, sets: Sets) -> jax.Array:
    """[n], I(V \\ A_k; A_k) by class."""
    S, n = sets.S, len(sets.S)
    if cfg.function == "fl":
        outside = sets.known[None] & (sets.owner[None] != jnp.arange(n)[:, None])
        to_class = jnp.sum(_most_by_class(sets, cfg.tau), 1, where=outside)
        return sets.by_class(_most(S, sets.others, cfg.tau)) + cfg.lam * to_class
    if cfg.function == "gc":
        return 2 * cfg.lam * sets.by_class(jnp.sum(S, 1, where=sets.others))
    pairs = sets.known[:, None] & sets.known[None]
    identity = jnp.eye(n, dtype=S.dtype)
    whole = jnp.where(pairs, S, 0.0) + cfg.nu * identity
    # Jacobi: det of V without Q is det of V times det of the block Q of the inverse.
    inverse = jnp.linalg.inv(whole)
    blocks = [
        jnp.where(sets.same, whole, cfg.nu * identity),
        jnp.where(sets.same, inverse, identity),
    ]
    return sets.by_class(sum(_log_pivots(block) for block in blocks))


def _as_in_code(cfg: Config, sets: Sets) -> jax.Array:
    """[n], what the reference codes sum over rows."""
    S, others = sets.S, sets.others
    pos = sets.same & ~jnp.eye(len(S), dtype=bool)
    if cfg.intra == "score-code":
        scale = cfg.tau / TAU_BASE * cfg.lam
        if cfg.function == "fl":
            return scale * _most(S, others, 1.0)
        return scale * jnp.sum(S, 1, where=others) / jnp.maximum(jnp.sum(pos, 1), 1)
    if cfg.function == "fl":
        return _most(S / cfg.tau, others, 1.0)
    kernel = jnp.exp(S / cfg.tau)
    return jnp.sum(kernel, 1, where=others) - cfg.lam * jnp.sum(kernel, 1, where=pos)


def terms_of(cfg: Config, S: jax.Array, label: jax.Array, known: jax.Array):
    """Sums and counts of one label: `intra`, `inter`, and the cosines within and between classes.

    Args:
        S: [n, n].
        label: i32[n].
        known: bool[n].
    """
    sets = Sets.of(S, label, known)
    size, rows = jnp.maximum(sets.size, 1), jnp.sum(sets.size)
    if cfg.intra.endswith("code"):
        intra = jnp.sum(_as_in_code(cfg, sets), where=known), rows
    else:
        f = of_classes(cfg, sets)
        intra = {
            "smile": lambda: (jnp.sum(f / size), jnp.sum(sets.size > 0)),
            "information": lambda: (jnp.sum(f), rows),
            "correlation": lambda: (jnp.sum(f) - of_all(cfg, sets), rows),
        }[cfg.intra]()
    novel = (sets.size > 0) & (True if cfg.novel is None else label >= cfg.novel)
    inter = jnp.sum(mutual(cfg, sets) / size, where=novel), jnp.sum(novel)
    within = sets.same & ~jnp.eye(len(S), dtype=bool)
    return {
        "intra": intra,
        "inter": inter,
        "within": (jnp.sum(S, where=within), jnp.sum(within)),
        "between": (jnp.sum(S, where=sets.others), jnp.sum(sets.others)),
    }


def loss(cfg: Config, params, ema, state, feats, batch, ctx: Ctx) -> Loss:
    project = _projector(cfg, ctx.spec).apply
    views = [project({"params": params["projector"]}, feats[v].pooled) for v in ("a", "b")]
    z = similarity.l2_normalize(jnp.concatenate(views))
    S = jnp.matmul(z, z.T, precision=similarity.PRECISION)
    label, known = (jnp.tile(x, (2, 1)) for x in _labels.read(batch, cfg.field))
    found = jax.vmap(lambda *of_label: terms_of(cfg, S, *of_label), (1, 1))(label, known)
    means = {
        name: Term(jnp.sum(total), jnp.sum(count).astype(jnp.float32))
        for name, (total, count) in found.items()
    }
    terms = {
        "intra": dataclasses.replace(means["intra"], weight=1 - cfg.eta),
        "inter": dataclasses.replace(means["inter"], weight=cfg.eta),
    }
    return Loss(terms, metrics={name: means[name] for name in ("within", "between")})


def flops(cfg: Config, spec: Spec) -> float:
    """Forward FLOPs per image: two projections, their rows of S, and what f and I make of them."""
    width, n = spec.towers["encoder"].embed, 2 * spec.global_batch
    L, _ = _labels.shape(spec, cfg.field)
    head = sum(2 * a * b for a, b in itertools.pairwise((width, width, cfg.out)))
    # Three Cholesky factors (n^3 / 3 each), one solve of n right sides (8 n^3 / 3), or few passes.
    per_row = 11 / 3 * n**2 if cfg.function == "logdet" else 4 * n
    return 2 * (head + 2 * n * cfg.out + L * per_row)
