"""From config to optimiser: optax directions, one learning rate, rules by regex over paths.

The learning rate and the weight decay come from the step number, never from a counter inside the
optimiser's state, so a skipped step cannot shift a schedule. Parameters that are frozen for a while
and parameters with another optimiser have a state of their own, held whole (Adam's count too).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from facejax.config import Optimizer, Rule
from facejax.contracts import Params, Sparse
from facejax.errors import UserError
from facejax.ops.groups import apart
from facejax.schedule import Schedule, at


class Transform(NamedTuple):
    """A pure optimiser.

    Attributes:
        init: params -> state.
        update: (grads, state, params, step) -> (updates, state); updates are to be added.
        lr: step -> f32[], the run's learning rate.
    """

    init: Callable[[Params], Any]
    update: Callable[[Params, Any, Params, jax.Array], tuple[Params, Any]]
    lr: Callable[[jax.Array], jax.Array]


def path_of(path: tuple) -> str:
    """Spells a pytree path as "encoder/blocks_00/attn/qkv/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: Params) -> dict[str, Any]:
    """The leaves of a tree by their path."""
    return {path_of(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def make(
    cfg: Optimizer, rules: Sequence[Rule], params: Params, *, global_batch: int, steps: int
) -> Transform:
    """Builds the optimiser for parameters of the given structure.

    Args:
        cfg: the run's optimiser.
        rules: the objectives' rules; they come after the config's own.
        params: the parameters, or their shapes.
        global_batch: rows per step, for `base_lr`.
        steps: of the run, the horizon of schedules.

    Raises:
        UserError: a rule of the config finds no parameter, or its pattern is no regular expression.
    """
    leaves = flatten(params)
    _check_patterns(cfg.rules)
    rule_of = {path: _first(path, [*cfg.rules, *rules]) for path in leaves}
    for i, rule in enumerate(cfg.rules):
        if not any(_matches(rule, path) for path in leaves):
            raise UserError(
                f"config.optimizer.rules[{i}].pattern",
                f"'{rule.pattern}' finds no parameter",
                f"paths look like '{next(iter(leaves))}'",
            )
    groups: dict[str, list[str]] = {}
    for path, rule in rule_of.items():
        groups.setdefault(_group_name(rule), []).append(path)
    trained = {name: paths for name, paths in groups.items() if name != "frozen"}
    decayed = {path for path, leaf in leaves.items() if leaf.ndim > 1}

    def lr(step: jax.Array, schedule: Schedule = cfg.schedule) -> jax.Array:
        return jnp.float32(cfg.peak(global_batch)) * jnp.float32(at(schedule, step, steps))

    def init(params: Params) -> Any:
        flat = flatten(params)
        return {
            name: _directions(cfg, rule_of[paths[0]].name).init({p: flat[p] for p in paths})
            for name, paths in trained.items()
        }

    def update(grads: Params, state: Any, params: Params, step: jax.Array) -> tuple[Params, Any]:
        flat_grads, flat_params = flatten(grads), flatten(params)
        if cfg.clip is not None:
            live = {p: flat_grads[p] for paths in trained.values() for p in paths}
            scale = jnp.minimum(1.0, cfg.clip / (optax.tree.norm(live) + 1e-6))
            flat_grads = {p: g * scale for p, g in flat_grads.items()}
        rate = {rule: lr(step, rule.schedule or cfg.schedule) for rule in set(rule_of.values())}
        decay = jnp.float32(at(cfg.weight_decay, step, steps))
        updates = {p: jnp.zeros_like(v) for p, v in flat_params.items()}
        new_state = {}
        for name, paths in trained.items():
            rule = rule_of[paths[0]]
            family = _directions(cfg, rule.name)
            rates = {p: rate[rule_of[p]] * rule_of[p].lr for p in paths}
            decays = {p: decay * rule_of[p].weight_decay if p in decayed else 0.0 for p in paths}
            moved, moments = family.update(
                {p: flat_grads[p] for p in paths},
                state[name],
                {p: flat_params[p] for p in paths},
                rates,
                decays,
            )
            if rule.frozen_until:
                active = step >= _in_steps(rule.frozen_until, steps)
                moved = jax.tree.map(lambda u, on=active: jnp.where(on, u, 0), moved)
                moments = jax.tree.map(
                    lambda new, old, on=active: jnp.where(on, new, old), moments, state[name]
                )
            updates.update(moved)
            new_state[name] = moments
        treedef = jax.tree.structure(params)
        return jax.tree.unflatten(treedef, [updates[p] for p in leaves]), new_state

    return Transform(init, update, lr)


def sparse_update(
    sparse: Sparse,
    value: jax.Array,
    velocity: jax.Array,
    grad: jax.Array,
    rows: jax.Array,
    lr: jax.Array,
    ok: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """SGD with momentum on a few rows of a large array, in place.

    Args:
        sparse: the constants.
        value: f32[C, D].
        velocity: [C, D].
        grad: f32[R, D], gradient of the gathered rows.
        rows: i32[R], unique row numbers; those from C on are padding.
        lr: the run's learning rate.
        ok: bool[], false to leave everything as it was.

    Returns:
        The new value and velocity. Rows with a non-finite gradient stay as they were, whatever the
        others do.
    """
    n = value.shape[0] // sparse.groups

    def moved(old, v, grad, lr):
        v = sparse.momentum * v.astype(grad.dtype) + grad + sparse.weight_decay * old
        return old - lr * sparse.lr * v, v.astype(velocity.dtype)

    def change(first, value, velocity, grad, rows, lr, ok):
        fine = ok & jnp.isfinite(grad).all(axis=1)
        if sparse.groups > 1 and len(rows) == len(value):
            new = moved(value, velocity, grad, lr)
            return tuple(jnp.where(fine[:, None], n, o) for n, o in zip(new, (value, velocity)))
        rows = jnp.where(fine, rows - first * n, value.shape[0])
        old, v = (x.at[rows].get(mode="fill", fill_value=0) for x in (value, velocity))
        new = zip((value, velocity), moved(old, v, grad, lr))
        return tuple(x.at[rows].set(n, mode="drop") for x, n in new)

    if sparse.groups == 1:
        return change(0, value, velocity, grad, rows, lr, ok)
    return apart(change, sparse.groups, (value, velocity, grad, rows), (lr, ok))


class _Family(NamedTuple):
    init: Callable[[Mapping[str, jax.Array]], Any]
    update: Callable[..., tuple[dict[str, jax.Array], Any]]


def _directions(cfg: Optimizer, name: str | None) -> _Family:
    """One optimiser over a flat dict of arrays; learning rate and decay are per leaf."""
    name = name or cfg.name
    if name == "adamw":
        inner = optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps)
    else:
        inner = optax.trace(cfg.momentum)

    def update(grads, state, params, rates, decays):
        if name == "adamw":
            moved, state = inner.update(grads, state)
            return {p: -rates[p] * (moved[p] + decays[p] * params[p]) for p in moved}, state
        grads = {p: g + decays[p] * params[p] for p, g in grads.items()}
        if name == "sgd":
            moved, state = inner.update(grads, state)
            return {p: -rates[p] * moved[p] for p in moved}, state
        # LARS keeps the learning rate inside the momentum, as its authors' code does.
        scaled = {p: rates[p] * _trust(cfg, grads[p], params[p]) for p in grads}
        moved, state = inner.update(scaled, state)
        return {p: -moved[p] for p in moved}, state

    return _Family(inner.init, update)


def _trust(cfg: Optimizer, grad: jax.Array, param: jax.Array) -> jax.Array:
    """LARS (You et al. 2017, eq. 6): the layer's rate follows ||w|| / ||g||; 1-D leaves keep 1."""
    if param.ndim <= 1:
        return grad
    p, g = jnp.linalg.norm(param), jnp.linalg.norm(grad)
    ratio = jnp.where((p > 0) & (g > 0), cfg.trust * p / jnp.maximum(g, 1e-30), 1.0)
    return grad * ratio


def _first(path: str, rules: Sequence[Rule]) -> Rule:
    return next((r for r in rules if _matches(r, path)), Rule(pattern=""))


def _matches(rule: Rule, path: str) -> bool:
    return re.search(rule.pattern, path) is not None


def _check_patterns(rules: Sequence[Rule]) -> None:
    for i, rule in enumerate(rules):
        try:
            re.compile(rule.pattern)
        except re.error as e:
            where = f"config.optimizer.rules[{i}].pattern"
            what = f"'{rule.pattern}' is no regular expression ({e})"
            raise UserError(where, what, "mend it") from e


def _group_name(rule: Rule) -> str:
    if rule.frozen_until == -1:
        return "frozen"
    parts = [rule.name or "main", f"from_{rule.frozen_until:g}" if rule.frozen_until else ""]
    return "_".join(p for p in parts if p)


def _in_steps(value: float, steps: int) -> float:
    return value * steps if value < 1 else value
