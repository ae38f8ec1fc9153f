"""Renaming of parameters: a table of entries serves both export and import.

`names/<family>.py` has one function per foreign format that returns such a table. A table is
bijective: every parameter and every foreign tensor stands in exactly one entry.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facejax.errors import UserError

Array = np.ndarray
Params = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """A change of layout and its inverse."""

    write: Callable[[Array], Array] = lambda a: a
    read: Callable[[Array], Array] = lambda a: a


SAME = Layout()
LINEAR = Layout(np.transpose, np.transpose)
"""A kernel [in, out] here is a weight [out, in] there."""
TOKENS = Layout(lambda a: a[None], lambda a: a[0])
"""Tokens [n, D] here have a leading batch axis [1, n, D] there."""


def patch_conv(patch: int) -> Layout:
    """A kernel [patch * patch * 3, D] here is a convolution [D, 3, patch, patch] there."""
    return Layout(
        lambda a: a.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1),
        lambda a: a.transpose(2, 3, 1, 0).reshape(patch * patch * 3, -1),
    )


@dataclass(frozen=True)
class Entry:
    """One tensor under its two names.

    Attributes:
        theirs: the foreign key.
        ours: the path in our tree, joined by "/"; "" for a tensor that our side computes.
        layout: from ours to theirs and back.
        constant: the value of a tensor that our side computes, in their layout.
    """

    theirs: str
    ours: str = ""
    layout: Layout = SAME
    constant: Array | None = None


def linear(theirs: str, ours: str, bias: bool = True) -> list[Entry]:
    """The entries of a Linear layer."""
    entries = [Entry(f"{theirs}.weight", f"{ours}/kernel", LINEAR)]
    return entries + ([Entry(f"{theirs}.bias", f"{ours}/bias")] if bias else [])


def norm(theirs: str, ours: str) -> list[Entry]:
    """The entries of a norm with scale and bias."""
    return [Entry(f"{theirs}.weight", f"{ours}/scale"), Entry(f"{theirs}.bias", f"{ours}/bias")]


def flatten(tree: Params, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": x}} to {"a/b": x}."""
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return flat


def export_tensors(table: Sequence[Entry], params: Params) -> dict[str, Array]:
    """Our parameters as foreign tensors, f32 and contiguous.

    Args:
        table: covers exactly the leaves of `params`.
        params: nested dict of arrays.

    Raises:
        ValueError: a parameter without an entry, or an entry without its parameter.
    """
    flat = flatten(params)
    odd = flat.keys() ^ {e.ours for e in table if e.ours}
    if odd:
        raise ValueError(f"the name table and the parameters differ in {sorted(odd)}")
    tensors = {}
    for e in table:
        value = e.layout.write(np.asarray(flat[e.ours])) if e.ours else e.constant
        tensors[e.theirs] = np.ascontiguousarray(value, np.float32)
    return tensors


def import_tensors(
    table: Sequence[Entry], tensors: Mapping[str, Array], shapes: Params, where: str
) -> Params:
    """Foreign tensors as our parameters, f32: the inverse of `export_tensors`.

    Args:
        table: the entries.
        tensors: by foreign key.
        shapes: nested dict of anything with a `shape`: the parameters that are wanted.
        where: the file, for the error.

    Raises:
        UserError: names every missing, unexpected and wrongly shaped tensor, and every computed
            one that holds other values than ours.
    """
    wanted = {path: tuple(leaf.shape) for path, leaf in flatten(shapes).items()}
    entries = {e.theirs: e for e in table}
    problems = {
        "missing": sorted(entries.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - entries.keys()),
        "wrong shape": [],
        "wrong values": [],
    }
    params: Params = {}
    for name in sorted(entries.keys() & tensors.keys()):
        e, tensor = entries[name], np.asarray(tensors[name])
        expected = e.layout.write(np.broadcast_to(0, wanted[e.ours])) if e.ours else e.constant
        if tensor.shape != expected.shape:
            shapes_text = f"{list(tensor.shape)}, not {list(expected.shape)}"
            problems["wrong shape"].append(f"{name} {shapes_text}")
        elif e.ours:
            *parents, leaf = e.ours.split("/")
            node = params
            for key in parents:
                node = node.setdefault(key, {})
            node[leaf] = np.ascontiguousarray(e.layout.read(tensor), np.float32)
        elif not np.allclose(tensor, e.constant, rtol=0, atol=1e-5):
            problems["wrong values"].append(name)
    found = [f"{problem}: {', '.join(names)}" for problem, names in problems.items() if names]
    if found:
        remedy = "give the weights of this architecture or the config of these weights"
        raise UserError(where, "; ".join(found), remedy)
    return params
