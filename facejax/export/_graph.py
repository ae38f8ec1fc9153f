"""An ONNX graph under construction, and the jaxpr that is turned into it.

A value is a `Const` (a NumPy array that is known while converting) or a `Name` of a tensor in the
graph. Sizes are whole numbers, or multiples of the one symbolic batch. What has only constants as
input is computed at once.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from facejax.errors import UserError

OPSET = 18
IR_VERSION = 9
"""Old enough for runtimes of the last years."""


CALLS = ("jit", "pjit", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")
"""Primitives that only wrap what they call."""


@dataclasses.dataclass(frozen=True)
class Const:
    """A tensor that is known while converting."""

    value: np.ndarray


@dataclasses.dataclass(frozen=True)
class Name:
    """A tensor of the graph."""

    name: str


Value = Const | Name
Op = Callable[["Graph", core.JaxprEqn, list[Value]], Value]


def multiple(size: Any) -> int | None:
    """k where `size` is k times the batch, None where it is a whole number.

    Raises:
        UserError: it is another expression.
    """
    if isinstance(size, int | np.integer):
        return None
    found = re.fullmatch(r"(?:(\d+)\*)?b", str(size))
    if found is None:
        raise _cannot(f"a tensor of size {size}")
    return int(found[1] or 1)


def _cannot(what: str) -> UserError:
    return UserError("--format", f"onnx has no form for {what}", "use the format stablehlo")


class Graph:
    """Collects nodes and initialisers.

    Args:
        ops: what makes the nodes of a primitive, by its name.
    """

    def __init__(self, ops: Mapping[str, Op]):
        self.ops = ops
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._batch: Name | None = None
        self._shape_of = ""
        self._stored: dict[tuple, tuple[str, np.ndarray]] = {}

    # ------------------------------------------------------------------------------- building

    def name(self, value: Value) -> str:
        """The name of a value in the graph; a constant becomes an initialiser."""
        if isinstance(value, Name):
            return value.name
        from onnx import numpy_helper

        array = np.asarray(value.value, order="C")
        key = (array.dtype.str, array.shape, array.tobytes() if array.size < 64 else id(array))
        if key not in self._stored:
            name = f"c{len(self._stored)}"
            self._stored[key] = name, array  # kept, so that no other array gets its id
            self.initializers.append(numpy_helper.from_array(array, name))
        return self._stored[key][0]

    def add(self, kind: str, inputs: Sequence[Value], **attributes: Any) -> Name:
        """Adds a node with one output.

        Node names are numbers: readers guess from names such as "Sub" and "Mul" (insightface takes
        them for a normalisation inside).
        """
        from onnx import helper

        out = f"t{len(self.nodes)}"
        names = [self.name(value) for value in inputs]
        node = helper.make_node(kind, names, [out], name=f"n{len(self.nodes)}", **attributes)
        self.nodes.append(node)
        return Name(out)

    def integers(self, values: Sequence[int]) -> Const:
        """An i64 tensor."""
        return Const(np.asarray(values, np.int64))

    def sizes(self, shape: Sequence[Any]) -> Value:
        """A shape as a tensor i64[rank], the batch filled in when the graph runs."""
        factors = [multiple(size) for size in shape]
        if not any(factors):
            return self.integers([int(size) for size in shape])
        if self._batch is None:
            whole = self.add("Shape", [Name(self._shape_of)])
            self._batch = self.add("Slice", [whole, self.integers([0]), self.integers([1])])
        parts: list[Value] = []
        for size, factor in zip(shape, factors):
            if factor is None:
                parts.append(self.integers([int(size)]))
            elif factor == 1:
                parts.append(self._batch)
            else:
                parts.append(self.add("Mul", [self._batch, self.integers([factor])]))
        return self.add("Concat", parts, axis=0)

    def reshape(self, value: Value, shape: Sequence[Any]) -> Value:
        """The value in another shape; at most one size may depend on the batch."""
        symbolic = [multiple(size) is not None for size in shape]
        if sum(symbolic) > 1:
            raise _cannot(f"a reshape to {tuple(shape)}")
        static = [-1 if free else int(size) for size, free in zip(shape, symbolic)]
        if isinstance(value, Const):
            return Const(value.value.reshape(static))
        return self.add("Reshape", [value, self.integers(static)])

    # -------------------------------------------------------------------------------- reading

    def run(self, closed: core.ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
        """Adds what a jaxpr computes."""
        return self._run(closed.jaxpr, [Const(np.asarray(c)) for c in closed.consts], inputs)

    def _run(self, jaxpr, consts: Sequence[Value], inputs: Sequence[Value]) -> list[Value]:
        values: dict[Any, Value] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs)))

        def read(atom) -> Value:
            if isinstance(atom, core.Literal):
                return Const(np.asarray(atom.val, atom.aval.dtype))
            return values[atom]

        for eqn in jaxpr.eqns:
            given = [read(atom) for atom in eqn.invars]
            for var, value in zip(eqn.outvars, self._equation(eqn, given)):
                values[var] = value
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: core.JaxprEqn, given: list[Value]) -> list[Value]:
        if eqn.primitive.name in CALLS:
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            closed = hasattr(inner, "consts")
            jaxpr, consts = (inner.jaxpr, inner.consts) if closed else (inner, ())
            return self._run(jaxpr, [Const(np.asarray(c)) for c in consts], given)
        static = all(multiple(n) is None for v in eqn.outvars for n in v.aval.shape)
        if static and all(isinstance(value, Const) for value in given):
            found = eqn.primitive.bind(*(value.value for value in given), **eqn.params)
            several = eqn.primitive.multiple_results
            return [Const(np.asarray(f)) for f in (found if several else [found])]
        op = self.ops.get(eqn.primitive.name)
        if op is None:
            raise _cannot(f"the primitive '{eqn.primitive.name}'")
        return [op(self, eqn, given)]

    def model(
        self,
        function: Callable[[jax.Array], Mapping[str, jax.Array]],
        shape: Sequence[int],
        input_name: str,
        output_names: Sequence[str],
    ) -> Any:
        """The ONNX model of a function of images f32[batch, *shape], with named f32 outputs."""
        from onnx import TensorProto, helper

        (b,) = jax.export.symbolic_shape("b")
        given = jax.ShapeDtypeStruct((b, *shape), np.float32)

        def listed(images):
            found = function(images)
            return [found[name] for name in output_names]

        closed, out = jax.make_jaxpr(listed, return_shape=True)(given)
        self._shape_of = input_name
        infos = []
        for name, value, s in zip(output_names, self.run(closed, [Name(input_name)]), out):
            node = helper.make_node("Identity", [self.name(value)], [name], name=f"o_{name}")
            self.nodes.append(node)
            sizes = ["batch" if multiple(n) == 1 else int(n) for n in s.shape]
            infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
        first = helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["batch", *shape])
        graph = helper.make_graph(self.nodes, "facejax", [first], infos, self.initializers)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="facejax"
        )
