"""Every file in configs/ says what it is, resolves, and gives a step that traces at its full size.

Nothing is compiled or read, so neither the hardware nor the data of a config is needed here.
"""

from pathlib import Path

import jax
import pytest

from facejax import command_line, config, state
from facejax.data.records import Field
from facejax.planning import inputs
from facejax.step import train_step

FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(path for path in FOLDER.glob("*.py") if path.stem != "common")
TOLD = {"identity": 1000, "expression": 7, "clip": 100, "frame": 2, "attack": 9}


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def path(request):
    return request.param


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
    known = inputs.without_data(run, TOLD)
    # Of the encoder whose vectors a config reads.
    known.fields["feature"] = Field((128,), "float32")
    known.fields["faces"] = Field((4, 128), "float32", many=True)
    run = inputs.with_steps(run, known)
    program, frozen = inputs.program(run, known)
    before = state.shapes(program)
    after, metrics = jax.eval_shape(
        lambda *arguments: train_step(program, *arguments),
        before,
        inputs.batch(program, known),
        frozen,
        program.constants,
    )
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(after)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(before)
    ]
    assert {"loss", *(f"loss/{label}" for label in run.objectives)} <= metrics.keys()
