"""AMCL: several heads compare each pair, each pair at a temperature of its own.

Source: Wang et al. 2023, arXiv:2310.05615, eqs. 2.1 to 2.4 as its code shows them (LeiWangR/cl; the
paper's text was not at hand). On top of the base's projections stand C heads, two Linear layers
each, with unit outputs of width d', and one net phi, shared by the heads, that gives a pair's

    tau = tau_min + (tau_max - tau_min) sigmoid(-<phi(z), phi(z')>)
    Omega(tau) = d'/2 log tau + 1 / tau

The loss takes the base's place: summed over heads and averaged over anchors, whatever factor the
base puts before its own (SimCLR's is twice the mean),

    "contrast"     -s+ / tau+ + s* / tau* + beta [Omega(tau+) - Omega(tau*)],  * the largest s-
    "attract"      -s+ / tau+ + 2 beta Omega(tau+)
    "correlate"    sum_l (1 - C_ll / tau_ll)^2 + r sum_{l != m} C_lm^2 / tau_lm
                   + beta [sum_l Omega(tau_ll) - sum_{l != m} Omega(tau_lm)]

"auto" is "contrast" where the base offers negatives (SimCLR, MoCo) and "attract" where it offers
none (SimSiam, BYOL); "correlate" is for Barlow Twins, with the correlation C of the heads' outputs,
and pairs of channels, vectors over the batch, in the net. So there the net is as wide as the batch,
one anchor per image is wanted, and beta must be far smaller (the code's 1e-6), as it weighs d'^2
terms. `reduce` "logsumexp" replaces the maximum by its soft form, log sum_n exp(s_n / tau_n - beta
Omega(tau_n)); with a constant `tau`, one head and `include_positive` that is InfoNCE.

A known hazard: for fixed s the positive part has no inner minimum in tau where s >= beta, and the
negative part is always least at a bound; 1 / tau_min is the depth of that well. Only the bounds and
the shared net hold it. So tau_min is 0.05 here, not the code's 1e-5, and `negative_omega` switches
Omega(tau-) off. beta is 0.1 (the code has values from 1e-2 to 1e-6). "log_tau_positive" and
"log_tau_negative" show where temperatures go.

Departures: heads on top of the base's projector, which an identity projector would make the paper's
own; the queue holds the base's keys, which pass through today's heads. Where the base's keys come
from a teacher (it has a queue, or no negatives), heads and net pass no gradient on their side; an
EMA of the heads is not kept. The shape of the net follows the code, the paper's figure was not
confirmed.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from facejax import layers
from facejax.contracts import Ctx, Histogram, Loss, Pairs, Spec, Term, Vars
from facejax.errors import UserError
from facejax.modifiers import _anchors
from facejax.ops import similarity


@dataclass(frozen=True)
class Config:
    """Options of `amcl`.

    Attributes:
        heads: C, number of heads.
        hidden: width of a head's hidden layer; None is the pairs' width.
        out: d', width of a head's output.
        form: "contrast", "attract", "correlate", or "auto", which asks whether there are negatives.
        reduce: over an anchor's negatives, the largest ("max") or all ("logsumexp").
        include_positive: let the positive compete with the negatives.
        beta: weight of Omega.
        negative_omega: whether negatives have an Omega too.
        tau: a constant in place of the net's temperatures, or None.
        tau_min: lower bound of the net's temperatures.
        tau_max: upper bound.
        tau_hidden: width of the net's hidden layer.
        redundancy: r, weight of the correlations of different channels ("correlate").
    """

    heads: int = 3
    hidden: int | None = None
    out: int = 128
    form: Literal["auto", "contrast", "attract", "correlate"] = "auto"
    reduce: Literal["max", "logsumexp"] = "max"
    include_positive: bool = False
    beta: float = 0.1
    negative_omega: bool = True
    tau: float | None = None
    tau_min: float = 0.05
    tau_max: float = 2.0
    tau_hidden: int = 128
    redundancy: float = 5e-3

    @classmethod
    def tiny(cls) -> "Config":
        return cls(heads=2, out=8, tau_hidden=8)


def _head(cfg: Config, width: int) -> layers.MlpHead:
    return layers.MlpHead((cfg.hidden or width, cfg.out))


def _net(cfg: Config, width: int) -> layers.MlpHead:
    return layers.MlpHead((cfg.tau_hidden, width))


def init(cfg: Config, rng: jax.Array, spec: Spec, width: int) -> Vars:
    r_heads, r_net = jax.random.split(rng)
    params = {
        f"head_{c}": _head(cfg, width).init(r, jnp.zeros((2, width)))["params"]
        for c, r in enumerate(jax.random.split(r_heads, cfg.heads))
    }
    if cfg.tau is None:
        pair = spec.global_batch if cfg.form == "correlate" else cfg.out
        params["tau"] = _net(cfg, pair).init(r_net, jnp.zeros((2, pair)))["params"]
    return Vars(params=params)


def omega(tau: jax.Array, width: int) -> jax.Array:
    """Omega, least at 2 / width."""
    return width / 2 * jnp.log(tau) + 1 / tau


def temperature(cfg: Config, agreement: jax.Array) -> jax.Array:
    """Of pairs, from <phi(z), phi(z')>."""
    if cfg.tau is not None:
        return jnp.full_like(agreement, cfg.tau)
    return cfg.tau_min + (cfg.tau_max - cfg.tau_min) * jax.nn.sigmoid(-agreement)


def _phi(cfg: Config, params, z: jax.Array) -> jax.Array:
    if cfg.tau is not None:
        return jnp.zeros_like(z)
    return _net(cfg, z.shape[-1]).apply({"params": params["tau"]}, z)


def transform(cfg: Config, params, state, pairs: Pairs, ctx: Ctx) -> tuple[Pairs, Loss]:
    given = _anchors.wide(pairs)
    form = cfg.form
    if form == "auto":
        form = "contrast" if len(given.neg) else "attract"
    if form == "contrast" and not len(given.neg):
        raise UserError("form", "the base has no negatives to contrast with", "use 'attract'")
    compare = {"contrast": _contrast, "attract": _attract, "correlate": _correlate}[form]
    found = [compare(cfg, params, params[f"head_{c}"], given) for c in range(cfg.heads)]
    each, positive, negative = jax.tree.map(lambda *heads: jnp.stack(heads), *found)
    loss = Term.mean(given.weight * jnp.sum(each, axis=0))
    bounds = {"low": math.log(cfg.tau_min), "high": math.log(cfg.tau_max)}
    metrics = {
        f"log_tau_{name}": Histogram.of(jnp.log(tau), where, **bounds)
        for name, (tau, where) in (("positive", positive), ("negative", negative))
        if tau.size
    }
    return dataclasses.replace(pairs, weight=jnp.zeros_like(pairs.weight)), Loss(
        {"pairs": loss}, metrics=metrics
    )


def _positives(cfg: Config, params, head, given: Pairs, detach: bool):
    """Similarities and temperatures [A, P], phi of the anchors [A, d'], and the keys' side."""
    width = given.q.shape[1]

    def side(params, head, x):
        z = similarity.l2_normalize(_head(cfg, width).apply({"params": head}, x))
        return z, _phi(cfg, params, z)

    theirs = jax.lax.stop_gradient((params, head)) if detach else (params, head)
    z, phi = side(params, head, given.q)
    scorer, scorer_phi = z[:, None], phi[:, None]
    if given.qp is not None:
        scorer, scorer_phi = side(params, head, given.qp)
    key, key_phi = side(*theirs, given.k)
    tau = temperature(cfg, jnp.sum(scorer_phi * key_phi, axis=-1))
    return jnp.sum(scorer * key, axis=-1), tau, (z, phi), lambda x: side(*theirs, x)


def _contrast(cfg: Config, params, head, given: Pairs):
    detach = given.enqueue is not None
    s, tau, (z, phi), keys = _positives(cfg, params, head, given, detach)
    neg, neg_phi = keys(given.neg)
    met = similarity.meets(given)
    s_neg, tau_neg = _anchors.products(z, neg), _anchors.products(phi, neg_phi)
    tau_neg = temperature(cfg, tau_neg)

    pull = -s / tau + cfg.beta * omega(tau, cfg.out)
    rivals = (s_neg, tau_neg, met)
    if cfg.include_positive:
        own = (s, tau, given.positive)
        rivals = tuple(jnp.concatenate(both, axis=1) for both in zip(own, rivals))
    push, chosen = _hardest(cfg, *rivals)
    there = jnp.any(met, axis=1) & jnp.any(given.positive, axis=1)
    each = _anchors.mean(pull, given.positive) + jnp.where(there, push, 0.0)
    return jnp.where(there, each, 0.0), (tau, given.positive), chosen


def _hardest(cfg: Config, s: jax.Array, tau: jax.Array, met: jax.Array):
    """What an anchor's rivals [A, n] cost [A], and the temperatures that were weighed with where.

    An anchor that meets none costs some finite number.
    """
    cost = s / tau - (cfg.beta * omega(tau, cfg.out) if cfg.negative_omega else 0.0)
    if cfg.reduce == "logsumexp":
        safe = met | ~jnp.any(met, axis=1, keepdims=True)
        return jax.nn.logsumexp(jnp.where(safe, cost, -jnp.inf), axis=1), (tau, met)
    hardest = jnp.argmax(jnp.where(met, s, -jnp.inf), axis=1)[:, None]
    chosen, there = jnp.take_along_axis(tau, hardest, 1), jnp.any(met, axis=1, keepdims=True)
    return jnp.take_along_axis(cost, hardest, 1)[:, 0], (chosen, there)


def _attract(cfg: Config, params, head, given: Pairs):
    s, tau, _, _ = _positives(cfg, params, head, given, detach=True)
    each = _anchors.mean(-s / tau + 2 * cfg.beta * omega(tau, cfg.out), given.positive)
    none = jnp.zeros((len(s), 0))
    return each, (tau, given.positive), (none, none.astype(bool))


def _correlate(cfg: Config, params, head, given: Pairs):
    A, width = given.q.shape
    if cfg.tau is None and params["tau"]["fc_0"]["kernel"].shape[0] != A:
        what = f"'correlate' compares channels over the batch, and the base offers {A} anchors"
        raise UserError("form", what, "use a base with one anchor per image")

    def channels(x):
        z = _head(cfg, width).apply({"params": head}, x)
        return similarity.l2_normalize((z - z.mean(0)[None]).T)

    a, b = channels(given.q), channels(given.k[:, 0])
    C = _anchors.products(a, b)
    tau = temperature(cfg, _anchors.products(_phi(cfg, params, a), _phi(cfg, params, b)))
    same = jnp.eye(cfg.out, dtype=bool)
    on = jnp.square(1 - C / tau) + cfg.beta * omega(tau, cfg.out)
    off = cfg.redundancy * jnp.square(C) / tau
    if cfg.negative_omega:
        off -= cfg.beta * omega(tau, cfg.out)
    total = jnp.sum(jnp.where(same, on, off))
    return jnp.broadcast_to(total, A), (tau, same), (tau, ~same)


def flops(cfg: Config, spec: Spec, width: int, negatives: int) -> float:
    """Forward FLOPs per image; the keys' heads have no backward pass and count a third."""
    learned, met = cfg.tau is None, 0 if cfg.form == "attract" else negatives
    sides = _head(cfg, width).flops(width) + learned * _net(cfg, cfg.out).flops(cfg.out)
    sides *= 1 + (1 + met / spec.global_batch) / 3
    return cfg.heads * (sides + (1 + learned) * 2 * met * cfg.out)
