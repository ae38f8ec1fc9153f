"""HaLP: latent positives on the way from a key to another prototype, within the key's own cell.

Source: Shah et al. 2023, arXiv:2304.00387, and anshulbshah/HaLP. Prototypes are the centres of
spherical k-means over the newest keys. For a key k with nearest prototype p0 and a random other
prototype p, a positive is a point of the great circle from k to p,

    z = slerp(k, p; t),     t = (1 - U(0, spread)) t_max

where t_max is the place at which z is as similar to p as to p0. z counts if its nearest prototype
is still p0. The base's loss gains

    mu * mean over counting z of -<q, z> / tau

whose gradient goes through q alone. Until the first clustering, and where no z counts, it is 0. The
term is a plain mean, whatever factor the base puts before its own loss.

The newest keys are what the base enqueues, or the first positives under a base without a queue;
they are kept here, so that the clustering begins when the first `recent` keys have been seen. A
base that calls `modify` per direction (MoCo v3) gives the mean direction of an image's keys. Where
the code's k-means starts by k-means++, this one starts at random keys, and an empty cell keeps its
centre. The paper resumes from a MoCo of 200 epochs, which `init_from` does, and its multi-modal
form with distillation between skeleton modalities is left out.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from facejax.contracts import Ctx, Draw, Loss, Pairs, Spec, Term, Vars
from facejax.modifiers import _anchors
from facejax.ops import similarity


@dataclass(frozen=True)
class Config:
    """Options of `halp`.

    Attributes:
        mu: weight of the latent positives (the paper's 2 on NTU, 1 on PKU).
        samples: latent positives per anchor.
        prototypes: number of them.
        spread: lambda; t lies between 1 - spread and 1 of t_max. Less is harder.
        every: steps between clusterings.
        recent: newest keys that are clustered.
        iterations: of k-means.
    """

    mu: float = 2.0
    samples: int = 100
    prototypes: int = 20
    spread: float = 0.8
    every: int = 10
    recent: int = 256
    iterations: int = 10

    @classmethod
    def tiny(cls) -> "Config":
        return cls(samples=8, prototypes=4, recent=16)


def init(cfg: Config, rng: jax.Array, spec: Spec, width: int) -> Vars:
    state = {
        "prototypes": jnp.zeros((cfg.prototypes, width)),  # until the first clustering
        "recent": jnp.zeros((cfg.recent, width)),
        "seen": jnp.int32(0),
    }
    return Vars(state=state)


def reach(cos: jax.Array, cos_own: jax.Array, between: jax.Array) -> jax.Array:
    """t_max, in [0, 1]: where slerp(k, p; t) is as similar to p as to p0.

    Args:
        cos: <k, p>.
        cos_own: <k, p0>, not below `cos`.
        between: <p, p0>.
    """
    angle = jnp.arccos(jnp.clip(cos, -1.0, 1.0))
    lead = cos_own - cos
    found = jnp.arctan2(lead * jnp.sin(angle), 1 - between + lead * cos)
    return found / jnp.maximum(angle, 1e-6)


def parts(cos: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(a, b) of slerp(k, p; t) = a k + b p, cos = <k, p>; (1, 0) where k and p are parallel."""
    angle = jnp.arccos(jnp.clip(cos, -1.0, 1.0))
    sine = jnp.sin(angle)
    apart = sine > 1e-3
    safe = jnp.where(apart, sine, 1.0)
    a, b = jnp.sin((1 - t) * angle) / safe, jnp.sin(t * angle) / safe
    return jnp.where(apart, a, 1.0), jnp.where(apart, b, 0.0)


def transform(cfg: Config, params, state, pairs: Pairs, ctx: Ctx) -> tuple[Pairs, Loss]:
    given = _anchors.wide(pairs)
    P = state["prototypes"].astype(given.q.dtype)
    k = similarity.l2_normalize(jax.lax.stop_gradient(given.k[:, 0]))
    others, between = _anchors.products(k, P), _anchors.products(P, P)
    own = jnp.argmax(others, axis=1)[:, None]
    which, hardness = _drawn(cfg, ctx.draw, given.owner)
    which = which + (which >= own)  # any prototype but the anchor's own

    cos = jnp.take_along_axis(others, which, axis=1)
    cos_own = jnp.take_along_axis(others, own, axis=1)
    t = (1 - cfg.spread * hardness) * reach(cos, cos_own, between[which, own])
    a, b = parts(cos, t)
    cell = jnp.argmax(a[..., None] * others[:, None] + b[..., None] * between[which], axis=2)
    counts = (cell == own) & (jnp.abs(cos) < 1 - 1e-6) & jnp.any(P) & given.positive[:, :1]

    tau = jnp.asarray(given.tau)
    to_key = jnp.sum(given.q * k, axis=1)[:, None]
    to_other = jnp.take_along_axis(_anchors.products(given.q, P), which, axis=1)
    score = (a * to_key + b * to_other) / (tau if tau.ndim else tau[None, None])
    total = jnp.sum(given.weight[:, None] * jnp.where(counts, -score, 0.0))
    number = jnp.sum(counts)
    latent = total / jnp.maximum(number, 1)
    metrics = {"counted": Term.mean(counts.astype(jnp.float32)), "t": Term.mean(t)}
    newest = given.k[:, 0] if given.enqueue is None else given.enqueue
    # How many count depends on the model, so it is no count of a Term.
    return pairs, Loss({"latent": Term(latent, jnp.float32(1), cfg.mu)}, newest, metrics)


def _drawn(cfg: Config, draw: Draw, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of each anchor: i32[A, samples] below `prototypes` - 1, and f32[A, samples] in [0, 1)."""

    def one(key):
        r_which, r_hardness = jax.random.split(key)
        shape = (cfg.samples,)
        return (
            jax.random.randint(r_which, shape, 0, cfg.prototypes - 1),
            jax.random.uniform(r_hardness, shape),
        )

    which, hardness = jax.vmap(one)(draw.fold("samples").keys())
    return which[image], hardness[image]


def update(cfg: Config, params, state, stats: jax.Array, ctx: Ctx):
    keys = similarity.l2_normalize(stats)
    recent = jnp.concatenate([keys.astype(state["recent"].dtype), state["recent"]])[: cfg.recent]
    seen = jnp.minimum(state["seen"] + len(keys), cfg.recent)
    due = (seen >= cfg.recent) & (ctx.step % cfg.every == 0)
    key = ctx.draw.fold("clustering").key
    prototypes = jax.lax.cond(due, lambda: clustered(cfg, key, recent), lambda: state["prototypes"])
    return params, {"prototypes": prototypes, "recent": recent, "seen": seen}


def clustered(cfg: Config, key: jax.Array, x: jax.Array) -> jax.Array:
    """Spherical k-means over unit vectors [n, D]: unit centres [prototypes, D]."""
    start = x[jax.random.permutation(key, len(x))[: cfg.prototypes]]

    def iterate(_, centres):
        cell = jnp.argmax(_anchors.products(x, centres), axis=1)
        members = jax.nn.one_hot(cell, cfg.prototypes, dtype=x.dtype)
        sums = jnp.matmul(members.T, x, precision=similarity.PRECISION)
        filled = jnp.sum(members, axis=0)[:, None] > 0
        return jnp.where(filled, similarity.l2_normalize(sums), centres)

    return jax.lax.fori_loop(0, cfg.iterations, iterate, start)
