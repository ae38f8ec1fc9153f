"""The training state: one pytree, built under jit so that every leaf is born where it belongs."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from facejax import mesh as mesh_lib
from facejax import optim
from facejax.config import Rule, Run
from facejax.contracts import (
    Draw,
    Ema,
    Frozen,
    OwnEma,
    Params,
    Pass,
    Sparse,
    Spec,
    Student,
    TowerSpec,
    Vars,
    stable_name,
)
from facejax.errors import UserError
from facejax.lora import Adapted
from facejax.typed import keys_of


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    Attributes:
        step: i32[], completed steps; skipped ones count.
        params: {tower: ..., "objective": {label: ...}, "modifier": {label: {name: ...}}}.
        stats: {tower: ...}, BatchNorm statistics.
        opt: the optimiser's state.
        ema: {"tower": {ema: {tower: {"params", "stats"}}}, "objective": {label: {name: ...}}}.
        objective: {"state", "modifier", "sparse", "velocity"}, each by label.
        skipped: i32[], steps whose update was skipped because something was not finite.
        nonfinite: i32[], how many of them came last in a row.
    """

    step: jax.Array
    params: Params
    stats: Params
    opt: Any
    ema: Params
    objective: Params
    skipped: jax.Array
    nonfinite: jax.Array


ITEMS = ("params", "stats", "opt", "ema", "objective")
"""The items of a checkpoint that have a digest of their own."""


@dataclass(frozen=True)
class Program:
    """What a step is made of; nothing in it changes during a run.

    Attributes:
        run: the resolved config.
        spec: the run's facts.
        passes: label -> name -> Pass, as the objectives asked; those that a modifier asked for are
            named <modifier>/<name>.
        forwards: the distinct passes (outputs emptied) with the union of their outputs.
        emas: name -> (Ema, towers that it averages).
        own_emas: label -> name -> OwnEma.
        sparse: label -> name -> Sparse, its constants (the value stands for shape and type).
        frozen: path -> (encoder module, its config), for `Frozen` passes.
        constants: the objectives' fixed arrays by `<label>/<name>`; beside the program, not in it.
        optimizer: the pure optimiser.
    """

    run: Run
    spec: Spec
    passes: Mapping[str, Mapping[str, Pass]]
    forwards: Mapping[Pass, tuple[str, ...]]
    emas: Mapping[str, tuple[Ema, tuple[str, ...]]]
    own_emas: Mapping[str, Mapping[str, OwnEma]]
    sparse: Mapping[str, Mapping[str, Sparse]]
    frozen: Mapping[str, tuple[Any, Any]]
    constants: Mapping[str, np.ndarray]
    optimizer: optim.Transform

    def fields(self) -> tuple[str, ...]:
        """The batch fields that the step reads, sorted."""
        wanted = {"image"}
        for passes in self.passes.values():
            for p in passes.values():
                if p.batched:
                    wanted |= {p.view.field} if p.cached is None else {p.cached}
                wanted |= set(getattr(p.mask, "fields", ()))
        for objective in self.run.objectives.values():
            for plugin in (objective, *objective.modifiers.values()):
                wanted |= set(getattr(plugin.module, "FIELDS", ()))
                if hasattr(plugin.module, "fields"):
                    wanted |= set(plugin.module.fields(plugin.config))
        return tuple(sorted(wanted))


def ema_name(ema: Ema) -> str:
    """A name for an EMA copy that is legal in a path; equal momenta give equal names."""
    return "ema_" + re.sub(r"[^\w.]+", "_", stable_name(ema.momentum)).strip("_")


def bare(p: Pass) -> Pass:
    """The pass without its outputs: what makes two passes one forward."""
    return dataclasses.replace(p, outputs=())


def plan(run: Run, spec: Spec, frozen: Mapping[str, tuple[Any, Any]] | None = None) -> Program:
    """Collects what the objectives want, before anything is initialised.

    Args:
        frozen: encoder module and config of each `Frozen` path; see `frozen_paths`.
    """
    passes, constants = _passes(run, spec), _constants(run, spec)
    forwards: dict[Pass, set[str]] = {}
    emas: dict[str, tuple[Ema, set[str]]] = {}
    for label, named in passes.items():
        for name, p in named.items():
            if p.tower not in spec.towers:
                raise UserError(f"config.{p.tower}", f"objective {label} runs it", "add a section")
            if p.cached is None and not isinstance(p.weights, Student | Ema | Frozen):
                raise TypeError(f"{label}.{name}: weights {p.weights!r}")
            if not p.batched and (p.cached or p.view.field) not in constants:
                raise TypeError(f"{label}.{name}: no constant {p.cached or p.view.field}")
            forwards.setdefault(bare(p), set()).update(p.outputs)
            if isinstance(p.weights, Ema):
                emas.setdefault(ema_name(p.weights), (p.weights, set()))[1].add(p.tower)
    shapes, own_emas, sparse = _declared(run, spec, forwards)
    rules = [rule for label in run.objectives for rule in _objective_rules(run, label)]
    rules += [
        Rule(rf"^{re.escape(name)}/(?!.*/lora/)", frozen_until=-1)
        for name, tower in run.towers.items()
        if isinstance(tower.module, Adapted)
    ]
    optimizer = optim.make(
        run.optimizer, rules, shapes, global_batch=spec.global_batch, steps=spec.steps
    )
    return Program(
        run=run,
        spec=spec,
        passes=passes,
        forwards={p: tuple(sorted(outputs)) for p, outputs in forwards.items()},
        emas={name: (ema, tuple(sorted(towers))) for name, (ema, towers) in emas.items()},
        own_emas=own_emas,
        sparse=sparse,
        frozen=frozen or {},
        constants=constants,
        optimizer=optimizer,
    )


def frozen_paths(run: Run, spec: Spec) -> tuple[str, ...]:
    """The paths of the frozen encoders that objectives and modifiers ask for, sorted."""
    every = (p for named in _passes(run, spec).values() for p in named.values())
    return tuple(sorted({p.weights.path for p in every if isinstance(p.weights, Frozen)}))


def _passes(run: Run, spec: Spec) -> dict[str, dict[str, Pass]]:
    passes = {}
    for label, o in run.objectives.items():
        with keys_of(o.config, f"config.objective.{label}"):
            own = dict(o.module.passes(o.config, spec))
        passes[label] = dict(own)
        for name, m in o.modifiers.items():
            if hasattr(m.module, "passes"):
                with keys_of(m.config, f"config.objective.{label}.modifiers.{name}"):
                    asked = m.module.passes(m.config, own, spec)
                passes[label] |= {f"{name}/{key}": p for key, p in asked.items()}
        passes[label] = {name: _of(label, p) for name, p in passes[label].items()}
    return passes


def _of(label: str, p: Pass) -> Pass:
    """The pass; over an objective's constants, it names them in full."""
    if p.batched:
        return p
    if p.cached is not None:
        return dataclasses.replace(p, cached=f"{label}/{p.cached}")
    view = dataclasses.replace(p.view, field=f"{label}/{p.view.field}")
    return dataclasses.replace(p, view=view)


def _constants(run: Run, spec: Spec) -> dict[str, np.ndarray]:
    out = {}
    for label, o in run.objectives.items():
        if hasattr(o.module, "constants"):
            with keys_of(o.config, f"config.objective.{label}"):
                own = o.module.constants(o.config, spec)
            out |= {f"{label}/{name}": np.asarray(value) for name, value in own.items()}
    return out


def _objective_rules(run: Run, label: str) -> list:
    objective = run.objectives[label]
    rules = objective.module.optim(objective.config) if hasattr(objective.module, "optim") else ()
    prefix = f"^objective/{re.escape(label)}/"
    return [dataclasses.replace(r, pattern=f"{prefix}.*(?:{r.pattern})") for r in rules]


def _towers(run: Run, spec: Spec, forwards, key: jax.Array) -> dict[str, tuple[Params, Params]]:
    out = {}
    for name, tower in run.towers.items():
        tower_spec = TowerSpec(any(p.tower == name and p.replaces for p in forwards))
        out[name] = tower.module.init(tower.config, _fold(key, name), tower_spec)
    return out


def _fold(key: jax.Array, name: str) -> jax.Array:
    return Draw(key, jnp.zeros(0, jnp.int32)).fold(name).key


def _vars(run: Run, spec: Spec, key: jax.Array) -> tuple[dict[str, Vars], dict[str, dict]]:
    """Vars of every objective and of every modifier."""
    objectives, modifiers = {}, {}
    for label, o in run.objectives.items():
        with keys_of(o.config, f"config.objective.{label}"):
            objectives[label] = o.module.init(o.config, _fold(key, f"objective/{label}"), spec)
        width = objectives[label].pairs
        if o.modifiers and not width:
            raise UserError(
                f"config.objective.{label}.modifiers",
                f"{o.name} offers no pairs to modify",
                "drop the modifiers",
            )
        modifiers[label] = {}
        for name, m in o.modifiers.items():
            own = _fold(key, f"modifier/{label}/{name}")
            with keys_of(m.config, f"config.objective.{label}.modifiers.{name}"):
                modifiers[label][name] = m.module.init(m.config, own, spec, width)
    return objectives, modifiers


def _declared(run: Run, spec: Spec, forwards):
    """Shapes of the parameters, and what the objectives declared beside arrays."""
    emas, sparse = {}, {}

    def build(key):
        params, _, _, objectives = _initial(run, spec, forwards, key)
        # `Vars` is no pytree: its declarations leave the trace by the side door.
        emas.update({label: dict(v.ema) for label, v in objectives.items() if v.ema})
        for label, v in objectives.items():
            if v.sparse:
                sparse[label] = {n: dataclasses.replace(s, value=None) for n, s in v.sparse.items()}
        return params

    return jax.eval_shape(build, jax.random.key(0)), emas, sparse


def _initial(run: Run, spec: Spec, forwards, key: jax.Array):
    towers = _towers(run, spec, forwards, key)
    objectives, modifiers = _vars(run, spec, key)
    params = {name: p for name, (p, _) in towers.items()}
    params["objective"] = {label: v.params for label, v in objectives.items() if v.params}
    params["modifier"] = _prune(
        {label: {n: v.params for n, v in named.items()} for label, named in modifiers.items()}
    )
    stats = {name: s for name, (_, s) in towers.items()}
    sparse = {
        label: {n: s.value for n, s in v.sparse.items()}
        for label, v in objectives.items()
        if v.sparse
    }
    objective = {
        "state": {label: v.state for label, v in objectives.items() if v.state},
        "modifier": _prune(
            {label: {n: v.state for n, v in named.items()} for label, named in modifiers.items()}
        ),
        "sparse": sparse,
        "velocity": {
            label: {n: jnp.zeros_like(s.value, s.velocity) for n, s in v.sparse.items()}
            for label, v in objectives.items()
            if v.sparse
        },
    }
    return params, stats, objective, objectives


def _prune(tree: dict[str, dict]) -> dict[str, dict]:
    kept = {label: {n: v for n, v in named.items() if v} for label, named in tree.items()}
    return {label: named for label, named in kept.items() if named}


def initial(program: Program) -> TrainState:
    """The state at step 0 (jittable, no input); randomness is the run's seed alone."""
    key = jax.random.key(program.run.seed)
    params, stats, objective, _ = _initial(program.run, program.spec, program.forwards, key)
    return TrainState(
        step=jnp.int32(0),
        params=params,
        stats=stats,
        opt=program.optimizer.init(params),
        ema=initial_ema(program, params, stats),
        objective=objective,
        skipped=jnp.int32(0),
        nonfinite=jnp.int32(0),
    )


def initial_ema(program: Program, params: Params, stats: Params) -> Params:
    """EMA copies that start at the student."""
    return {
        "tower": {
            name: {t: {"params": params[t], "stats": stats[t]} for t in towers}
            for name, (_, towers) in program.emas.items()
        },
        "objective": {
            label: {
                name: {part: params["objective"][label][part] for part in ema.params}
                for name, ema in named.items()
            }
            for label, named in program.own_emas.items()
        },
    }


def shapes(program: Program) -> TrainState:
    """The state as ShapeDtypeStructs; nothing is computed."""
    return jax.eval_shape(lambda: initial(program))


def placement(program: Program, mesh: jax.sharding.Mesh) -> TrainState:
    """The NamedSharding of every leaf of the state."""
    return mesh_lib.shardings(mesh, shapes(program), program.run.mesh.rules)


def create(program: Program, mesh: jax.sharding.Mesh) -> TrainState:
    """Builds the state at step 0 on the mesh."""
    return jax.jit(lambda: initial(program), out_shardings=placement(program, mesh))()
