"""Model FLOPs of a training step, from the analytic counts of encoders and objectives."""

import math

from facejax.config import Objective
from facejax.contracts import Frozen, Student
from facejax.state import Program


def flops_per_image(program: Program) -> float | None:
    """Model FLOPs of one training step per image: 3x the student's forward, 1x a teacher's.

    Modifiers count where a queue makes them matter; with negatives from the batch they do not (on a
    ViT-S, 0.2 % at most). None where an encoder or an objective does not say.
    """
    total, run = 0.0, program.run
    for p in program.forwards:
        if p.cached is not None:
            continue
        tower = run.towers[p.tower]
        module, config = tower.module, tower.config
        if isinstance(p.weights, Frozen):
            module, config = program.frozen[p.weights.path]
        if not hasattr(module, "flops"):
            return None
        keep = None
        size = p.view.aug.size if p.view.aug else None
        if p.mask is not None and not p.replaces:
            rows, columns = program.spec.towers[p.tower].grid(size)
            keep = int(rows * columns * (1 - p.mask.ratio))
        times = 3.0 if isinstance(p.weights, Student) else 1.0
        if not p.batched:
            shape = program.constants[p.view.field].shape
            times *= math.prod(shape[:-1] if p.view.aug is None else shape[:1]) / run.global_batch
        elif p.view.field in program.spec.sets:
            times *= program.spec.sets[p.view.field]
        total += times * module.flops(config, size, keep)
    for objective in run.objectives.values():
        if not hasattr(objective.module, "flops"):
            return None
        total += 3.0 * _of_objective(program, objective)
    return total


def _of_objective(program: Program, objective: Objective) -> float:
    """Forward FLOPs per image of an objective, its modifiers and the towers that its loss runs."""
    module, config, spec = objective.module, objective.config, program.spec
    total = module.flops(config, spec)
    for key, times in getattr(module, "applied", lambda *_: {})(config, spec).items():
        tower = program.run.towers[key]
        total += times * tower.module.flops(tower.config, None, None)
    if hasattr(module, "queued"):
        count, width = module.queued(config, spec)
        counted = [m for m in objective.modifiers.values() if hasattr(m.module, "flops")]
        total += sum(m.module.flops(m.config, spec, width, count) for m in counted)
    return total
