"""The pure train step: (state, batch) -> (state, metrics). No objective is known here by name.

One step: draw the views and masks, run each distinct forward once, add the weighted terms of all
objectives, differentiate, and update in the order optimiser, `update` hooks, EMA. With
`micro_batch` set, the step accumulates exactly: objectives of "batch" scope see the features of all
micro-batches at once, and means are taken over the sums of all of them.

B rows of the global batch, A micro-batches; micro-batch m is the rows m::A.
"""

import dataclasses
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

from facejax import mesh as mesh_lib
from facejax import optim
from facejax.contracts import Ctx, Draw, Features, Histogram, Loss, Params, Term, stable_name
from facejax.forward import Batch
from facejax.losses import (
    Given,
    Trained,
    applier,
    context,
    features_of,
    losses_of,
    sum_terms,
    total,
)
from facejax.ops.groups import take
from facejax.schedule import at
from facejax.state import Program, TrainState, bare, placement
from facejax.typed import keys_of


def train_step(
    program: Program,
    state: TrainState,
    batch: Batch,
    frozen: Params,
    constants: Mapping[str, jax.Array] = MappingProxyType({}),
) -> tuple[TrainState, dict[str, Any]]:
    """One optimiser step.

    Args:
        program: what the step is made of (static).
        state: donated by the caller.
        batch: global arrays of B rows.
        frozen: path -> (params, stats) of the frozen encoders.
        constants: the arrays of `program.constants`.

    Returns:
        The new state and the metrics: scalars, and `Histogram`s by name. If the loss or a gradient
        is not finite, only counters move: `skipped` (in all) and `nonfinite` (the last in a row).
    """
    run = program.run
    B = batch["image"].shape[0]
    key = jax.random.fold_in(jax.random.key(run.seed), state.step)
    draw = Draw(key, jnp.arange(B, dtype=jnp.int32))
    rows = _sparse_rows(program, state, batch, draw)
    trained = {"params": state.params, "rows": _gather(program, state.objective["sparse"], rows)}
    given = Given(program, state, frozen, rows, constants)
    if run.micro_batch in (None, B):
        grads, losses, stats = _one_shot(given, trained, batch, draw)
    else:
        grads, losses, stats = _accumulated(given, trained, batch, draw, B // run.micro_batch)

    loss = total(given, losses)
    norm = optax.tree.norm(grads["params"])
    row_norm = optax.tree.norm(grads["rows"])
    ok = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(row_norm)
    new = _update(given, grads, losses, stats, batch, draw, ok)
    metrics = {
        "loss": loss,
        "lr": program.optimizer.lr(state.step),
        "grad_norm": jnp.sqrt(norm**2 + row_norm**2),
        "skipped": new.skipped,
        "nonfinite": new.nonfinite,
    }
    for label, own in losses.items():
        metrics[f"loss/{label}"] = sum_terms(own)
        if len(own.terms) > 1:
            metrics |= {f"{label}/{name}": t.value() for name, t in own.terms.items()}
        for name, metric in own.metrics.items():
            value = metric.value() if isinstance(metric, Term) else metric
            metrics[f"{label}/{name}"] = value
    return new, metrics


def jitted(program: Program, mesh: jax.sharding.Mesh):
    """`train_step` under jit, its arguments in order; the state is donated and keeps its place."""
    return jax.jit(
        mesh_lib.within(mesh, functools.partial(train_step, program)),
        donate_argnums=0,
        out_shardings=(placement(program, mesh), mesh_lib.replicated(mesh)),
    )


# ---------------------------------------------------------------------------------- gradients


def _one_shot(given: Given, trained: Trained, batch: Batch, draw: Draw):
    def objective(trained: Trained):
        features, stats = features_of(given, trained, batch, draw)
        apply = applier(given, trained, draw)
        losses = losses_of(given, trained, features, batch, draw, given.labels(), apply)
        return total(given, losses), (losses, stats)

    grads, (losses, stats) = jax.grad(objective, has_aux=True)(trained)
    return grads, losses, stats


def _accumulated(given: Given, trained: Trained, batch: Batch, draw: Draw, A: int):
    """Exact accumulation in three sweeps.

    1. Forward of all micro-batches without gradient: the features that "batch" objectives read, and
       the counts of all "sample" terms (XLA drops whatever else that forward would compute).
    2. The "batch" losses once, with their gradient towards parameters and features.
    3. Forward and backward of each micro-batch: the "sample" terms divided by the total counts, and
       the features' inner product with their gradient from 2.

    A pass that is not batched runs where its loss is taken: once in 2, or in each sweep of 3.
    """
    sample, whole = given.labels("sample"), given.labels("batch")
    asked = {
        scope: {bare(p) for label in labels for p in given.program.passes[label].values()}
        for scope, labels in (("sample", sample), ("batch", whole))
    }
    cached = {p for p in asked["batch"] if p.batched}
    once = [p for p in given.program.forwards if p in asked["batch"] - cached]
    swept = [p for p in given.program.forwards if p.batched or p in asked["sample"]]
    micro = jax.tree.map(lambda x: _split(x, A), {"batch": dict(batch), "rows": draw.rows})

    def run_micro(trained, part):
        part_draw = Draw(draw.key, part["rows"])
        features, stats = features_of(given, trained, part["batch"], part_draw, swept)
        losses = losses_of(given, trained, features, part["batch"], part_draw, sample)
        return features, losses, stats

    def sweep_forward(_, part):
        features, losses, _ = run_micro(trained, part)
        counts = {
            label: {name: t.count for name, t in loss.terms.items()}
            for label, loss in losses.items()
        }
        return None, ({stable_name(p): features[p] for p in cached}, counts)

    _, (kept, counts) = jax.lax.scan(sweep_forward, None, micro)
    counts = jax.tree.map(lambda c: c.sum(axis=0), counts)
    kept = jax.tree.map(_join, kept)

    def whole_batch(trained, pulled):
        features = {p: _merge(pulled[stable_name(p)], kept[stable_name(p)]) for p in cached}
        features |= features_of(given, trained, batch, draw, once)[0]
        losses = losses_of(given, trained, features, batch, draw, whole)
        return total(given, losses), losses

    pulled = {name: _split_inexact(f)[0] for name, f in kept.items()}
    (grads, pull), losses = jax.grad(whole_batch, argnums=(0, 1), has_aux=True)(trained, pulled)
    pull = jax.tree.map(lambda x: _split(x, A), pull)

    def sweep_backward(grads, part):
        def objective(trained):
            features, losses, stats = run_micro(trained, part)
            value = jnp.float32(0)
            for label, loss in losses.items():
                for name, term in loss.terms.items():
                    share = dataclasses.replace(term, count=counts[label][name]).value()
                    value += given.weight(label) * term.weight * share
            for p in cached:
                own = _split_inexact(features[p])[0]
                products = jax.tree.map(_inner, own, part["pull"][stable_name(p)])
                value += sum(jax.tree.leaves(products), jnp.float32(0))
            return value, (losses, stats)

        own_grads, (own_losses, stats) = jax.grad(objective, has_aux=True)(trained)
        return jax.tree.map(jnp.add, grads, own_grads), (own_losses, stats)

    grads, (many, stats) = jax.lax.scan(sweep_backward, grads, {**micro, "pull": pull})
    for label in sample:
        losses[label] = _add_up(many[label])
    stats = jax.tree.map(lambda s: s.mean(axis=0), stats)
    return grads, {label: losses[label] for label in given.labels()}, stats


def _inner(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(a.astype(jnp.float32) * b.astype(jnp.float32))


def _add_up(loss: Loss) -> Loss:
    """Sums a Loss whose leaves carry a leading axis of micro-batches; weights are free of data."""
    total = jax.tree.map(lambda x: x.sum(axis=0), loss)
    terms = {
        name: dataclasses.replace(t, weight=jnp.asarray(loss.terms[name].weight)[0])
        for name, t in total.terms.items()
    }
    metrics = {
        name: m if isinstance(m, Histogram) else dataclasses.replace(m, weight=1.0)
        for name, m in total.metrics.items()
    }
    return Loss(terms, total.stats, metrics)


def _split(x: jax.Array, A: int) -> jax.Array:
    """[B, ...] -> [A, B/A, ...], micro-batch m being the rows m::A (no data crosses devices)."""
    return jnp.swapaxes(x.reshape(x.shape[0] // A, A, *x.shape[1:]), 0, 1)


def _join(x: jax.Array) -> jax.Array:
    """The inverse of `_split`."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])


def _split_inexact(features: Features) -> tuple[Features, Features]:
    """Features as (what can carry a gradient, the rest); None marks what is in the other half."""
    names = ("pooled", "prefix", "tokens", "layers")
    carried = {f.name: None for f in dataclasses.fields(Features) if f.name not in names}
    rest = dataclasses.replace(features, **dict.fromkeys(names))
    return dataclasses.replace(features, **carried), rest


def _merge(inexact: Features, kept: Features) -> Features:
    rest = _split_inexact(kept)[1]
    own = {
        f.name: getattr(inexact, f.name)
        if getattr(inexact, f.name) is not None
        else getattr(rest, f.name)
        for f in dataclasses.fields(Features)
    }
    return Features(**own)


# ------------------------------------------------------------------------------------- update


def _update(
    given: Given, grads: Trained, losses, stats, batch: Batch, draw: Draw, ok
) -> TrainState:
    program, state = given.program, given.state
    optimizer = program.optimizer
    updates, opt = optimizer.update(grads["params"], state.opt, state.params, state.step)
    params = optax.apply_updates(state.params, updates)
    params, objective = _hooks(given, params, losses, draw)
    ema = _averaged(program, state, params, stats)
    new = {"params": params, "stats": stats, "opt": opt, "ema": ema, "objective": objective}
    old = {name: getattr(state, name) for name in new}
    old["objective"] = {name: state.objective[name] for name in objective}
    new = jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)

    sparse, velocity = {}, {}
    for label, named in state.objective["sparse"].items():
        sparse[label], velocity[label] = {}, {}
        for name, value in named.items():
            sparse[label][name], velocity[label][name] = optim.sparse_update(
                program.sparse[label][name],
                value,
                state.objective["velocity"][label][name],
                grads["rows"][label][name],
                given.rows[label][name],
                optimizer.lr(state.step),
                ok,
            )
    new["objective"] |= {"sparse": sparse, "velocity": velocity}
    return TrainState(
        step=state.step + 1,
        skipped=state.skipped + jnp.where(ok, 0, 1),
        nonfinite=jnp.where(ok, 0, state.nonfinite + 1),
        **new,
    )


def _hooks(given: Given, params: Params, losses: Mapping[str, Loss], draw: Draw):
    """The `update` functions of objectives and modifiers, after the optimiser."""
    params = {
        **params,
        "objective": dict(params["objective"]),
        "modifier": dict(params["modifier"]),
    }
    states = dict(given.state.objective["state"])
    modifier_states = {k: dict(v) for k, v in given.state.objective["modifier"].items()}
    for label, objective in given.program.run.objectives.items():
        ctx, stats = context(given, label, draw, None), losses[label].stats
        stats = jax.lax.stop_gradient(stats)
        if hasattr(objective.module, "update"):
            with keys_of(objective.config, f"config.objective.{label}"):
                own, state = objective.module.update(
                    objective.config,
                    params["objective"].get(label, {}),
                    states.get(label, {}),
                    stats["own"],
                    ctx,
                )
            _put(params["objective"], label, own)
            _put(states, label, state)
        for name, modifier in objective.modifiers.items():
            if hasattr(modifier.module, "update"):
                named = params["modifier"].get(label, {})
                own, state = modifier.module.update(
                    modifier.config,
                    named.get(name, {}),
                    modifier_states.get(label, {}).get(name, {}),
                    stats["modifier"][name],
                    ctx,
                )
                if own:
                    params["modifier"][label] = {**named, name: own}
                if state:
                    modifier_states[label][name] = state
    return params, {"state": states, "modifier": modifier_states}


def _put(tree: dict, label: str, value: Params) -> None:
    if value:
        tree[label] = value


def _averaged(program: Program, state: TrainState, params: Params, stats: Params) -> Params:
    def average(momentum, old, new):
        m = at(momentum, state.step, program.spec.steps)
        return jax.tree.map(lambda a, b: a * m + b * (1 - m), old, new)

    towers = {}
    for name, (ema, which) in program.emas.items():
        student = {t: {"params": params[t], "stats": stats[t]} for t in which}
        towers[name] = average(ema.momentum, state.ema["tower"][name], student)
    own = {}
    for label, named in program.own_emas.items():
        own[label] = {}
        for name, ema in named.items():
            student = {part: params["objective"][label][part] for part in ema.params}
            old = state.ema["objective"][label][name]
            own[label][name] = average(ema.momentum, old, student)
    return {"tower": towers, "objective": own}


def _sparse_rows(program: Program, state: TrainState, batch: Batch, draw: Draw):
    """label -> name -> i32[R]: the rows that this step may change; asked once, globally."""
    out = {}
    for label in state.objective["sparse"]:
        objective = program.run.objectives[label]
        ctx = Ctx(step=state.step, draw=draw.fold(f"objective/{label}"), spec=program.spec)
        own = state.params["objective"].get(label, {})
        with keys_of(objective.config, f"config.objective.{label}"):
            rows = objective.module.rows(objective.config, own, batch, ctx)
        # A negative index would wrap around; past the end it is padding.
        out[label] = {
            name: jnp.where(r < 0, state.objective["sparse"][label][name].shape[0], r)
            for name, r in rows.items()
        }
    return out


def _gather(program: Program, sparse: Params, rows: Mapping[str, Mapping[str, jax.Array]]):
    return {
        label: {
            # Padding rows may lie outside the array and read as zero; the loss masks them.
            name: take(value, rows[label][name], program.sparse[label][name].groups)
            for name, value in named.items()
        }
        for label, named in sparse.items()
    }
