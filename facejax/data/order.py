"""Which record stands at which position of the endless sequence that batches are cut from.

Position n * global_batch + row is row `row` of global batch n. What stands there depends on the
seed and the position alone, not on processes, threads or restarts.
"""

import sys
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Literal, Protocol

import grain
import numpy as np

from facejax.data.mixture import Mixture
from facejax.data.sampling import Groups, Sampler, identities_of, people_of, seed_of
from facejax.errors import UserError

NONE = np.zeros(0, np.int64)


class Order(Protocol):
    """A sequence of record numbers, counted through all sources of a mixture.

    Attributes:
        notes: what a person should know about it, in lines.
    """

    notes: tuple[str, ...]

    def __getitem__(self, position: int) -> int: ...

    def spares(self, position: int) -> Iterator[int]:
        """What to read in turn instead, should the record at `position` be broken."""
        ...


def make_order(
    mixture: Mixture,
    seed: int,
    sampler: Literal["shuffle", "sequential"] | Sampler = "shuffle",
    group: int = 1,
    blocked: np.ndarray = NONE,
) -> Order:
    """The sequence of a run.

    Everything is seeded by the sources' labels, so adding a source leaves the order of the others.
    Grain mixes in whole hundredths of the smallest weight, so shares are exact to 1 %. Between the
    records of a group of `group` may lie some of the other sources; groups of a `Sampler` stay
    whole.

    Args:
        mixture: the sources.
        seed: of the order.
        sampler: a new order each epoch, the sources' own order, or by identity.
        group: see `config.Data`.
        blocked: sorted record numbers. A position that one of them would take is given to another
            record of its source (with a `Sampler`: of its identity); no other position changes.

    Raises:
        UserError: a source is too small or has no identities.
    """
    if isinstance(sampler, Sampler):
        return _ByIdentity(mixture, seed, sampler, blocked)
    parts = []
    for start, entry in zip(mixture.starts, mixture.entries):
        length = len(entry.source)
        key = zlib.crc32(f"{seed}/{entry.label}".encode())
        if group > length:
            what = f"{entry.label} has {length} records, fewer than a group of {group}"
            raise UserError("config.data.group", what, "make it smaller")
        order = _shuffled(length, key, group) if sampler == "shuffle" else _repeated(length)
        parts.append(lambda i, start=start, order=order: start + order(i))
    return _Plain(mixture, seed, _mixed(parts, mixture.weights), blocked)


At = Callable[[int], Any]
"""What stands at a position of a sequence without end."""


def _mixed(parts: list[At], weights) -> At:
    if len(parts) == 1:  # a call costs a tenth of what grain's datasets do
        return parts[0]
    endless = grain.MapDataset.range(sys.maxsize)
    return grain.MapDataset.mix([endless.map(part) for part in parts], weights=weights).__getitem__


def _repeated(length: int) -> At:
    return lambda i: i % length


def _shuffled(length: int, seed: int, group: int = 1) -> At:
    """The numbers below `length` in another order each time round; groups of them stay together."""
    if group > 1:
        units = _shuffled(length // group, seed)
        return lambda i: units(i // group) * group + i % group
    if length >= 2**16:
        return grain.MapDataset.range(length).shuffle(seed=seed).repeat().__getitem__
    # Grain permutes 2**16 numbers at least and walks on until one is within the length: 2.5 ms
    # per record of a source of twenty. A table per epoch takes microseconds.
    return lambda i: int(_permutation(seed, i // length, length)[i % length])


@lru_cache(maxsize=64)
def _permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    # Raw bits, because NumPy promises only these to stay the same from version to version.
    return np.argsort(np.random.Philox([seed, epoch]).random_raw(length), kind="stable")


class _Plain:
    """Record by record."""

    notes = ()

    def __init__(self, mixture: Mixture, seed: int, numbers: At, blocked: np.ndarray):
        self._mixture, self._seed, self._numbers = mixture, seed, numbers
        self._blocked = frozenset(blocked.tolist())

    def __getitem__(self, position: int) -> int:
        number = int(self._numbers(position))
        tries = 0
        while number in self._blocked:
            tries += 1
            start, length = self._span(number)
            number = start + seed_of(self._seed, "instead", position, tries) % length
        return number

    def spares(self, position: int) -> Iterator[int]:
        number = self[position]
        start, length = self._span(number)
        after = (start + (number - start + step) % length for step in range(1, length))
        return (n for n in after if n not in self._blocked)

    def _span(self, number: int) -> tuple[int, int]:
        source, _ = self._mixture.locate(number)
        return self._mixture.starts[source], len(self._mixture.sources[source])


class _ByIdentity:
    """Group by group."""

    def __init__(self, mixture: Mixture, seed: int, sampler: Sampler, blocked: np.ndarray):
        self._mixture, self._images = mixture, sampler.group
        self._groups, notes = [], []
        for start, entry in zip(mixture.starts, mixture.entries):
            label, source = entry.label, entry.source
            if "identity" not in source.fields:
                what = f"'{label}' gives no identity"
                raise UserError("config.data.sampler", what, "set its identity, or use 'shuffle'")
            people = people_of(identities_of(source), sampler, label)
            own = blocked[(blocked >= start) & (blocked < start + len(source))] - start
            self._groups.append(Groups(people, f"{seed}/{label}", self._images, own))
            few = f"{people.left_out} identities with fewer than {sampler.min_images} images"
            unknown = f"{people.unknown} images of unknown identity"
            out = [few] * bool(people.left_out) + [unknown] * bool(people.unknown)
            if out:
                kept = f"{label}: rows are drawn from {len(self._groups[-1])} identities"
                notes.append(f"{kept}; left out: {', '.join(out)}")
        self.notes = tuple(notes)
        there = sum(map(len, self._groups))
        if there < sampler.people:
            what = f"{sampler.people} people in a batch, of {there} in all"
            raise UserError("config.data.sampler.people", what, f"give {there} or fewer")
        weighted = all(e.weight is not None for e in mixture.entries)
        weights = mixture.weights if weighted else [len(g) / there for g in self._groups]
        each = [lambda n, s=s: (s, n) for s in range(len(self._groups))]
        self._units = _mixed(each, weights)

    def _find(self, position: int) -> tuple[int, int, int]:
        """Source, number of the group within it, and row within the group."""
        unit, row = divmod(position, self._images)
        source, number = self._units(unit)
        return int(source), int(number), row

    def __getitem__(self, position: int) -> int:
        source, number, row = self._find(position)
        return self._mixture.starts[source] + self._groups[source].draw(number)[0][row]

    def spares(self, position: int) -> Iterator[int]:
        source, number, row = self._find(position)
        start = self._mixture.starts[source]
        return (start + record for record in self._groups[source].spares(number, row))
