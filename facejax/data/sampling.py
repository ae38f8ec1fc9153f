"""Rows by who is on them: groups of images of one identity, by integer tables alone.

An epoch visits every identity once, in a permutation of its own. A visit takes the next `images`
pictures of a permutation of the identity's pictures, so they differ, and a new permutation begins
when fewer than `images` are left. What the n-th group holds depends on the seed and n alone.

The tables are arrays of 4 bytes per record and about 20 per identity; 42 million records of two
million identities take 210 MB, and twice as much more while they are made.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Literal, NamedTuple

import numpy as np

from facejax.data.records import BadRecord, Source
from facejax.errors import UserError

CHUNK = 1024
"""Records that are read at a time where a source can't tell identities otherwise."""


@dataclass(frozen=True)
class Sampler:
    """Rows by who is on them: groups of images of one identity.

    Attributes:
        type: "pk" fills a batch with `people` identities, `images` consecutive rows each;
            "balanced" draws every row by identity, so that all are shown equally often.
        people: identities of a batch.
        images: of each, all different.
        min_images: identities with fewer images are left out; 0: none is, and one with fewer than
            `images` is an error.
    """

    type: Literal["pk", "balanced"]
    people: int = 0
    images: int = 0
    min_images: int = 0

    @property
    def group(self) -> int:
        """Consecutive rows of one identity."""
        return self.images if self.type == "pk" else 1

    def check(self, global_batch: int, where: str) -> None:
        """Raises UserError at a key below `where` whose value doesn't fit the others."""
        if self.type == "balanced" and (self.people or self.images):
            key = "people" if self.people else "images"
            raise UserError(f"{where}.{key}", "balanced rows have no groups", "leave it out")
        if self.type == "pk" and self.people * self.images != global_batch:
            what = f"{self.people} people x {self.images} images do not fill {global_batch} rows"
            raise UserError(f"{where}.people", what, "let their product be global_batch")
        if self.min_images < 0 or 0 < self.min_images < self.group:
            what = f"{self.min_images} is less than the {self.group} images of a group"
            raise UserError(f"{where}.min_images", what, f"give {self.group} or more, or 0")


class People(NamedTuple):
    """The records of a source by identity.

    Attributes:
        records: i32[n], record numbers, one identity after the other.
        starts: i64[M + 1], where in `records` each of the M identities begins.
        unknown: number of records without identity; they are in no group.
        left_out: number of identities with fewer than `min_images` images.
    """

    records: np.ndarray
    starts: np.ndarray
    unknown: int
    left_out: int


def people_of(identities: np.ndarray, sampler: Sampler, label: str) -> People:
    """Sorts records i32[N] (-1: unknown) by identity.

    Raises:
        UserError: an identity with fewer images than a group needs, or none that has enough.
    """
    order = np.argsort(identities, kind="stable").astype(np.int32, copy=False)
    unknown = int(np.sum(identities < 0))
    counts = np.bincount(identities[identities >= 0])
    few = (counts > 0) & (counts < max(sampler.min_images, sampler.group))
    where = "config.data.sampler.min_images"
    if few.any() and not sampler.min_images:
        what = f"{few.sum()} identities of '{label}' have fewer than {sampler.group} images"
        raise UserError(where, what, f"set it to {sampler.group} to leave them out")
    kept = (counts > 0) & ~few
    if not kept.any():
        what = f"no identity of '{label}' has {max(sampler.min_images, 1)} images"
        raise UserError(where, what, "lower it")
    records = order[unknown:][np.repeat(kept, counts)]
    starts = np.concatenate([[0], np.cumsum(counts[kept])])
    return People(records, starts, unknown, int(few.sum()))


def identities_of(source: Source) -> np.ndarray:
    """i32[N], the identity of every record, -1 where unknown; read from the records if need be."""
    if hasattr(source, "identities"):
        return source.identities()
    return numbers_of(source, "identity")


def numbers_of(source: Source, field: str) -> np.ndarray:
    """i32[N], the class number `field` of every record, -1 where unknown, read from the records."""
    found = []
    for start in range(0, len(source), CHUNK):
        for record in source.read(range(start, min(start + CHUNK, len(source)))):
            found.append(-1 if isinstance(record, BadRecord) else record.get(field, -1))
    return np.array(found, np.int32)


class Groups:
    """The endless sequence of groups of a source.

    Args:
        people: the records.
        key: seed of everything drawn.
        images: K, records of a group.
        blocked: sorted record numbers that may not be drawn.

    Raises:
        UserError: fewer than K images of every identity are left by `blocked`.
    """

    def __init__(self, people: People, key: str, images: int, blocked: np.ndarray):
        self._people, self._key, self._images = people, key, images
        self._blocked = frozenset(blocked.tolist())
        self._usable = None
        if self._blocked:
            places = np.flatnonzero(np.isin(people.records, blocked))
            owners = np.searchsorted(people.starts, places, side="right") - 1
            left = np.diff(people.starts) - np.bincount(owners, minlength=len(self))
            self._usable = left >= images
            if not self._usable.any():
                what = f"no identity keeps {images} images"
                raise UserError("config.data.blocklist", what, "block fewer records")
        self.draw = lru_cache(1024)(self._draw)
        self._permutation = lru_cache(8)(self._permuted)

    def __len__(self) -> int:
        """Groups of an epoch: one per identity."""
        return len(self._people.starts) - 1

    def _permuted(self, epoch: int) -> np.ndarray:
        drawn = bits(seed_of(self._key, "epoch", epoch), len(self))
        return np.argsort(drawn, kind="stable").astype(np.int32)

    def _draw(self, number: int) -> tuple[list[int], list[int]]:
        """The records of a group, and the identity's others in the order they replace them.

        A blocked record is replaced by one of the others; an identity with fewer than K that are
        not blocked, by another identity. Nothing else of the sequence changes.
        """
        epoch, place = divmod(number, len(self))
        who = int(self._permutation(epoch)[place])
        tries = 0
        while self._usable is not None and not self._usable[who]:
            tries += 1
            who = seed_of(self._key, "instead", number, tries) % len(self)
        start, end = self._people.starts[who : who + 2].tolist()
        cycle, visit = divmod(epoch, (end - start) // self._images)
        order = np.argsort(bits(seed_of(self._key, cycle, who), end - start), kind="stable")
        ring = np.roll(self._people.records[start:end][order], -visit * self._images).tolist()
        mine, others = ring[: self._images], ring[self._images :]
        if self._usable is not None:
            others = [r for r in others if r not in self._blocked]
            fresh = iter(others)
            mine = [next(fresh) if r in self._blocked else r for r in mine]
            others = list(fresh)
        return mine, others

    def spares(self, number: int, row: int) -> Iterator[int]:
        """What to read in turn instead of the record at a row of a group, should it be broken.

        The identity's other pictures; when there are no more, those of the group again, and then
        those of the groups that follow.
        """
        mine, others = self.draw(number)
        turn = row % max(len(others), 1)
        yield from others[turn:] + others[:turn]
        yield from mine[row + 1 :] + mine[:row]
        yield from (self.draw(later)[0][row] for later in count(number + 1))


def seed_of(*parts: str | int) -> int:
    """A number below 2**63 that depends on `parts` and nothing else."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def bits(seed: int, n: int) -> np.ndarray:
    """u64[n] of hashed counters (splitmix64, Steele et al. 2014): the same on every machine."""
    x = (np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + np.uint64(seed)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
