"""A traced step as a flat list of operations, with calls inlined and loops kept as such.

Sizes are those of the whole batch on one device. To tell rows from parameters the step is traced
twice, the second time with half of the batch: what then shrinks carries rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal
from jax.interpreters.partial_eval import dce_jaxpr

INLINED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""Where an equation that is a call keeps what it calls."""

LEAVES = ("reduce", "scatter", "pallas_call", "argm", "cum", "sort", "custom_root")
"""Beginnings of the names of primitives whose inner jaxpr is no call."""


@dataclass(frozen=True)
class Value:
    """An array.

    Attributes:
        shape: of the whole batch.
        dtype: its name.
        itemsize: bytes of an element.
        rows: whether it carries rows of the batch.
        name: of the operation that made it.
    """

    shape: tuple[int, ...]
    dtype: str
    itemsize: int
    rows: bool = False
    name: str = ""

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.itemsize


@dataclass(frozen=True)
class Op:
    """An operation.

    Attributes:
        kind: the primitive's name.
        ins, outs: indices into the values of its steps.
        flops: of matrix products and convolutions, a multiply-add counted as two.
        body: what a loop repeats, or the longest branch of a conditional.
        times: how often; 1 where nobody knows.
    """

    kind: str
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    flops: float = 0.0
    body: "Steps | None" = None
    times: int = 1


@dataclass
class Steps:
    """Operations in order.

    Attributes:
        values: all arrays.
        ops: what is done.
        ins, outs: indices of the values that come in and go out.
    """

    values: list[Value] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    ins: tuple[int, ...] = ()
    outs: tuple[int, ...] = ()

    def add(self, value: Value) -> int:
        self.values.append(value)
        return len(self.values) - 1


def steps_of(whole: ClosedJaxpr, half: ClosedJaxpr) -> Steps:
    """Reads a jaxpr.

    Args:
        whole: the traced step.
        half: the same with half of the batch.

    Raises:
        ValueError: the two are different programs.
    """
    steps, other = _read(whole.jaxpr), _read(half.jaxpr)
    _mark_rows(steps, other)
    return steps


def _read(jaxpr: Any, used: list[bool] | None = None) -> Steps:
    if used is None:
        used = [True] * len(jaxpr.outvars)
    jaxpr, _ = dce_jaxpr(jaxpr, used, instantiate=True)
    steps = Steps()
    names = {var: steps.add(_value(var.aval, "argument")) for var in jaxpr.invars}
    names |= {var: steps.add(_value(var.aval, "constant")) for var in jaxpr.constvars}
    steps.ins = tuple(range(len(jaxpr.invars)))
    _inline(jaxpr, names, steps, "")
    steps.outs = tuple(names[v] for v in jaxpr.outvars if not isinstance(v, Literal))
    return steps


def _value(aval: Any, name: str) -> Value:
    dtype = getattr(aval, "dtype", np.dtype("int32"))
    size = 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else np.dtype(dtype).itemsize
    return Value(tuple(getattr(aval, "shape", ())), str(dtype), size, name=name)


def _inline(jaxpr: Any, names: dict, steps: Steps, scope: str) -> None:
    for eqn in jaxpr.eqns:
        kind, stack = eqn.primitive.name, str(eqn.source_info.name_stack)
        where = f"{scope}/{stack}".strip("/")
        ins = tuple(names[v] for v in eqn.invars if not isinstance(v, Literal))
        called = _called(kind, eqn.params)
        if called is not None:
            inner = dict(zip(called.constvars, map(steps.add, map(_constant, called.constvars))))
            for var, given in zip(called.invars, eqn.invars):
                literal = isinstance(given, Literal)
                inner[var] = steps.add(_constant(var)) if literal else names[given]
            _inline(called, inner, steps, where)
            for var, made in zip(eqn.outvars, called.outvars):
                literal = isinstance(made, Literal)
                names[var] = steps.add(_constant(var)) if literal else inner[made]
            continue
        outs = tuple(steps.add(_value(v.aval, f"{where}/{kind}".strip("/"))) for v in eqn.outvars)
        names.update(zip(eqn.outvars, outs))
        if not outs:
            continue
        body, times = _body(kind, eqn.params)
        steps.ops.append(Op(kind, ins, outs, _flops(kind, eqn), body, times))


def _constant(var: Any) -> Value:
    return _value(var.aval, "constant")


def _open(jaxpr: Any) -> Any:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def _called(kind: str, params: Mapping[str, Any]) -> Any | None:
    if kind in ("scan", "while", "cond") or kind.startswith(LEAVES):
        return None
    found = (params[name] for name in INLINED if name in params)
    called = next(found, None)
    return None if called is None else _open(called)


def _body(kind: str, params: Mapping[str, Any]) -> tuple[Steps | None, int]:
    if kind == "scan":
        return _read(_open(params["jaxpr"])), params["length"]
    if kind == "while":
        return _read(_open(params["body_jaxpr"])), 1
    if kind == "cond":
        branches = [_read(_open(branch)) for branch in params["branches"]]
        return max(branches, key=lambda b: len(b.ops)), 1
    return None, 1


def _flops(kind: str, eqn: Any) -> float:
    if kind == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        summed = math.prod(shape[axis] for axis in contracted)
        return 2.0 * summed * math.prod(eqn.outvars[0].aval.shape)
    if kind == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        out_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        summed = math.prod(kernel) / out_channels
        return 2.0 * summed * math.prod(eqn.outvars[0].aval.shape)
    return 0.0


def _mark_rows(steps: Steps, half: Steps) -> None:
    alike = [op.kind for op in steps.ops] == [op.kind for op in half.ops]
    if not alike or len(steps.values) != len(half.values):
        raise ValueError("with half of the batch the step is another program")
    for i, (value, other) in enumerate(zip(steps.values, half.values)):
        rows = value.bytes != other.bytes
        steps.values[i] = replace(value, rows=rows)
    for op, other in zip(steps.ops, half.ops):
        if op.body is not None:
            _mark_rows(op.body, other.body)
