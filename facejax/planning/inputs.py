"""The program of a config and the shapes of its input, on a host that may not hold the data."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from facejax import mesh as mesh_lib
from facejax import model, session, state
from facejax.config import Plugin, Run
from facejax.contracts import Params, TowerSpec
from facejax.data.fields import batch_shape
from facejax.data.mixture import open_sources
from facejax.data.records import Field
from facejax.data.texts import given
from facejax.errors import UserError

ASSUMED_STEPS = 100_000
ASSUMED_ATTRIBUTES = 40
"""As many as CelebA has."""
ASSUMED_LENGTH = 77
"""Tokens of a text."""
ASSUMED_FEATURE = 512
"""Width of the vectors that most face recognisers make."""
ASSUMED_SET = 8
"""Faces and names of a picture at most."""


class _Asked(dict):
    """Numbers of classes; asking for one that nobody told is a UserError."""

    def __missing__(self, name: str) -> int:
        raise UserError(
            f"--classes.{name}",
            f"an objective needs the number of classes of '{name}', and the data is not here",
            f"give --classes.{name}=N",
        )

    def get(self, name: str, default: int | None = None) -> int:
        return self[name]


@dataclass(frozen=True)
class Facts:
    """What the data would tell.

    Attributes:
        fields: of the batch, by name.
        classes: number of classes by field.
        attributes: their names.
        records: how many there are, or None.
        assumed: what was not told and is taken for granted, for the report.
    """

    fields: Mapping[str, Field]
    classes: Mapping[str, int]
    attributes: tuple[str, ...]
    records: int | None
    assumed: tuple[str, ...]


def facts(run: Run, told: Mapping[str, int]) -> Facts:
    """Reads the sources where all of them are here; else takes what was told.

    Args:
        told: number of classes by field, and of "attributes"; goes before the sources'.

    Raises:
        UserError: a source that is here and cannot be opened.
    """
    asked = [inner for outer in run.data.sources for inner in (outer, outer.get("source", {}))]
    missing = [str(s["path"]) for s in asked if not os.path.exists(s.get("path", "/"))]
    if missing:
        return without_data(run, told, ", ".join(missing))
    mixture = open_sources(run.data.sources)
    text = run.data.text
    fields = _with_told(given(mixture.fields, text and text.length), told)
    attributes = fields["attributes"].names if "attributes" in fields else ()
    return Facts(fields, mixture.classes | _classes(told), attributes, len(mixture), ())


def without_data(run: Run, told: Mapping[str, int], missing: str = "") -> Facts:
    """What is known where no source can be opened: every field, and the classes that were told."""
    fields = _with_told(_usual(run), {"attributes": ASSUMED_ATTRIBUTES, **told})
    note = f"the data ({missing}) is not here; its fields are assumed"
    return Facts(fields, _Asked(_classes(told)), fields["attributes"].names, None, (note,))


def _usual(run: Run) -> dict[str, Field]:
    """The fields of `data/records.py`; a class field's number of classes is asked for later."""
    encoder = run.towers["encoder"]
    rows, columns = encoder.module.tower(encoder.config).grid(run.data.size)
    length = run.data.text.length if run.data.text else ASSUMED_LENGTH
    unknown = Field((), "int32", classes=1)
    return {
        **dict.fromkeys(("identity", "expression", "clip", "frame", "target"), unknown),
        **dict.fromkeys(("regions", "generated"), Field((), "uint8")),
        "landmarks": Field((68, 2), "float32"),
        "caption": Field((), "str"),
        "text": Field((length,), "int32"),
        "faces": Field((ASSUMED_SET, ASSUMED_FEATURE), "float32", many=True),
        "names": Field((ASSUMED_SET, length), "int32", many=True),
        "age": Field((), "float32"),
        "pose": Field((3,), "float32"),
        "feature": Field((ASSUMED_FEATURE,), "float32"),
        "codes": Field((rows * columns,), "int32"),
    }


def _classes(told: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in told.items() if name != "attributes"}


def _with_told(fields: Mapping[str, Field], told: Mapping[str, int]) -> dict[str, Field]:
    numbered = {name: Field((), "int32", classes=n) for name, n in _classes(told).items()}
    if "attributes" in told:
        names = tuple(f"attribute {i}" for i in range(told["attributes"]))
        numbered["attributes"] = Field((len(names),), "int8", names=names)
    return {**fields, **numbered}


def with_steps(run: Run, known: Facts) -> Run:
    """`run` with its number of steps; they decide schedules, not what a step costs."""
    if run.steps is None and known.records is None:
        return dataclasses.replace(run, steps=ASSUMED_STEPS, epochs=None)
    return session.with_steps(run, known.records or 0)


def program(run: Run, known: Facts) -> tuple[state.Program, Params]:
    """The program of a run whose steps are set, and the frozen encoders as shapes.

    The run's own encoder stands in for a frozen one that is not here.

    Raises:
        UserError: what the plug-ins or a frozen encoder that is here refuse.
    """
    names = {name: f.names for name, f in known.fields.items() if f.classes and f.names}
    sets = {name: f.shape[0] for name, f in known.fields.items() if f.many}
    spec = session.spec_of(run, known.classes, known.attributes, names=names, sets=sets)
    spec = dataclasses.replace(spec, tokenize=_stand_in_tokens(run))
    encoders, frozen = {}, {}
    for path in state.frozen_paths(run, spec):
        if os.path.exists(path):
            loaded = model.load(path)
            encoders[path] = loaded.module, loaded.encoder_config
            frozen[path] = jax.eval_shape(lambda pair: pair, (loaded.params, loaded.stats))
        else:
            encoders[path], frozen[path] = _stand_in(run.towers["encoder"])
    return state.plan(run, spec, encoders), frozen


def _stand_in_tokens(run: Run):
    """Ids of the right shape: what texts say decides no cost."""
    text = run.data.text
    return text and (lambda texts: np.zeros((len(texts), text.length), np.int32))


def _stand_in(tower: Plugin) -> tuple[tuple[Any, Any], Params]:
    init = partial(tower.module.init, tower.config, spec=TowerSpec())
    return (tower.module, tower.config), jax.eval_shape(init, jax.random.key(0))


def batch(found: state.Program, known: Facts) -> dict[str, jax.ShapeDtypeStruct]:
    """The batch as shapes.

    Raises:
        UserError: the step reads a field that no source gives.
    """
    run = found.run
    wanted = [name for name in found.fields() if name != "image"]
    for name in wanted:
        if name not in known.fields:
            raise UserError(
                "config.data.sources", f"no source gives '{name}'", "name one that does"
            )
        if known.fields[name].classes:
            known.classes[name]  # told, or asked for
    fields = {name: known.fields[name] for name in wanted}
    shapes = batch_shape(fields, run.global_batch, run.data.size)
    return {n: jax.ShapeDtypeStruct(shape, dtype) for n, (shape, dtype) in shapes.items()}


def placed(found: state.Program, frozen: Params, known: Facts, mesh: jax.sharding.Mesh) -> tuple:
    """The arguments of the jitted step, as shapes with their placement."""
    rows, everywhere = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
    shapes = batch(found, known)
    return (
        jax.tree.map(_at, state.shapes(found), state.placement(found, mesh)),
        {name: _at(shape, rows) for name, shape in shapes.items()},
        jax.tree.map(lambda shape: _at(shape, everywhere), frozen),
        {name: _at(value, everywhere) for name, value in found.constants.items()},
    )


def _at(
    shape: jax.ShapeDtypeStruct | np.ndarray, where: jax.sharding.Sharding
) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where)
