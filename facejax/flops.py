"""Model FLOPs of a training step, from the analytic counts of encoders and objectives."""

from facejax.contracts import Frozen, Student
from facejax.state import Program


def flops_per_image(program: Program) -> float | None:
    """Model FLOPs of one training step per image: 3x the student's forward, 1x a teacher's.

    None where an encoder or an objective does not say.
    """
    total = 0.0
    for p in program.forwards:
        if p.cached is not None:
            continue
        tower = program.run.towers[p.tower]
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
        total += times * module.flops(config, size, keep)
    for objective in program.run.objectives.values():
        if not hasattr(objective.module, "flops"):
            return None
        total += 3.0 * objective.module.flops(objective.config, program.spec)
    return total
