"""ONNX nodes of the primitives that encoders are made of, by the primitive's name.

Each function takes (graph, equation, inputs) and returns the value of the equation's output. What
a primitive can do beyond what is here is refused, and so is every other primitive.
"""

import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from facejax.export._graph import Const, Graph, Name, Op, Value, _cannot, multiple


def _direct(kind: str) -> Op:
    """A primitive that is one node on the same inputs."""
    return lambda graph, eqn, given: graph.add(kind, given)


def _same(graph: Graph, eqn, given: list[Value]) -> Value:
    return given[0]


def _chain(*kinds: str) -> Op:
    """Nodes one after the other on one input."""

    def op(graph: Graph, eqn, given: list[Value]) -> Value:
        value = given[0]
        for kind in kinds:
            value = graph.add(kind, [value])
        return value

    return op


def _scalar(eqn, number: float) -> Const:
    return Const(np.asarray(number, eqn.outvars[0].aval.dtype))


def _erfc(graph: Graph, eqn, given: list[Value]) -> Value:
    return graph.add("Sub", [_scalar(eqn, 1), graph.add("Erf", given)])


def _log1p(graph: Graph, eqn, given: list[Value]) -> Value:
    return graph.add("Log", [graph.add("Add", [_scalar(eqn, 1), *given])])


def _square(graph: Graph, eqn, given: list[Value]) -> Value:
    return graph.add("Mul", [given[0], given[0]])


def _integer_pow(graph: Graph, eqn, given: list[Value]) -> Value:
    return graph.add("Pow", [given[0], _scalar(eqn, eqn.params["y"])])


def _not_equal(graph: Graph, eqn, given: list[Value]) -> Value:
    return graph.add("Not", [graph.add("Equal", given)])


def _clamp(graph: Graph, eqn, given: list[Value]) -> Value:
    low, value, high = given
    return graph.add("Min", [graph.add("Max", [value, low]), high])


def _select(graph: Graph, eqn, given: list[Value]) -> Value:
    which, *cases = given
    if len(cases) != 2 or eqn.invars[0].aval.dtype != bool:
        raise _cannot(f"a choice of {len(cases)} cases")
    return graph.add("Where", [which, cases[1], cases[0]])


def _convert(graph: Graph, eqn, given: list[Value]) -> Value:
    from onnx import helper

    new = np.dtype(eqn.params["new_dtype"])
    if new == eqn.invars[0].aval.dtype:
        return given[0]
    return graph.add("Cast", given, to=helper.np_dtype_to_tensor_dtype(new))


# ------------------------------------------------------------------------------------- shapes


def _transpose(graph: Graph, eqn, given: list[Value]) -> Value:
    return permuted(graph, given[0], eqn.params["permutation"])


def permuted(graph: Graph, value: Value, order: Sequence[int]) -> Value:
    """The value with its axes in another order."""
    order = [int(axis) for axis in order]
    if order == sorted(order):
        return value
    if isinstance(value, Const):
        return Const(value.value.transpose(order))
    return graph.add("Transpose", [value], perm=order)


def _reshape(graph: Graph, eqn, given: list[Value]) -> Value:
    if eqn.params.get("dimensions") is not None:
        raise _cannot("a reshape in another order of axes")
    return graph.reshape(given[0], eqn.outvars[0].aval.shape)


def _broadcast(graph: Graph, eqn, given: list[Value]) -> Value:
    shape, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    before = eqn.invars[0].aval.shape
    aligned: list[Any] = [1] * len(shape)
    for size, place in zip(before, places):
        aligned[place] = size
    value = graph.reshape(given[0], aligned)
    if all(str(a) == str(s) for a, s in zip(aligned, shape)):
        return value
    # Where the value has the batch already, a size of 1 leaves it as it is.
    wanted = [1 if str(a) == str(s) else s for a, s in zip(aligned, shape)]
    return graph.add("Expand", [value, graph.sizes(wanted)])


def _squeeze(graph: Graph, eqn, given: list[Value]) -> Value:
    return graph.reshape(given[0], eqn.outvars[0].aval.shape)


def _concatenate(graph: Graph, eqn, given: list[Value]) -> Value:
    return graph.add("Concat", given, axis=int(eqn.params["dimension"]))


def _slice(graph: Graph, eqn, given: list[Value]) -> Value:
    p, shape = eqn.params, eqn.invars[0].aval.shape
    strides = p["strides"] or (1,) * len(shape)
    bounds = list(zip(p["start_indices"], p["limit_indices"], strides))
    cut = [
        a for a, bound in enumerate(bounds) if tuple(map(str, bound)) != ("0", str(shape[a]), "1")
    ]
    if any(multiple(shape[a]) is not None for a in cut):
        raise _cannot("a slice of the batch")
    starts, ends, steps = ([int(bounds[a][i]) for a in cut] for i in range(3))
    columns = (starts, ends, cut, steps)
    return graph.add("Slice", [given[0], *map(graph.integers, columns)]) if cut else given[0]


def _gather(graph: Graph, eqn, given: list[Value]) -> Value:
    """Slices and rows at known places, which is what `x[:, :, 1]` and `x[..., ::2]` become."""
    d, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    value, where = given
    shape = eqn.invars[0].aval.shape
    if not isinstance(where, Const) or d.operand_batching_dims:
        raise _cannot("a gather at computed places")
    cut = [axis for axis, (size, n) in enumerate(zip(sizes, shape)) if str(size) != str(n)]
    starts = dict(zip(d.start_index_map, np.atleast_2d(where.value).T))
    if any(
        np.min(starts[axis]) < 0 or np.max(starts[axis]) + sizes[axis] > shape[axis] for axis in cut
    ):
        raise _cannot("a gather outside of its operand")
    moving = [axis for axis in cut if np.ptp(starts[axis]) > 0]
    first = [int(starts[axis][0]) for axis in cut if axis not in moving]
    still = [axis for axis in cut if axis not in moving]
    if still:
        ends = [start + int(sizes[axis]) for start, axis in zip(first, still)]
        columns = (first, ends, still, [1] * len(still))
        value = graph.add("Slice", [value, *map(graph.integers, columns)])
    if where.value.ndim == 1:
        return graph.reshape(value, eqn.outvars[0].aval.shape)
    if where.value.ndim != 2 or len(moving) != 1 or d.collapsed_slice_dims != tuple(moving):
        raise _cannot("a gather along several axes")
    (axis,) = moving
    taken = graph.add("Gather", [value, graph.integers(starts[axis])], axis=int(axis))
    rank = len(eqn.outvars[0].aval.shape)
    (place,) = set(range(rank)) - set(d.offset_dims)
    order = [a for a in range(rank) if a != axis]
    order.insert(place, axis)
    return permuted(graph, taken, order)


def _pad(graph: Graph, eqn, given: list[Value]) -> Value:
    config = eqn.params["padding_config"]
    if any(low < 0 or high < 0 or inner for low, high, inner in config):
        raise _cannot("a padding that cuts or spreads")
    pads = [int(low) for low, _, _ in config] + [int(high) for _, high, _ in config]
    return graph.add("Pad", [given[0], graph.integers(pads), given[1]])


def _reverse(graph: Graph, eqn, given: list[Value]) -> Value:
    axes = [int(axis) for axis in eqn.params["dimensions"]]
    last = np.iinfo(np.int64).min
    columns = ([-1] * len(axes), [last] * len(axes), axes, [-1] * len(axes))
    return graph.add("Slice", [given[0], *map(graph.integers, columns)])


# ----------------------------------------------------------------------- reductions, products


def _reduce(kind: str) -> Op:
    def op(graph: Graph, eqn, given: list[Value]) -> Value:
        axes = graph.integers([int(axis) for axis in eqn.params["axes"]])
        return graph.add(kind, [given[0], axes], keepdims=0)

    return op


def _dot(graph: Graph, eqn, given: list[Value]) -> Value:
    (lhs_sum, rhs_sum), (lhs_batch, rhs_batch) = eqn.params["dimension_numbers"]
    ranks = [len(v.aval.shape) for v in eqn.invars]
    lhs_free = [a for a in range(ranks[0]) if a not in (*lhs_sum, *lhs_batch)]
    rhs_free = [a for a in range(ranks[1]) if a not in (*rhs_sum, *rhs_batch)]
    given = [_as(graph, value, v, eqn) for value, v in zip(given, eqn.invars)]
    one = len(lhs_sum) == 1 and len(rhs_free) == 1
    if one and (not lhs_batch or len(lhs_free) == 1):
        lhs = permuted(graph, given[0], (*lhs_batch, *lhs_free, *lhs_sum))
        rhs = permuted(graph, given[1], (*rhs_batch, *rhs_sum, *rhs_free))
        return graph.add("MatMul", [lhs, rhs])
    letters = iter(string.ascii_lowercase)
    left = [next(letters) for _ in range(ranks[0])]
    right = [next(letters) for _ in range(ranks[1])]
    for a, b in zip((*lhs_sum, *lhs_batch), (*rhs_sum, *rhs_batch)):
        right[b] = left[a]
    out = [*(left[a] for a in (*lhs_batch, *lhs_free)), *(right[a] for a in rhs_free)]
    equation = f"{''.join(left)},{''.join(right)}->{''.join(out)}"
    return graph.add("Einsum", given, equation=equation)


def _as(graph: Graph, value: Value, var, eqn) -> Value:
    """The operand of a product in the type of the result."""
    from onnx import helper

    new = eqn.outvars[0].aval.dtype
    if var.aval.dtype == new:
        return value
    return graph.add("Cast", [value], to=helper.np_dtype_to_tensor_dtype(np.dtype(new)))


def _conv(graph: Graph, eqn, given: list[Value]) -> Value:
    p = eqn.params
    numbers = p["dimension_numbers"]
    if any(n != 1 for n in p["lhs_dilation"]) or p["batch_group_count"] != 1:
        raise _cannot("a transposed convolution")
    if any(low < 0 or high < 0 for low, high in p["padding"]):
        raise _cannot("a convolution with negative padding")
    image = permuted(graph, given[0], numbers.lhs_spec)
    kernel = permuted(graph, given[1], numbers.rhs_spec)
    out = graph.add(
        "Conv",
        [image, kernel],
        strides=list(p["window_strides"]),
        dilations=list(p["rhs_dilation"]),
        group=int(p["feature_group_count"]),
        pads=[int(low) for low, _ in p["padding"]] + [int(high) for _, high in p["padding"]],
    )
    return permuted(graph, out, np.argsort(numbers.out_spec))


def _window(kind: str) -> Op:
    """Pooling over the two middle axes of [B, H, W, C]; a sum is a mean times the window."""

    def op(graph: Graph, eqn, given: list[Value]) -> Value:
        p = eqn.params
        window, strides, padding = p["window_dimensions"], p["window_strides"], p["padding"]
        plain = [*p["base_dilation"], *p["window_dilation"]] == [1] * 8
        flat = len(window) == 4 and (window[0], window[3]) == (1, 1) == (strides[0], strides[3])
        if not (plain and flat and padding[0] == (0, 0) == padding[3]):
            raise _cannot("a pooling over other axes than rows and columns")
        pads = [int(padding[a][side]) for side in (0, 1) for a in (1, 2)]
        size = [int(n) for n in window[1:3]]
        more = {"count_include_pad": 1} if kind == "AveragePool" else {}
        image = permuted(graph, given[0], (0, 3, 1, 2))
        steps = [int(n) for n in strides[1:3]]
        out = graph.add(kind, [image], kernel_shape=size, strides=steps, pads=pads, **more)
        if kind == "AveragePool":
            out = graph.add("Mul", [out, _scalar(eqn, size[0] * size[1])])
        return permuted(graph, out, (0, 2, 3, 1))

    return op


DIRECT = {
    **{"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "neg": "Neg", "abs": "Abs"},
    **{"max": "Max", "min": "Min", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "pow": "Pow"},
    **{"erf": "Erf", "tanh": "Tanh", "logistic": "Sigmoid", "sin": "Sin", "cos": "Cos"},
    **{"sign": "Sign", "floor": "Floor", "ceil": "Ceil", "gt": "Greater", "lt": "Less"},
    **{"ge": "GreaterOrEqual", "le": "LessOrEqual", "eq": "Equal", "and": "And", "or": "Or"},
    **{"not": "Not"},
}

OPS: dict[str, Callable[..., Name | Const]] = {
    **{primitive: _direct(kind) for primitive, kind in DIRECT.items()},
    **dict.fromkeys(("copy", "copy_p", "stop_gradient"), _same),
    "rsqrt": _chain("Sqrt", "Reciprocal"),
    "erfc": _erfc,
    "log1p": _log1p,
    "square": _square,
    "integer_pow": _integer_pow,
    "ne": _not_equal,
    "clamp": _clamp,
    "select_n": _select,
    "convert_element_type": _convert,
    "transpose": _transpose,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "expand_dims": _squeeze,
    "concatenate": _concatenate,
    "slice": _slice,
    "gather": _gather,
    "pad": _pad,
    "rev": _reverse,
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "reduce_window_sum": _window("AveragePool"),
    "reduce_window_max": _window("MaxPool"),
}
