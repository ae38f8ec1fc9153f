"""The encoder forwards of a (micro-)batch: each distinct pass once, whoever asked for it."""

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from facejax import augment
from facejax.contracts import Draw, Ema, Features, Frozen, Params, Pass, Student, stable_name
from facejax.state import Program, ema_name

Batch = Mapping[str, jax.Array]


def forward(
    program: Program,
    params: Params,
    stats: Params,
    ema: Params,
    frozen: Params,
    batch: Batch,
    draw: Draw,
    constants: Batch = MappingProxyType({}),
    passes: Iterable[Pass] | None = None,
) -> tuple[dict[Pass, Features], Params]:
    """Runs each distinct pass once.

    Args:
        constants: the objectives' fixed arrays by `<label>/<name>`, which passes that are not
            `batched` read in the batch's place.
        passes: the bare ones that run (default: all of the program's).

    Returns:
        Features by bare pass, and the towers' new BatchNorm statistics (the mean over the student's
        training passes over rows of the batch).
    """
    shown: dict[Any, dict[str, jax.Array]] = {}
    features, seen = {}, {tower: [] for tower in stats}
    for p in program.forwards if passes is None else passes:
        rows = batch if p.batched else constants
        if p.cached is not None:
            features[p] = Features(pooled=rows[p.cached], valid=rows.get("valid"))
            continue
        outputs = program.forwards[p]
        own = draw if p.batched else Draw(draw.key, jnp.arange(len(rows[p.view.field])))
        if p.view not in shown:
            shown[p.view] = augment.views(p.view, rows, own.fold(stable_name(p.view)))
        inputs = shown[p.view]
        drawn = None
        if p.mask is not None:
            size = p.view.aug.size if p.view.aug else None
            grid = program.spec.towers[p.tower].grid(size)
            drawn = p.mask(inputs, grid, own.fold(stable_name((p.view, p.mask))))
        module, config, weights, statistics = weights_of(program, p, params, stats, ema, frozen)
        student = isinstance(p.weights, Student)
        found, new_stats = module.apply(
            config,
            weights,
            statistics,
            inputs,
            mask=drawn,
            context=None,
            cond=None,
            draw=own.fold(stable_name(p)) if student else None,
            train=not isinstance(p.weights, Frozen),
            outputs=tuple(o for o in outputs if o != "view"),
        )
        if student and p.batched:
            seen[p.tower].append(new_stats)
        if not student:
            found = jax.lax.stop_gradient(found)
        features[p] = dataclasses.replace(
            found,
            keep=None if drawn is None else drawn.keep,
            mask=None if drawn is None else drawn.mask,
            valid=rows.get("valid"),
            view=inputs if "view" in outputs else None,
        )
    mean = {t: jax.tree.map(lambda *s: sum(s) / len(s), *many) for t, many in seen.items() if many}
    return features, {**stats, **mean}


def weights_of(program: Program, p: Pass, params, stats, ema, frozen):
    if isinstance(p.weights, Frozen):
        module, config = program.frozen[p.weights.path]
        weights, statistics = frozen[p.weights.path]
        return module, config, weights, statistics
    tower = program.run.towers[p.tower]
    if isinstance(p.weights, Ema):
        copy = ema["tower"][ema_name(p.weights)][p.tower]
        return tower.module, tower.config, copy["params"], copy["stats"]
    return tower.module, tower.config, params[p.tower], stats[p.tower]
