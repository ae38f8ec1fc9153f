"""The encoder forwards of a (micro-)batch: each distinct pass once, whoever asked for it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

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
) -> tuple[dict[Pass, Features], Params]:
    """Runs each distinct pass once.

    Returns:
        Features by bare pass, and the towers' new BatchNorm statistics (the mean over the student's
        training passes).
    """
    shown: dict[Any, dict[str, jax.Array]] = {}
    features, seen = {}, {tower: [] for tower in stats}
    for p, outputs in program.forwards.items():
        if p.cached is not None:
            features[p] = Features(pooled=batch[p.cached], valid=batch.get("valid"))
            continue
        if p.view not in shown:
            shown[p.view] = augment.views(p.view, batch, draw.fold(stable_name(p.view)))
        inputs = shown[p.view]
        drawn = None
        if p.mask is not None:
            size = p.view.aug.size if p.view.aug else None
            grid = program.spec.towers[p.tower].grid(size)
            drawn = p.mask(inputs, grid, draw.fold(stable_name((p.view, p.mask))))
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
            draw=draw.fold(stable_name(p)) if student else None,
            train=not isinstance(p.weights, Frozen),
            outputs=tuple(o for o in outputs if o != "view"),
        )
        if student:
            seen[p.tower].append(new_stats)
        else:
            found = jax.lax.stop_gradient(found)
        features[p] = dataclasses.replace(
            found,
            keep=None if drawn is None else drawn.keep,
            mask=None if drawn is None else drawn.mask,
            valid=batch.get("valid"),
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
