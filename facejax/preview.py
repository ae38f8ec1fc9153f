"""Pictures for the report: what objectives with a `preview` make of a few rows of a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from facejax.contracts import Ctx, Draw, Params
from facejax.forward import Batch, forward
from facejax.losses import own_constants
from facejax.state import Program, TrainState, bare

ROWS = 8


def previews(
    program: Program, state: TrainState, batch: Batch, frozen: Params, constants: Batch
) -> dict[str, tuple[list[str], np.ndarray]]:
    """label -> (column names, u8[rows, columns, S, S, 3]) of the objectives that have a `preview`.

    The first rows of the batch are shown.
    """
    objectives = program.run.objectives
    labels = [label for label, o in objectives.items() if hasattr(o.module, "preview")]
    if not labels:
        return {}
    render = _renderer(_Hashable(program), tuple(labels), state.step.sharding)
    found = render(state, batch, frozen, constants)
    mean, std = (np.asarray(program.spec.aug[k], np.float32) for k in ("mean", "std"))
    out = {}
    for label, columns in found.items():
        order = objectives[label].module.PREVIEW  # a dict leaves jit sorted by key
        images = np.stack([np.asarray(columns[name]) for name in order], axis=1) * std + mean
        out[label] = (list(order), np.uint8(np.clip(images, 0, 1) * 255 + 0.5))
    return out


class _Hashable:
    """A program as a static argument: the same object is the same program."""

    def __init__(self, program: Program):
        self.program = program

    def __hash__(self) -> int:
        return id(self.program)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and other.program is self.program


@functools.cache
def _renderer(program: _Hashable, labels: tuple[str, ...], replicated: jax.sharding.Sharding):
    """The jitted pictures of `labels`, the same on every device."""
    return jax.jit(functools.partial(_render, program.program, labels), out_shardings=replicated)


def _render(
    program: Program, labels, state: TrainState, batch: Batch, frozen: Params, constants: Batch
):
    batch = {name: values[:ROWS] for name, values in batch.items()}
    count = batch["image"].shape[0]
    key = jax.random.fold_in(jax.random.key(program.run.seed), state.step)
    draw = Draw(key, jnp.arange(count, dtype=jnp.int32))
    features, _ = forward(
        program, state.params, state.stats, state.ema, frozen, batch, draw, constants
    )
    out = {}
    for label in labels:
        objective = program.run.objectives[label]
        feats = {name: features[bare(p)] for name, p in program.passes[label].items()}
        fixed = own_constants(constants, label)
        ctx = Ctx(step=state.step, draw=draw, spec=program.spec, constants=fixed)
        own = state.params["objective"].get(label, {})
        out[label] = objective.module.preview(objective.config, own, feats, ctx)
    return out
