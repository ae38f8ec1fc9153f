"""Ways to run a config on a topology: estimated, ranked, and tried as advice."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import jax

from facejax import config, mesh, state, step
from facejax.config import TOWERS, MeshShape, Run
from facejax.contracts import Params
from facejax.errors import UserError
from facejax.planning import inputs
from facejax.planning.estimate import Costs, costs
from facejax.planning.topology import Topology
from facejax.planning.traced import Steps, steps_of

REMATS = get_args(get_type_hints(Run)["remat"])
"""Policies, from the one that keeps most to the one that keeps least."""
MOST_PARTS = 16
"""Micro-batches of a step, at most."""
SLACK = {True: 1.5, False: 1.2}
"""What compilers need of a chip (TPU or not) over the estimate, if nothing is known better."""


@dataclass(frozen=True)
class Way:
    """What may be changed about a run without changing what it learns.

    Attributes:
        remat: policy of its backward passes.
        micro: rows of a micro-batch.
        fsdp: devices over which parameters are split.
    """

    remat: str
    micro: int
    fsdp: int


@dataclass(frozen=True)
class Held:
    """Bytes on one device between steps."""

    parameters: int
    optimizer: int
    averages: int
    objectives: int
    frozen: int
    batch: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


@dataclass(frozen=True)
class Estimate:
    """What is known of a way without compiling it.

    Attributes:
        way: the way.
        held: bytes between steps.
        costs: of a step.
        seconds: the least time of a step by each limit.
    """

    way: Way
    held: Held
    costs: Costs
    seconds: Mapping[str, float]

    @property
    def need(self) -> float:
        return self.held.total + self.costs.peak

    @property
    def order(self) -> tuple[float, float, float]:
        """Sorts the fastest first; what the limits share decides where the largest are equal."""
        return max(self.seconds.values()), sum(self.seconds.values()), self.need


class Planner:
    """A config on a topology.

    Attributes:
        topology: where it runs.
        run: the resolved config, its steps set.
        known: what the data tells or the command line told.
        way: how the config runs it.
    """

    def __init__(self, values: Mapping[str, Any], topology: Topology, told: Mapping[str, int]):
        self._values, self.topology = copy.deepcopy(dict(values)), topology
        run = config.resolve(self._values)
        self.known = inputs.facts(run, told)
        self.run = inputs.with_steps(run, self.known)
        config.check_devices(run, topology.devices)
        fsdp = mesh.without_devices(run.mesh, topology.devices).shape["fsdp"]
        remat = next((t.config.remat for t in self._rematted(run)), run.remat)
        self.way = Way(remat, run.micro_batch or run.global_batch, fsdp)
        self._programs: dict[Way, tuple[state.Program, Params]] = {}
        self._steps: dict[tuple[str, int], Steps] = {}

    @staticmethod
    def _rematted(run: Run) -> list[config.Plugin]:
        plugins = (*run.towers.values(), *run.objectives.values())
        return [p for p in plugins if hasattr(p.config, "remat")]

    # ------------------------------------------------------------------------- one way

    def overrides(self, way: Way) -> dict[str, Any]:
        """The keys that turn the config into `way`, without the leading `config.`."""
        found: dict[str, Any] = {}
        if way.remat != self.way.remat:
            sections = {key: self._values.get(key) or {} for key in TOWERS}
            sections |= {f"objective.{k}": v for k, v in self._values["objective"].items()}
            own = [f"{name}.remat" for name, section in sections.items() if "remat" in section]
            found |= dict.fromkeys(["remat", *own], way.remat)
        if way.micro != self.way.micro:
            found["micro_batch"] = way.micro
        if way.fsdp != self.way.fsdp:
            found["mesh.fsdp"] = way.fsdp
            if self.run.mesh.data != -1:
                found["mesh.data"] = -1
        return found

    def program(self, way: Way) -> tuple[state.Program, Params]:
        """The program of a way, and the shapes of its frozen encoders."""
        if way not in self._programs:
            self._programs[way] = inputs.program(self._run(way), self.known)
        return self._programs[way]

    def _run(self, way: Way, share: float = 1.0) -> Run:
        values = copy.deepcopy(self._values)
        for path, value in self.overrides(way).items():
            section = values
            *parents, last = path.split(".")
            for parent in parents:
                section = section.setdefault(parent, {})
            section[last] = value
        values["global_batch"] = int(self.run.global_batch * share)
        values["micro_batch"] = int(way.micro * share)
        run = config.resolve(values)
        return dataclasses.replace(run, steps=self.run.steps, epochs=None)

    def estimate(self, way: Way) -> Estimate:
        """Traces the step (once for each policy and micro-batch) and adds up what it costs."""
        program, frozen = self.program(way)
        grid = mesh.without_devices(MeshShape(-1, way.fsdp), self.topology.devices)
        found = costs(self._traced(way), grid.shape["data"], grid.shape["fsdp"])
        held = held_by(inputs.placed(program, frozen, self.known, grid))
        return Estimate(way, held, found, found.seconds(self.topology.chip))

    def _traced(self, way: Way) -> Steps:
        key = way.remat, way.micro
        if key not in self._steps:
            whole = self._jaxpr(*self.program(way))
            # Twice the batch where half of it would not do: an odd one, or too small for its loss.
            shares = (0.5, 2.0) if way.micro % 2 == 0 else (2.0,)
            self._steps[key] = self._compared(whole, way, shares)
        return self._steps[key]

    def _compared(self, whole: Any, way: Way, shares: tuple[float, ...]) -> Steps:
        try:
            other = inputs.program(self._run(way, shares[0]), self.known)
            return steps_of(whole, self._jaxpr(*other))
        except (ValueError, UserError) as error:
            if shares[1:]:
                return self._compared(whole, way, shares[1:])
            what = f"the step cannot be estimated ({error})"
            raise UserError("config.global_batch", what, "try a power of two") from error

    def _jaxpr(self, program: state.Program, frozen: Params) -> Any:
        one = mesh.make(MeshShape(1, 1), jax.devices()[:1])
        shapes = inputs.placed(program, frozen, self.known, one)
        return step.jitted(program, one).trace(*shapes).jaxpr

    # ------------------------------------------------------------------------- many ways

    def remats(self) -> tuple[str, ...]:
        """The policies that make a difference."""
        return REMATS if self._rematted(self.run) else (self.way.remat,)

    def micros(self) -> list[int]:
        """Micro-batches that divide over the devices, the largest first."""
        B = self.run.global_batch
        parts = (1, 2, 4, 8, MOST_PARTS)
        return [B // n for n in parts if B % n == 0 and B // n % self.topology.devices == 0]

    def splits(self) -> list[int]:
        """Sizes of `fsdp`: powers of two."""
        sizes = (2**i for i in range(self.topology.devices.bit_length()))
        return [n for n in sizes if self.topology.devices % n == 0]

    def single_changes(self) -> Iterator[Way]:
        """Ways that differ from the config's in one key and need less memory."""
        keeps_less = self.remats()[self.remats().index(self.way.remat) + 1 :]
        yield from (dataclasses.replace(self.way, remat=remat) for remat in keeps_less)
        micros = [n for n in self.micros() if n < self.way.micro]
        yield from (dataclasses.replace(self.way, micro=n) for n in micros[:3])
        splits = [n for n in self.splits() if n > self.way.fsdp]
        yield from (dataclasses.replace(self.way, fsdp=n) for n in splits)

    def combined_change(self, fits: Callable[[Estimate], bool]) -> Estimate | None:
        """The first way that fits, by what they cost in speed as a rule; None if none does."""
        remats = self.remats()[self.remats().index(self.way.remat) :]
        splits = [n for n in self.splits() if n >= self.way.fsdp]
        for micro in [n for n in self.micros() if n <= self.way.micro]:
            # Tracing takes most of the time, so the least that this micro-batch needs comes first.
            if fits(self.estimate(Way(remats[-1], micro, splits[-1]))):
                ways = (Way(remat, micro, fsdp) for remat in remats for fsdp in splits)
                return next(e for e in map(self.estimate, ways) if fits(e))
        return None

    def advice(self, need: float, temporaries: float) -> list[tuple[Estimate, float]]:
        """Changes to a config that does not fit, each with the bytes that it should need.

        What fits comes first, the fastest before the others; then what helps most. If nothing fits
        with one change, a combination that does is put in front.

        Args:
            need: bytes that the config needs, as the compiler said.
            temporaries: the part of it beside what is held between steps.
        """
        ratio = temporaries / max(self.estimate(self.way).costs.peak, 1.0)
        capacity = self.topology.chip.capacity

        def expected(e: Estimate) -> float:
            return e.held.total + ratio * e.costs.peak

        tried = [(e, expected(e)) for e in map(self.estimate, self.single_changes())]
        fits = sorted(((e, n) for e, n in tried if n <= capacity), key=lambda t: t[0].order)
        rest = sorted(((e, n) for e, n in tried if capacity < n < need), key=lambda t: t[1])
        if not fits and (found := self.combined_change(lambda e: expected(e) <= capacity)):
            fits = [(found, expected(found))]
        return fits + rest

    def ranked(self) -> list[Estimate]:
        """All ways that should fit, the fastest first; if none does, the smallest."""
        capacity = self.topology.chip.capacity / SLACK[self.topology.chip.tpu]
        found: list[Estimate] = []
        for remat in self.remats():
            for micro in self.micros():
                ways = [Way(remat, micro, fsdp) for fsdp in self.splits()]
                estimates = [self.estimate(way) for way in ways]
                found += estimates
                # Smaller micro-batches only cost time where all of these fit.
                if all(e.need <= capacity for e in estimates):
                    break
        fits = [e for e in found if e.need <= capacity]
        return sorted(fits, key=lambda e: e.order) or sorted(found, key=lambda e: e.need)


def held_by(arguments: tuple) -> Held:
    """Bytes of the step's arguments on one device."""
    before, batch, *fixed = arguments
    return Held(
        parameters=_bytes(before.params),
        optimizer=_bytes(before.opt),
        averages=_bytes(before.ema),
        objectives=_bytes((before.stats, before.objective)),
        frozen=_bytes(fixed),
        batch=_bytes(batch),
    )


def _bytes(tree: Any) -> int:
    total = 0
    for leaf in jax.tree.leaves(tree):
        split = leaf.sharding.shard_shape(leaf.shape)
        total += jax.ShapeDtypeStruct(split, leaf.dtype).size * leaf.dtype.itemsize
    return total
