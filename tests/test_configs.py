"""Every file in configs/ says what it is, resolves, and gives a step that traces at its full size.

Nothing is compiled or read, so neither the hardware nor the data of a config is needed here.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from facejax import command_line, config, state
from facejax.contracts import Spec, TowerSpec
from facejax.step import train_step

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("[!_]*.py"))
CLASSES = {"identity": 1000, "expression": 7}
ATTRIBUTES = tuple(f"attribute {i}" for i in range(40))
# Shape per row and type of each batch field; S is the side of the images.
FIELDS = {
    "image": lambda S: ((S, S, 3), jnp.uint8),
    "regions": lambda S: ((S, S), jnp.uint8),
    "generated": lambda S: ((S, S, 3), jnp.uint8),
    "landmarks": lambda S: ((68, 2), jnp.float32),
    "attributes": lambda S: ((len(ATTRIBUTES),), jnp.int8),
    "identity": lambda S: ((), jnp.int32),
    "expression": lambda S: ((), jnp.int32),
    "age": lambda S: ((), jnp.float32),
    "pose": lambda S: ((3,), jnp.float32),
    "feature": lambda S: ((128,), jnp.float32),
    "clip": lambda S: ((), jnp.int32),
    "frame": lambda S: ((), jnp.int32),
}


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def path(request):
    return request.param


def batch_shapes(program: state.Program) -> dict[str, jax.ShapeDtypeStruct]:
    B, S = program.run.global_batch, program.run.data.size
    shapes = {}
    for name in program.fields():
        shape, dtype = FIELDS[name](S)
        shapes[name] = jax.ShapeDtypeStruct((B, *shape), dtype)
        if name != "image":
            shapes[f"has_{name}"] = jax.ShapeDtypeStruct((B,), bool)
    return shapes


def test_there_are_configs():
    assert "quickstart" in {path.stem for path in CONFIGS}


def test_docstring_says_how_to_run_it_and_what_came_out(path):
    lines = path.read_text().split('"""')[1].splitlines()
    for name in ("Command", "Hardware", "Time", "Result"):
        said = [line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:")]
        assert said, f"no line '{name}:'"
        assert said[0], f"nothing after '{name}:'"
    command = next(line for line in lines if line.startswith("Command:"))
    assert f"python -m facejax.train --config=configs/{path.name}" in command


def test_resolves_to_values_that_resolve_to_the_same_run(path):
    run = config.resolve(command_line.load_file(str(path)))
    assert config.resolve(config.to_dict(run)) == run


def test_step_traces(path):
    run = config.resolve(command_line.load_file(str(path)))
    spec = Spec(
        steps=run.steps or 1000,
        global_batch=run.global_batch,
        size=run.data.size,
        towers={key: tower.module.tower(tower.config) for key, tower in run.towers.items()},
        classes=CLASSES,
        attributes=ATTRIBUTES,
        artifacts=run.artifacts,
        aug={"mean": run.data.mean, "std": run.data.std},
    )
    # A fixed encoder that a config names is not there; the run's own stands in for it.
    tower = run.towers["encoder"]
    paths = state.frozen_paths(run, spec)
    program = state.plan(run, spec, dict.fromkeys(paths, (tower.module, tower.config)))
    key = jax.random.key(0)
    init = jax.eval_shape(lambda: tower.module.init(tower.config, key, TowerSpec()))
    before = state.shapes(program)
    after, metrics = jax.eval_shape(
        lambda current, batch, frozen: train_step(program, current, batch, frozen),
        before,
        batch_shapes(program),
        dict.fromkeys(paths, init),
    )
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(after)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(before)
    ]
    assert {"loss", *(f"loss/{label}" for label in run.objectives)} <= metrics.keys()
