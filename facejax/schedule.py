"""Schedules: a number, or a curve over the steps of a run."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Schedule:
    """A curve over training steps, config-like.

    From step 0 it rises linearly from `warmup_start` to `start` over `warmup` steps, stays at
    `start` for `hold` steps, and then goes from `start` to `end` by step `steps`.

    Attributes:
        kind: "cosine" (half a cosine), "linear", "constant" (stays at `start`), "step" (multiplied
            by `factor` at each of `milestones`), "rsqrt" (`start` * sqrt(warmup / step)).
        start: value after the warm-up.
        end: value at the horizon, for "cosine" and "linear".
        warmup: steps of linear warm-up; a value below 1 is a share of the horizon.
        warmup_start: value at step 0 when there is a warm-up.
        hold: steps at `start` before the decay begins; a value below 1 is a share of the horizon.
        milestones: for "step"; values up to 1 are shares of the horizon.
        factor: for "step".
        steps: the horizon; None means the whole run, so that extending a run renames nothing.
    """

    kind: Literal["cosine", "linear", "constant", "step", "rsqrt"] = "cosine"
    start: float = 1.0
    end: float = 0.0
    warmup: float = 0.0
    warmup_start: float = 0.0
    hold: float = 0.0
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    steps: int | None = None


def at(schedule: float | Schedule, step: jax.Array, total: int) -> jax.Array | float:
    """Evaluates a schedule at `step` (i32[], completed steps) of a run of `total` steps.

    Returns:
        The number itself for a number, f32[] for a `Schedule`.

    >>> import jax.numpy as jnp
    >>> float(at(Schedule("cosine", start=0.996, end=1.0), jnp.int32(50), 100))
    0.9980000257492065
    """
    if not isinstance(schedule, Schedule):
        return schedule
    s = schedule
    horizon = s.steps or total
    warmup = s.warmup * horizon if s.warmup < 1 else s.warmup
    hold = s.hold * horizon if s.hold < 1 else s.hold
    t = jnp.asarray(step, jnp.float32)
    decay_steps = max(horizon - warmup - hold, 1.0)
    progress = jnp.clip((t - warmup - hold) / decay_steps, 0.0, 1.0)
    if s.kind == "cosine":
        value = s.end + (s.start - s.end) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
    elif s.kind == "linear":
        value = s.start + (s.end - s.start) * progress
    elif s.kind == "step":
        marks = [m * horizon if m <= 1 else m for m in s.milestones]
        value = s.start * s.factor ** sum(((t >= m).astype(jnp.float32) for m in marks), 0.0)
    elif s.kind == "rsqrt":
        value = s.start * jnp.sqrt(max(warmup, 1.0) / jnp.maximum(t, max(warmup, 1.0)))
    else:
        value = jnp.full((), s.start)
    if warmup:
        rising = s.warmup_start + (s.start - s.warmup_start) * t / warmup
        value = jnp.where(t < warmup, rising, value)
    return jnp.asarray(value, jnp.float32)
