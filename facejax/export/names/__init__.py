"""Renaming of parameters: a table of entries serves both export and import.

`names/<family>.py` has one function per foreign format that returns such a table. A table is
bijective: every foreign tensor stands in exactly one entry, and every parameter in one, or in as
many as it has parts there (a fused qkv is three layers elsewhere).
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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


def positions(prefix: int) -> Layout:
    """Positions [n, D] here are [1, prefix + n, D] there, zero for the prefix tokens."""
    return Layout(lambda a: np.pad(a, ((prefix, 0), (0, 0)))[None], lambda a: a[0, prefix:])


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
        part: (i, n) for part i of n equal parts of ours along its last axis.
        free: a constant that may hold other values when it is read, since nothing here depends on
            it.
    """

    theirs: str
    ours: str = ""
    layout: Layout = SAME
    constant: Array | None = None
    part: tuple[int, int] = (0, 1)
    free: bool = False

    def write(self, flat: Mapping[str, Array]) -> Array:
        """The foreign tensor, from our parameters by path."""
        if not self.ours:
            return self.constant
        index, count = self.part
        whole = np.asarray(flat[self.ours])
        return self.layout.write(whole if count == 1 else np.split(whole, count, axis=-1)[index])


def linear(
    theirs: str, ours: str, bias: bool = True, part: tuple[int, int] = (0, 1)
) -> list[Entry]:
    """The entries of a Linear layer."""
    entries = [Entry(f"{theirs}.weight", f"{ours}/kernel", LINEAR, part=part)]
    return entries + ([Entry(f"{theirs}.bias", f"{ours}/bias", part=part)] if bias else [])


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


def unflatten(flat: Mapping[str, Any]) -> Params:
    """The inverse of `flatten`."""
    tree: Params = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[leaf] = value
    return tree


def below(table: Iterable[Entry], prefix: str) -> list[Entry]:
    """The table of the same names where our parameters lie deeper in the tree, at `prefix`."""
    return [dataclasses.replace(e, ours=f"{prefix}/{e.ours}") if e.ours else e for e in table]


def own(shapes: Params) -> list[Entry]:
    """The table of our own names, for any encoder: paths joined by "/"."""
    return [Entry(path, path) for path in flatten(shapes)]


Renaming = Sequence[tuple[str, str]]
"""Pairs of a regex and its replacement, applied in this order to names of tensors."""


def renamed(tensors: Mapping[str, Array], rules: Renaming) -> dict[str, Array]:
    """The tensors under the names that the rules give them."""

    def rename(name: str) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return name

    return {rename(name): value for name, value in tensors.items()}


def moved_to_tokens(
    tensors: Mapping[str, Array], where: str, tokens: Sequence[str]
) -> dict[str, Array]:
    """Positions of prefix tokens, added to the tokens: the same function, without such positions.

    Args:
        tensors: by foreign name.
        where: the positions [1, P + N, D].
        tokens: names of the P prefix tokens [1, p, D], in order.
    """
    out = dict(tensors)
    start = 0
    out[where] = np.array(tensors[where], np.float32)
    for name in tokens:
        count = tensors[name].shape[1]
        rows = slice(start, start := start + count)
        out[name] = np.asarray(tensors[name], np.float32) + out[where][:, rows]
        out[where][:, rows] = 0
    return out


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
    return {e.theirs: np.asarray(e.write(flat), np.float32, order="C") for e in table}


@dataclass(frozen=True)
class Found:
    """What a table made of foreign tensors.

    Attributes:
        params: by our path, f32; only those that are there whole and in the right shape.
        problems: kind -> names, in the words of the error: "missing", "unexpected", "wrong shape",
            "wrong values", "scanned".
    """

    params: dict[str, Array]
    problems: dict[str, list[str]]


def match(table: Sequence[Entry], tensors: Mapping[str, Array], shapes: Params) -> Found:
    """Puts foreign tensors through a table; nothing is raised.

    Args:
        table: the entries.
        tensors: by foreign key.
        shapes: nested dict of anything with a `shape`: the parameters that are wanted.
    """
    wanted = {path: np.broadcast_to(0, leaf.shape) for path, leaf in flatten(shapes).items()}
    entries = {e.theirs: e for e in table}
    missing = sorted(e.theirs for e in table if e.theirs not in tensors and not e.free)
    unexpected = sorted(tensors.keys() - entries.keys())
    problems = {
        "missing": missing,
        "unexpected": unexpected,
        "wrong shape": [],
        "wrong values": [],
        "scanned": _scanned(missing, unexpected, tensors),
    }
    parts: dict[str, dict[int, Array]] = {}
    for name in sorted(entries.keys() & tensors.keys()):
        e, tensor = entries[name], np.asarray(tensors[name])
        expected = e.write(wanted)
        if tensor.shape != expected.shape:
            if not e.free:
                sizes = f"{list(tensor.shape)}, not {list(expected.shape)}"
                problems["wrong shape"].append(f"{name} {sizes}")
        elif e.ours:
            value = np.asarray(e.layout.read(tensor), np.float32, order="C")
            if not np.array_equal(e.layout.write(value), tensor.astype(np.float32)):
                problems["wrong values"].append(name)
            parts.setdefault(e.ours, {})[e.part[0]] = value
        elif not e.free and not np.allclose(tensor, e.constant, rtol=0, atol=1e-5):
            problems["wrong values"].append(name)
    counts = {e.ours: e.part[1] for e in table}
    params = {
        path: found[0]
        if counts[path] == 1
        else np.concatenate([v for _, v in sorted(found.items())], -1)
        for path, found in parts.items()
        if len(found) == counts[path]
    }
    return Found(params, problems)


def _scanned(
    missing: Sequence[str], unexpected: Sequence[str], tensors: Mapping[str, Array]
) -> list[str]:
    """Unexpected tensors that look like missing ones of all layers on top of each other."""
    layers: dict[str, int] = {}
    for name in missing:
        bare = _without_number(name)
        if bare != name:
            layers[bare] = layers.get(bare, 0) + 1
    found = []
    for name in unexpected:
        shape = np.shape(tensors[name])
        if shape[:1] == (layers.get(name),):
            found.append(f"{name} {list(shape)} stacks the {shape[0]} layers of a scanned model")
    return found


def _without_number(name: str) -> str:
    """Without its first number: "blocks.0.norm1" and "blocks_00/norm1" lose the block's."""
    return re.sub(r"[._]\d+(?=[./])", "", name, count=1)


def complain(problems: Mapping[str, Sequence[str]], where: str) -> None:
    """Raises UserError at `where` if there are problems, naming every one."""
    found = [f"{problem}: {', '.join(names)}" for problem, names in problems.items() if names]
    if found:
        remedy = "give the weights of this architecture or the config of these weights"
        if problems.get("scanned"):
            remedy = "store each layer under its own name, without the leading axis"
        raise UserError(where, "; ".join(found), remedy)


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
        UserError: names every missing, unexpected and wrongly shaped tensor, every computed one
            that holds other values than ours, and layers that are stacked.
    """
    found = match(table, tensors, shapes)
    complain(found.problems, where)
    return unflatten(found.params)
