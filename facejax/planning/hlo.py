"""What the text of a compiled program says: collectives, memory traffic, largest arrays.

Counted is what one device does in one call. What is in the body of a loop counts as often as the
loop runs, which XLA states (`known_trip_count`) or the loop's condition shows (a counter below a
constant); a loop that shows neither counts once. Of a conditional every branch counts. The TPU
compiler spreads a collective over several fusions, of which the first counts, and writes some
reduce-scatters as an all-reduce of which each device slices its part.

Traffic are the operands and results of every kernel that lie in the device's main memory (arrays
that the TPU compiler keeps in on-chip memory are marked in their layout); of an operand that a
kernel only slices, the slices count.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from facejax.planning.estimate import Wire, sent

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
)
# Neither read nor write memory themselves.
_FREE = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional")
    + ("call", "after-all", "partition-id", "replica-id", "async-start", "async-update")
    + ("async-done", "copy-done", "optimization-barrier", "iota")
)
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_HEAD = re.compile(r"^\s*(ROOT )?%?([\w.-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)"
    r"|(?:branch|called)_computations=\{([^}]*)\}"
)


@dataclass(frozen=True)
class Array:
    """One array of an instruction's result.

    Attributes:
        text: type and shape, "bf16[8,128]".
        bytes: without padding.
        padded: bytes with the padding of its tiles.
        on_chip: not in main memory.
    """

    text: str
    bytes: int
    padded: int
    on_chip: bool


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: unique within the module.
        kind: the operation, "fusion".
        arrays: its result.
        inputs: names of the operands.
        given: the text between the parentheses.
        attributes: the rest of the line.
        root: whether it is the computation's result.
    """

    name: str
    kind: str
    arrays: tuple[Array, ...]
    inputs: tuple[str, ...]
    given: str
    attributes: str
    root: bool

    @property
    def op_name(self) -> str:
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


@dataclass
class Module:
    """A parsed program.

    Attributes:
        computations: name -> instruction name -> instruction.
        entry: the computation that is run.
    """

    computations: dict[str, dict[str, Instruction]] = field(default_factory=dict)
    entry: str = ""


def parse(text: str) -> Module:
    """Reads the text of a module as XLA prints it."""
    module, current = Module(), None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            if current is not None:
                instruction = _instruction(line[head.end() :], head[2], head[1] is not None)
                current[instruction.name] = instruction
        elif found := _COMPUTATION.match(line):
            current = module.computations.setdefault(found[2], {})
            if found[1]:
                module.entry = found[2]
        elif line.startswith("}"):
            current = None
    return module


def _instruction(rest: str, name: str, root: bool) -> Instruction:
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    kind, _, rest = rest.partition("(")
    end = _closing("(" + rest) - 1
    given, attributes = rest[:end], rest[end + 1 :]
    operands = re.sub(r"\{[^{}]*\}|\[[^\]]*\]|/\*.*?\*/", "", given)
    inputs = tuple(re.findall(r"%([\w.-]+)", operands))
    arrays = tuple(_array(*found) for found in _ARRAY.findall(shape))
    return Instruction(name, kind, arrays, inputs, given, attributes, root)


def _closing(text: str) -> int:
    """Index of the parenthesis that closes the one at the start."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return i
    raise ValueError(f"no end: {text[:80]}")


def _array(dtype: str, dims: str, layout: str) -> Array:
    shape = [int(n) for n in dims.split(",") if n]
    bits = 8 if dtype == "pred" else int((re.search(r"\d+", dtype) or ["0"])[0])
    order, _, tiles = layout.partition(":")
    padded = list(shape)
    tile = re.match(r"T\(([\d,]+)\)", tiles)
    if tile and shape:
        minor_first = [int(n) for n in order.split(",") if n]
        for axis, n in zip(minor_first, reversed([int(n) for n in tile[1].split(",")])):
            padded[axis] = -(-shape[axis] // n) * n
    return Array(
        f"{dtype}[{dims}]",
        math.prod(shape) * bits // 8,
        math.prod(padded) * bits // 8,
        re.search(r"S\([1-9]", tiles) is not None,
    )


# ------------------------------------------------------------------------------ how often


def times(module: Module) -> dict[str, float]:
    """How often each computation runs in one call of the program; fused ones included."""
    counts: dict[str, float] = {}

    def visit(name: str, count: float) -> None:
        counts[name] = counts.get(name, 0) + count
        for instruction in module.computations[name].values():
            inner = count
            if instruction.kind == "while":
                inner *= trips(module, instruction)
            for called in calls(instruction):
                visit(called, inner)

    visit(module.entry, 1)
    return counts


def calls(instruction: Instruction) -> list[str]:
    """The computations that an instruction names."""
    found = ",".join(one or many for one, many in _CALLED.findall(instruction.attributes))
    return [name.strip(" %") for name in found.split(",") if name]


def trips(module: Module, loop: Instruction) -> int:
    """How often a `while` repeats its body; 1 where it does not show."""
    known = re.search(r'known_trip_count"?[=:]\{"?n"?[=:]"?(\d+)', loop.attributes)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.-]+)", loop.attributes)[1]
    inside = module.computations[condition]
    root = next(i for i in inside.values() if i.root)
    less = "direction=LT" in root.attributes or any(
        "direction=LT" in i.attributes
        for called in calls(root)
        for i in module.computations[called].values()
    )
    bounds = [inside[i].given for i in root.inputs if inside[i].kind == "constant"]
    return int(bounds[0]) if less and len(bounds) == 1 and bounds[0].isdigit() else 1


# ------------------------------------------------------------------------------ collectives


@dataclass(frozen=True)
class Collective:
    """Collectives of one kind among groups of one size: how many in a step, bytes sent by each."""

    kind: str
    group: int
    count: float
    bytes: float

    def wire(self) -> Wire:
        return Wire(self.kind, self.bytes, self.group)


def collectives(module: Module) -> list[Collective]:
    """All collectives with more than one device, by kind and group size."""
    total: dict[tuple[str, int], list[float]] = {}
    for name, count in times(module).items():
        if _goes_on(module, name):
            continue
        for i in module.computations[name].values():
            kind = i.kind.removesuffix("-start")
            if kind not in COLLECTIVES or (group := _group(i)) < 2:
                continue
            # The result of an asynchronous one holds its operand as well.
            sizes = [a.bytes for a in i.arrays]
            size = sum(sizes) if i.kind == kind else max(sizes)
            size *= group if kind == "reduce-scatter" else 1
            if name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            entry = total.setdefault((kind, group), [0.0, 0.0])
            entry[0] += count
            entry[1] += count * sent(kind, size, group)
    return [Collective(kind, group, *entry) for (kind, group), entry in sorted(total.items())]


def _goes_on(module: Module, name: str) -> bool:
    """Whether a computation carries on with a collective that another one started."""
    inside = module.computations[name].values()
    done = any('"AsyncCollectiveDone"' in i.attributes for i in inside)
    return done or name.startswith("async_collective_fusion")


def _group(instruction: Instruction) -> int:
    """Devices in a group of a collective.

    Written as lists {{0,1},{2,3}}, as an iota [groups,size]<=[...], or as axes of a mesh,
    mesh['a'=2,'b'=4] {'b'}.
    """
    text = instruction.attributes
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
        return listed[1].count(",") + 1
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", text):
        return int(iota[1])
    if axes := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", axes[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'([^']+)'", axes[2]))
    return 2 if "source_target_pairs={{" in text else 1


# ------------------------------------------------------------------------------ memory


def _kernels(module: Module) -> Iterator[tuple[float, dict[str, Instruction], Instruction]]:
    """(how often, its computation, instruction) of everything that runs as a kernel."""
    fused = {
        called
        for instructions in module.computations.values()
        for i in instructions.values()
        if i.kind != "while" and i.kind not in ("call", "conditional", "async-start")
        for called in calls(i)
    }
    for name, count in times(module).items():
        if name not in fused:
            for i in module.computations[name].values():
                if i.kind not in _FREE and not i.kind.endswith("-done"):
                    yield count, module.computations[name], i


def traffic(module: Module) -> float:
    """Bytes that a step reads from and writes to main memory."""
    total = 0.0
    for count, around, i in _kernels(module):
        total += count * (_written(module, i) + _read(module, around, i))
    return total


def _written(module: Module, i: Instruction) -> float:
    if i.kind == "dynamic-update-slice":
        return 0.0  # the update is counted where it is read
    if i.kind == "fusion":
        root = next(j for j in module.computations[calls(i)[0]].values() if j.root)
        if root.kind == "dynamic-update-slice":
            update = module.computations[calls(i)[0]][root.inputs[1]]
            return sum(a.bytes for a in update.arrays)
    return sum(a.bytes for a in i.arrays if not a.on_chip)


def _read(module: Module, around: dict[str, Instruction], i: Instruction) -> float:
    total = 0.0
    for position, name in enumerate(i.inputs):
        if name in around:
            whole = sum(a.bytes for a in around[name].arrays if not a.on_chip)
            total += min(whole, _sliced(module, i, position, whole))
    return total


def _sliced(module: Module, i: Instruction, position: int, whole: float) -> float:
    """Bytes of an operand that a kernel looks at."""
    if i.kind in ("dynamic-slice", "gather"):
        return sum(a.bytes for a in i.arrays)
    if i.kind == "dynamic-update-slice" and position == 0:
        return 0.0
    if i.kind != "fusion":
        return whole
    inside = module.computations[calls(i)[0]]
    parameter = next(
        (j.name for j in inside.values() if j.kind == "parameter" and j.given == str(position)), ""
    )
    users = [j for j in inside.values() if parameter in j.inputs]
    seen = 0.0
    for user in users:
        if user.kind in ("dynamic-slice", "gather"):
            seen += sum(a.bytes for a in user.arrays)
        elif user.kind != "dynamic-update-slice" or user.inputs[0] != parameter:
            return whole
    return seen


def largest(module: Module, most: int) -> list[tuple[int, int, str, str]]:
    """The largest arrays in main memory: (bytes with padding, how many, shape, operation).

    Arrays of one shape that come from the same operation of several blocks are one line. They need
    not all be alive at once.
    """
    found: dict[tuple[int, str, str], int] = {}
    for _, _, i in _kernels(module):
        operation = re.sub(r"\d+", "*", i.op_name.rpartition(")/")[2] or i.kind)
        for a in i.arrays:
            if not a.on_chip:
                key = a.padded, a.text, operation
                found[key] = found.get(key, 0) + 1
    ordered = sorted(((*key, n) for key, n in found.items()), key=lambda k: -k[0])
    return [(size, n, text, operation) for size, text, operation, n in ordered[:most]]
