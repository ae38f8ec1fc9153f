"""Memory, traffic and time of a traced step on a mesh, without a compiler.

The model of memory: arrays are alive from the operation that makes them to the last one that reads
them. Elementwise operations are fused: into the matrix product (or the like) that feeds them, where
it feeds nothing else, and otherwise into whatever reads them, so that their inputs stay alive
instead. Transcendental functions that are read more than once are kept, because compilers do not
compute them twice. Arrays with rows are split over all devices, parameters and gradients over
`fsdp`; a weight is gathered, in its compute type, where a product reads it. What compilers add on
top (tiles, fragments, transposed copies) is left out: on TPUs they need up to twice as much.

Collectives: a product of rows and a parameter gathers the parameter (see `ops/rows.py`), and one
that sums over rows reduces the gradient. What pairs of rows need (the similarities of contrastive
losses) is left out; it is small beside the weights.

The bounds of the time hold on their own; a real step takes longer than the largest.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from facejax.planning.chips import Chip
from facejax.planning.traced import Op, Steps, Value

# Primitives that read or write memory; all others are elementwise or move data, and fuse.
ANCHORS = (
    *(
        "dot_general",
        "conv_general_dilated",
        "ragged_dot",
        "reduce",
        "argm",
        "cum",
        "sort",
        "top_k",
    ),
    *("approx_top_k", "gather", "scatter", "dynamic_update_slice", "scan", "while", "cond"),
    *("pallas_call", "custom_call", "ffi_call", "psum", "ppermute", "all_gather", "all_to_all"),
    *("fft", "cholesky", "triangular_solve", "lu", "qr", "eigh", "svd", "random_bits", "threefry"),
)
TRANSCENDENTAL = frozenset(
    ("exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh", "erf", "erfc", "erf_inv", "pow")
    + ("sin", "cos", "tan", "acos", "asin", "atan", "atan2", "lgamma", "digamma", "cbrt")
)
MOST_INPUTS = 8
"""Inputs of one fusion, past which its result is kept."""

MOST_LISTED = 200


@dataclass(frozen=True)
class Wire:
    """Bytes that one device sends for a collective among `group` devices."""

    kind: str
    bytes: float
    group: int


@dataclass(frozen=True)
class Costs:
    """Of one step on one device.

    Attributes:
        peak: bytes alive at once beside arguments and results.
        largest: (bytes, array, operation) of what is alive then, the largest first.
        flops: of matrix products, recomputation included.
        traffic: bytes that are read from and written to memory.
        wires: collectives.
    """

    peak: float
    largest: tuple[tuple[float, str, str], ...]
    flops: float
    traffic: float
    wires: tuple[Wire, ...]

    def seconds(self, chip: Chip) -> dict[str, float]:
        return seconds(self.flops, self.traffic, self.wires, chip)

    def grouped(self, most: int) -> list[tuple[float, int, str, str]]:
        """(bytes, how many, array, operation) of the largest; those of many blocks are one."""
        counts = Counter(self.largest)
        return [(size, n, *told) for (size, *told), n in counts.items()][:most]


def sent(kind: str, size: float, group: int) -> float:
    """Bytes that a device must send at least for a collective.

    Args:
        kind: "all-gather", "reduce-scatter", "all-reduce", "all-to-all" or "collective-permute".
        size: bytes of the whole array: the gathered one, the one before it is scattered.
        group: devices that take part.
    """
    if kind == "collective-permute":
        return size
    return size * (group - 1) / group * (2 if kind == "all-reduce" else 1)


def costs(steps: Steps, data: int, fsdp: int) -> Costs:
    """What a step costs each device of a `data` x `fsdp` mesh."""
    return _Walk(data, fsdp).walk(steps)


class _Walk:
    def __init__(self, data: int, fsdp: int):
        self.data, self.fsdp, self.devices = data, fsdp, data * fsdp

    def split(self, value: Value) -> bool:
        """Whether an array without rows lies in parts over `fsdp`."""
        return self.fsdp > 1 and any(n and n % self.fsdp == 0 for n in value.shape)

    def size(self, value: Value) -> float:
        if value.rows:
            return value.bytes / self.devices
        return value.bytes / self.fsdp if self.split(value) else value.bytes

    def walk(self, steps: Steps) -> Costs:
        fused = _Fusion(steps)
        sizes = [self.size(v) for v in steps.values]
        inner = [self.walk(op.body) if op.body is not None else None for op in steps.ops]
        peak, largest = self._peak(steps, fused, sizes, inner)
        flops = traffic = 0.0
        wires: Counter[tuple[str, int]] = Counter()
        for op, own in zip(steps.ops, inner):
            if own is not None:
                flops += op.times * own.flops
                traffic += op.times * own.traffic
                for wire in own.wires:
                    wires[wire.kind, wire.group] += op.times * wire.bytes
                continue
            rows = any(steps.values[v].rows for v in (*op.ins, *op.outs))
            flops += op.flops / (self.devices if rows else 1)
            traffic += sum(sizes[v] for v in fused.touched(op))
            for wire in self._wires(steps, op):
                wires[wire.kind, wire.group] += wire.bytes
        found = tuple(Wire(kind, size, group) for (kind, group), size in sorted(wires.items()))
        return Costs(peak, largest, flops, traffic, found)

    def _peak(self, steps: Steps, fused: "_Fusion", sizes: list[float], inner: list):
        ending: dict[int, list[int]] = {}
        for v, i in fused.last_reads().items():
            ending.setdefault(i, []).append(v)
        elsewhere = {*steps.ins, *steps.outs}
        alive: dict[int, float] = {}
        now = peak = 0.0
        at_peak: dict[int, float] = {}
        inside = None
        for i, op in enumerate(steps.ops):
            for v in op.outs:
                if v in fused.kept and v not in elsewhere:
                    alive[v] = sizes[v]
                    now += sizes[v]
            extra = inner[i].peak if inner[i] is not None else self._whole(steps, op)
            if now + extra > peak:
                peak, at_peak, inside = now + extra, dict(alive), inner[i]
            for v in ending.get(i, ()):
                now -= alive.pop(v, 0.0)
        largest = [(size, *_described(steps.values[v])) for v, size in at_peak.items()]
        largest += inside.largest if inside is not None else ()
        return peak, tuple(sorted(largest, reverse=True)[:MOST_LISTED])

    def _whole(self, steps: Steps, op: Op) -> float:
        """Bytes of the whole weights that a product reads, and of the gradient that it makes."""
        if not op.flops:
            return 0.0
        return sum(w.bytes for w in self._wires(steps, op) if w.kind != "all-reduce")

    def _wires(self, steps: Steps, op: Op) -> list[Wire]:
        values = steps.values
        out = values[op.outs[0]]
        if not op.flops or len(op.ins) < 2:
            summed = op.kind.startswith("reduce") and not out.rows
            if not summed or self.devices == 1 or not any(values[v].rows for v in op.ins):
                return []
            return [Wire("all-reduce", sent("all-reduce", out.bytes, self.devices), self.devices)]
        a, b = values[op.ins[0]], values[op.ins[1]]
        if a.rows != b.rows:
            weight = b if a.rows else a
            return self._over_fsdp("all-gather", weight)
        if not a.rows or out.rows:
            return []
        wires = self._over_fsdp("reduce-scatter", out)
        part, group = (self.size(out), self.data) if wires else (out.bytes, self.devices)
        if group > 1:
            wires.append(Wire("all-reduce", sent("all-reduce", part, group), group))
        return wires

    def _over_fsdp(self, kind: str, whole: Value) -> list[Wire]:
        return [Wire(kind, sent(kind, whole.bytes, self.fsdp), self.fsdp)] * self.split(whole)


def _described(value: Value) -> tuple[str, str]:
    """The array of the whole batch, and the operation without the numbers of blocks."""
    operation = re.sub(r"\d+", "*", value.name.rpartition(")/")[2])
    return f"{value.dtype}{list(value.shape)}".replace(" ", ""), operation


class _Fusion:
    """Which values of some steps stand in memory, and from which of them the others are computed.

    Attributes:
        kept: indices of the values in memory.
        roots: for each value the kept ones that reading it reads.
    """

    def __init__(self, steps: Steps):
        self._steps = steps
        self._readers: list[list[int]] = [[] for _ in steps.values]
        for i, op in enumerate(steps.ops):
            for v in op.ins:
                self._readers[v].append(i)
        self.kept = set(steps.ins)
        self.roots = [frozenset((i,)) for i in range(len(steps.values))]
        self._fixed: set[int] = set()
        for op in steps.ops:
            if op.kind.startswith(ANCHORS):
                for v in op.outs:
                    self._fuse_what_follows(v)
            elif op.kind in TRANSCENDENTAL and len(self._readers[op.outs[0]]) > 1:
                self.kept.add(op.outs[0])
        for op in steps.ops:
            for v in op.outs:
                self._trace_back(op, v)

    def _fuse_what_follows(self, v: int) -> None:
        """Keeps, in place of `v`, the end of the chain of operations that read nothing else."""
        steps, chain = self._steps, [v]
        while len(self._readers[v]) == 1 and v not in steps.outs:
            op = steps.ops[self._readers[v][0]]
            larger = steps.values[op.outs[0]].bytes > steps.values[v].bytes
            if op.kind.startswith(ANCHORS) or larger:
                break
            v = op.outs[0]
            chain.append(v)
        self.kept.add(v)
        for u in chain[:-1]:
            self.roots[u] = frozenset((v,))
            self._fixed.add(u)

    def _trace_back(self, op: Op, v: int) -> None:
        if v in self.kept or v in self._fixed:
            return
        found = frozenset().union(*(self.roots[u] for u in op.ins))
        if len(found) > MOST_INPUTS:
            self.kept.add(v)
        else:
            self.roots[v] = found

    def last_reads(self) -> dict[int, int]:
        """For each kept value the last operation that reads it; past the end for results."""
        last: dict[int, int] = {}
        for i, op in enumerate(self._steps.ops):
            for v in op.ins:
                last.update(dict.fromkeys(self.roots[v], i))
        for v in self._steps.outs:
            last.update(dict.fromkeys(self.roots[v], len(self._steps.ops)))
        return last

    def touched(self, op: Op) -> set[int]:
        """The values that an operation reads from memory and writes to it, if it is a kernel's."""
        anchor = op.kind.startswith(ANCHORS)
        made = set().union(*(self.roots[v] for v in op.outs)) if anchor else {*op.outs} & self.kept
        made |= {*op.outs} & {*self._steps.outs}
        return made.union(*(self.roots[v] for v in op.ins)) if made else made


def seconds(flops: float, traffic: float, wires: Iterable[Wire], chip: Chip) -> dict[str, float]:
    """The least time of each of the three limits."""
    return {
        "compute": flops / chip.peak,
        "memory": traffic / chip.bandwidth,
        "interconnect": sum(_on_wire(wire, chip) for wire in wires),
    }


def _on_wire(wire: Wire, chip: Chip) -> float:
    if not chip.node or wire.group <= chip.node:
        return wire.bytes / chip.link
    # Each GPU of a node carries its share of what leaves the node.
    nodes = wire.group / chip.node
    return wire.bytes / chip.node * (1 - 1 / nodes) / chip.network
