"""What tests of the step share: resolved runs without files, batches, programs, states."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from made_up import tokenize

from facejax import config, mesh, state
from facejax.config import MeshShape, Run
from facejax.contracts import Draw, Spec
from facejax.losses import Given, features_of, losses_of, total
from facejax.step import jitted, train_step

SIZE, CLASSES = 16, 12
TEXT = {"name": "text", "width": 8, "depth": 1, "heads": 2, "vocab": 32, "length": 6, "end": 1}


def resolve(objective: Mapping[str, Any], **keys: Any) -> Run:
    """A run on the toy encoder; `keys` override."""
    values = {
        "steps": 10,
        "global_batch": 8,
        "encoder": {"name": "toy"},
        "objective": objective,
        "optimizer": {
            "name": "sgd",
            "lr": 0.1,
            "schedule": {"kind": "constant"},
            "weight_decay": 0.0,
        },
        "data": {"size": SIZE, "sources": ({"name": "synthetic"},)},
        **keys,
    }
    return config.resolve(values)


def program_of(run: Run, frozen: Mapping[str, Any] | None = None) -> state.Program:
    spec = Spec(
        steps=run.steps,
        global_batch=run.global_batch,
        size=run.data.size,
        towers={k: t.module.tower(t.config) for k, t in run.towers.items()},
        classes={"identity": CLASSES, "clip": 2},
        aug={"mean": run.data.mean, "std": run.data.std},
        tokenize=tokenize,
        sets={"faces": 3, "names": 2},
    )
    return state.plan(run, spec, frozen)


def batch_of(run: Run, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    B, S = run.global_batch, run.data.size
    return {
        "image": rng.integers(0, 256, (B, S, S, 3), dtype=np.uint8),
        "identity": rng.integers(0, CLASSES, B).astype(np.int32),
        "has_identity": np.ones(B, bool),
        # Clips of four rows, two for each of two frames.
        "clip": np.arange(B, dtype=np.int32) // 4,
        "has_clip": np.ones(B, bool),
        "frame": np.arange(B, dtype=np.int32) // 2 % 2,
        "has_frame": np.ones(B, bool),
        "feature": rng.normal(size=(B, 8)).astype(np.float32),
        "has_feature": np.ones(B, bool),
        "regions": rng.integers(0, 11, (B, S, S), dtype=np.uint8),
        # The last row has no text.
        "text": rng.integers(2, 32, (B, 6)).astype(np.int32),
        "has_text": np.arange(B) < B - 1,
        "generated": rng.integers(0, 256, (B, S, S, 3), dtype=np.uint8),
        "has_generated": np.arange(B) > 0,
        # Sets that hold from none to all of their places.
        "faces": rng.normal(size=(B, 3, 8)).astype(np.float32),
        "has_faces": np.ones(B, bool),
        "count_faces": np.arange(B, dtype=np.int32) % 4,
        "names": rng.integers(2, 32, (B, 2, 6)).astype(np.int32),
        "has_names": np.ones(B, bool),
        "count_names": np.arange(B, dtype=np.int32) % 3,
    }


def asked(program: state.Program, seed: int = 0) -> dict[str, np.ndarray]:
    """What of `batch_of` the step reads."""
    wanted = {f"{part}{name}" for name in program.fields() for part in ("", "has_", "count_")}
    return {k: v for k, v in batch_of(program.run, seed).items() if k in wanted}


def states_of(run: Run, count: int) -> list[state.TrainState]:
    """The state before the first and after each of `count` steps, on one device."""
    program = program_of(run)
    step = jax.jit(functools.partial(train_step, program))
    out = [jax.jit(lambda: state.initial(program))()]
    for n in range(count):
        out.append(step(out[-1], asked(program, n), {}, program.constants)[0])
    return out


def steps(
    run: Run, count: int = 1, *, devices: int = 1, shape=(-1, 1), frozen=None, frozen_params=None
) -> tuple[state.TrainState, list[dict[str, Any]]]:
    """Runs `count` steps from scratch on a mesh of fake devices."""
    program = program_of(run, frozen)
    grid = mesh.make(MeshShape(*shape), jax.devices()[:devices])
    current = state.create(program, grid)
    step = jitted(program, grid)
    history = []
    for n in range(count):
        batch = mesh.to_global(grid, run.global_batch, asked(program, n))
        current, metrics = step(current, batch, frozen_params or {}, program.constants)
        history.append(jax.device_get(metrics))
    return current, history


def teacher_gradients(run: Run) -> dict[str, np.ndarray]:
    """What one step's loss would send to the EMA copies of the towers, if they were trained."""
    program = program_of(run)
    current, batch = state.initial(program), asked(program)
    draw = Draw(jax.random.key(0), jax.numpy.arange(run.global_batch))

    def value(towers):
        given = Given(
            program,
            dataclasses.replace(current, ema={**current.ema, "tower": towers}),
            {},
            {},
            program.constants,
        )
        trained = {"params": current.params, "rows": {}}
        features, _ = features_of(given, trained, batch, draw)
        return total(given, losses_of(given, trained, features, batch, draw, given.labels()))

    return leaves(jax.jit(jax.grad(value))(current.ema["tower"]))


def trained_run(workdir: Path, objective: str = "centres", **keys: Any) -> Path:
    """A finished run of two steps on the synthetic source, with a checkpoint of each."""
    from facejax.session import prepare
    from facejax.train import train

    source = {"name": "synthetic", "n": 16, "identities": CLASSES, "size": SIZE}
    run = {
        "steps": 2,
        "checkpoint": {"every_steps": 1},
        "report": False,
        "data": {"size": SIZE, "sources": (source,)},
    }
    assert train(prepare(resolve({objective: {}}, **{**run, **keys}), workdir)) == 0
    return workdir


def leaves(tree: Any) -> dict[str, np.ndarray]:
    from facejax.optim import flatten

    return {k: np.asarray(v) for k, v in flatten(tree).items()}


def assert_close(a: Any, b: Any, atol: float, rtol: float = 0.0) -> None:
    """Two trees with the same paths and nearly the same values."""
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_allclose(a[path], b[path], atol=atol, rtol=rtol, err_msg=path)


def replace_data(run: Run, **keys: Any) -> Run:
    return dataclasses.replace(run, data=dataclasses.replace(run.data, **keys))
