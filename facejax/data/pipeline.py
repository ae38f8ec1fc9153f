"""From a mixture of sources to batches of uint8 images on the host.

Which record stands at which row of global batch n depends on (seed, n) alone: an order of record
numbers (see `order.py`) is read at position n * global_batch + row. A process reads the rows of its
own devices, a resumed run starts at another n, and neither changes what stands where. Everything
random that comes later happens on the device.

A broken record is replaced by the next good one of the order's spares, so ids stay a function of
(seed, n) and the data.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

import grain
import numpy as np

from facejax.data.decode import decode
from facejax.data.fields import collate
from facejax.data.mixture import Entry, Mixture
from facejax.data.order import Order
from facejax.data.reading import Reading
from facejax.data.records import BadRecord, Record, Source
from facejax.data.rejected import Rejection
from facejax.data.texts import Texts, read_for, tokenized
from facejax.errors import TrainingFailed

Id = tuple[int, int]
"""Position of the source in the mixture, index within it."""

GIVE_UP_AFTER = 1000
"""Broken records in a row after which a source counts as broken."""


class HostBatch(NamedTuple):
    """The local rows of one global batch.

    Attributes:
        step: the number n of the global batch.
        arrays: see `fields.collate`.
        ids: (source label, index) of each row, after replacements.
        bad: broken records met, also those met before.
        cut: texts that were longer than the run's `data.text.length`.
    """

    step: int
    arrays: dict[str, np.ndarray]
    ids: list[tuple[str, int]]
    bad: list[Rejection]
    cut: int = 0


class Rows(NamedTuple):
    """Consecutive records of one source.

    Attributes:
        arrays: see `fields.collate`, and `valid` bool[B], false for padding and broken records.
        ids: i64[B], index of each record, -1 for padding.
        bad: (index, name, reason) of the broken ones.
    """

    arrays: dict[str, np.ndarray]
    ids: np.ndarray
    bad: list[tuple[int, str, str]]


@dataclass(frozen=True)
class BatchSpec:
    """What a process wants of each global batch.

    Attributes:
        size: side of the images in pixels.
        global_batch: rows of a batch over all processes.
        rows: the rows, of range(global_batch), that this process needs.
        fields: names of the fields wanted beside `image`.
        texts: makes the field `text`, where it is wanted, of captions.
    """

    size: int
    global_batch: int
    rows: np.ndarray
    fields: Sequence[str] = ()
    texts: Texts | None = None


def batches(
    mixture: Mixture,
    order: Order,
    wanted: BatchSpec,
    *,
    start: int = 0,
    steps: int,
    workers: int = 2,
    cache: Literal["none", "decoded"] = "none",
    reading: Reading | None = None,
) -> Iterator[HostBatch]:
    """Reads and decodes global batches start, start + 1, ..., steps - 1, ahead of their use.

    Args:
        order: which record stands where.
        wanted: what of each batch.
        workers: threads, each loading a batch at a time; 0 loads when asked.
        cache: "decoded" keeps every decoded record in memory from its first use on.
        reading: notes what is being read.

    Raises:
        UserError: at once, for a field that the mixture does not give.
        TrainingFailed: from the iterator, if a source has no good record in 1000.
    """
    return _ahead(loader_of(mixture, order, wanted, cache, reading), start, steps, workers)


def loader_of(
    mixture: Mixture,
    order: Order,
    wanted: BatchSpec,
    cache: Literal["none", "decoded"] = "none",
    reading: Reading | None = None,
) -> Callable[..., HostBatch]:
    """What reads and decodes a global batch of its number, see `batches`.

    It may be given u8[B, size, size, 3] as well, in which the batch's images are then made.

    Raises:
        UserError: a field that the mixture does not give.
    """
    kept = {} if cache == "decoded" else None
    fields = mixture.select(read_for(wanted.fields))
    texts = wanted.texts if tokenized(wanted.fields) else None
    loader = _Loader(mixture, order, wanted.size, fields, kept, reading or Reading(), texts)

    def load(step: int, images: np.ndarray | None = None) -> HostBatch:
        numbers = [step * wanted.global_batch + int(row) for row in wanted.rows]
        return loader.load(step, numbers, images)

    return load


def sequential(
    source: Source,
    *,
    size: int,
    batch: int,
    fields: Sequence[str] = (),
    workers: int = 2,
    crop: float = 1.0,
    records: Sequence[int] | None = None,
) -> Iterator[Rows]:
    """Reads every record of a source once, in order; the last batch is padded.

    Args:
        size: side of the images in pixels.
        batch: rows per batch.
        fields: names of the fields wanted beside `image`.
        workers: threads, each loading a batch at a time; 0 loads when asked.
        crop: share of the largest centred square that is kept.
        records: indices of the records to read instead, in this order.

    Raises:
        UserError: at once, for a field that the source does not give.
    """
    wanted = Mixture([Entry("source", source, crop=crop)]).select(fields)
    order = np.asarray(range(len(source)) if records is None else records, np.int64)

    def load(number: int) -> Rows:
        ids = order[number * batch : (number + 1) * batch]
        images = np.empty((batch, size, size, 3), np.uint8)
        read = zip(source.read(ids.tolist()), images)
        found = [decode(record, size, crop, wanted, place) for record, place in read]
        good = [None if isinstance(r, BadRecord) else r for r in found]
        good += [None] * (batch - len(good))
        arrays = collate(good, wanted, size, images)
        arrays["valid"] = np.array([r is not None for r in good])
        bad = [
            (int(i), source.name(int(i)), r.reason)
            for i, r in zip(ids, found)
            if isinstance(r, BadRecord)
        ]
        return Rows(arrays, np.pad(ids, (0, batch - len(ids)), constant_values=-1), bad)

    return _ahead(load, 0, -(-len(order) // batch), workers)


def _ahead(load, start: int, stop: int, workers: int) -> Iterator:
    """load(start), ..., load(stop - 1) in order, computed in threads ahead of their use."""
    if start >= stop:
        return
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)
    iterator = iter(grain.MapDataset.range(start, stop).map(load).to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


@dataclass
class _Loader:
    """Reads, decodes and replaces; shared by threads, which at worst decode a record twice."""

    mixture: Mixture
    order: Order
    size: int
    fields: dict
    cache: dict[Id, Record] | None
    reading: Reading
    texts: Texts | None = None
    broken: dict[Id, BadRecord] = field(default_factory=dict)

    def load(self, step: int, positions: list[int], images: np.ndarray | None = None) -> HostBatch:
        ids = [self.mixture.locate(self.order[position]) for position in positions]
        if images is None:
            images = np.empty((len(ids), self.size, self.size, 3), np.uint8)
        # What is kept for later batches needs memory of its own.
        records = self._decoded(ids, images if self.cache is None else None)
        bad: dict[Id, Rejection] = {}
        for row, position in enumerate(positions):
            wanted, met, spares = ids[row], 0, None
            while isinstance(records[row], BadRecord):
                bad[ids[row]] = self._rejection(ids[row], records[row])
                met += 1
                spares = spares or islice(self.order.spares(position), GIVE_UP_AFTER - 1)
                spare = next(spares, None)
                if spare is None:
                    label, what = self.mixture.labels[wanted[0]], f"{met} broken records in a row"
                    raise TrainingFailed(label, what, f"first: {bad[wanted][2]} ({bad[wanted][1]})")
                ids[row] = self.mixture.locate(spare)
                records[row] = self._decoded([ids[row]])[0]
        arrays = collate(records, self.fields, self.size, images)
        labels = self.mixture.labels
        cut = self.texts.put(arrays, positions) if self.texts else 0
        return HostBatch(step, arrays, [(labels[s], i) for s, i in ids], list(bad.values()), cut)

    def _rejection(self, at: Id, record: BadRecord) -> Rejection:
        source, number = at
        name = self.mixture.sources[source].name(number)
        return self.mixture.labels[source], number, name, record.reason

    def _decoded(
        self, ids: Sequence[Id], images: np.ndarray | None = None
    ) -> list[Record | BadRecord]:
        """Decodes, the image of row b into `images[b]` where that can be."""
        places = {} if images is None else dict(zip(ids, images))
        kept = self.cache if self.cache is not None else {}
        found = {at: kept.get(at) or self.broken.get(at) for at in ids}
        for position, entry in enumerate(self.mixture.entries):
            need = [i for (s, i), record in found.items() if s == position and record is None]
            for number, record in zip(need, self._read(entry, need)):
                at = position, number
                found[at] = self._decode(position, entry, record, places.get(at))
        for at, record in found.items():
            if isinstance(record, BadRecord):
                self.broken[at] = record
            elif self.cache is not None:
                self.cache[at] = record
        return [found[at] for at in ids]

    def _read(self, entry: Entry, indices: Sequence[int]) -> Sequence[Record | BadRecord]:
        if not indices:
            return ()
        with self.reading.of(entry.label, entry.source, indices) as noted:
            return entry.source.read(noted)

    def _decode(
        self, position: int, entry: Entry, record, place: np.ndarray | None
    ) -> Record | BadRecord:
        record = decode(record, self.size, entry.crop, self.fields, place)
        if isinstance(record, BadRecord):
            return record
        convert = self.mixture.union.convert[position]
        return {name: convert[name](v) if name in convert else v for name, v in record.items()}
