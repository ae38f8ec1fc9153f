"""Model FLOPs of a training step, from the analytic counts of encoders and objectives."""

import math

from facejax.contracts import Frozen, Student
from facejax.state import Program


def flops_per_image(program: Program) -> float | None:
    """Model FLOPs of one training step per image: 3x the student's forward, 1x a teacher's.

    None where an encoder or an objective does not say.
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
        total += 3.0 * objective.module.flops(objective.config, program.spec)
        applied = getattr(objective.module, "applied", lambda *_: {})
        for key, times in applied(objective.config, program.spec).items():
            tower = run.towers[key]
            total += 3.0 * times * tower.module.flops(tower.config, None, None)
    return total
