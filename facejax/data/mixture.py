"""Several sources as one: opening them from config dicts, labels, weights, united fields."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

from facejax import plugins
from facejax.data import fields
from facejax.data.captions import Captioned
from facejax.data.records import Field, Source
from facejax.errors import UserError, nearest
from facejax.typed import build, keys_of


@dataclass(frozen=True)
class Entry:
    """One source of a mixture.

    Attributes:
        label: its name in batch ids and `rejected.csv`.
        source: the records.
        weight: its share of the rows, relative to the other sources; None everywhere means in
            proportion to the numbers of records.
        crop: share of the largest centred square of each image that is kept.
    """

    label: str
    source: Source
    weight: float | None = None
    crop: float = 1.0


@dataclass(frozen=True)
class _Common:
    """The keys that a source's dict may hold whatever its `name`.

    Attributes:
        caption_from: "attributes" writes captions from a record's attributes, age, expression and
            action units, in place of any that the source has; see `facejax.data.captions`.
        caption_count: how many captions of each record.
        caption_seed: another one gives other captions.
    """

    name: str
    label: str | None = None
    weight: float | None = None
    crop: float = 1.0
    caption_from: Literal["attributes"] | None = None
    caption_count: int = 5
    caption_seed: int = 0


class Mixture:
    """Sources with unique labels.

    Attributes:
        entries: the sources, in config order.
    """

    def __init__(self, entries: Sequence[Entry]):
        self.entries = tuple(entries)

    def __len__(self) -> int:
        """Number of records of all sources together."""
        return sum(len(source) for source in self.sources)

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(entry.source for entry in self.entries)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(entry.label for entry in self.entries)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Number of each source's first record, counted through all of them."""
        return tuple(accumulate(map(len, self.sources[:-1]), initial=0))

    def locate(self, number: int) -> tuple[int, int]:
        """Source and index within it of a record counted through all sources."""
        source = bisect_right(self.starts, number) - 1
        return source, number - self.starts[source]

    @property
    def weights(self) -> tuple[float, ...]:
        """Share of each source in the rows, summing to 1."""
        raw = [len(e.source) if e.weight is None else e.weight for e in self.entries]
        return tuple(w / sum(raw) for w in raw)

    @cached_property
    def union(self) -> fields.Union:
        """The united fields and how each source's values become theirs."""
        return fields.union({e.label: e.source.fields for e in self.entries})

    @property
    def fields(self) -> dict[str, Field]:
        """The fields of all sources, united by name; identities of two sources never collide."""
        return self.union.fields

    @property
    def classes(self) -> dict[str, int]:
        """Number of classes of each integer label."""
        return {name: field.classes for name, field in self.fields.items() if field.classes}

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Names of the classes of each integer label that has names."""
        fields = self.fields.items()
        return {name: field.names for name, field in fields if field.classes and field.names}

    @property
    def sets(self) -> dict[str, int]:
        """Places of each field that is a set."""
        return {name: field.shape[0] for name, field in self.fields.items() if field.many}

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes, united over the sources."""
        return self.fields["attributes"].names if "attributes" in self.fields else ()

    def select(self, names: Sequence[str]) -> dict[str, Field]:
        """The fields `names`, `image` left out.

        Raises:
            UserError: no source has a field, or the sources' versions of it cannot be merged.
        """
        for name in names:
            if name in self.union.conflicts:
                remedy = "train on sources that agree, or without what needs this field"
                raise UserError("data.sources", self.union.conflicts[name], remedy)
            if name not in self.fields:
                what = f"no source gives '{name}'"
                raise UserError("data.sources", what, nearest(name, self.fields))
        return {name: self.fields[name] for name in names if name != "image"}


def open_source(spec: Mapping[str, Any], where: str) -> Entry:
    """Opens one source from a plain dict: the keys of every source, and its own.

    Raises:
        UserError: an unknown key, at `where`.<key>, or what the source itself refuses.
    """
    common = {k: spec[k] for k in _Common.__dataclass_fields__ if k in spec}
    options = build(_Common, common, where)
    module = plugins.load("source", options.name, f"{where}.name")
    if options.weight is not None and not options.weight > 0:
        raise UserError(f"{where}.weight", f"{options.weight} is not positive", "leave it out")
    if not 0 < options.crop <= 1:
        raise UserError(f"{where}.crop", f"{options.crop} is not a share", "give 0 < crop <= 1")
    own = {key: value for key, value in spec.items() if key not in common}
    config = build(module.Config, own, where, _Common.__dataclass_fields__)
    with keys_of(config, where):
        source = module.open(config)
    if len(source) == 0:
        raise UserError(where, "holds no records", "check its path")
    if options.caption_from:
        source = _with_captions(source, options, where)
    return Entry(options.label or options.name, source, options.weight, options.crop)


def _with_captions(source: Source, options: _Common, where: str) -> Source:
    if options.caption_count < 1:
        told = f"{options.caption_count} captions"
        raise UserError(f"{where}.caption_count", told, "give 1 or more")
    if "attributes" not in source.fields:
        told = f"'{options.label or options.name}' gives no attributes"
        raise UserError(f"{where}.caption_from", told, "label them, or leave it out")
    return Captioned(source, options.caption_count, options.caption_seed)


def open_sources(specs: Sequence[Mapping[str, Any]]) -> Mixture:
    """Opens the sources of a config (`config.data.sources`).

    A source without a label is labelled by its name, the second one of this name `<name>-2`.

    Raises:
        UserError: no source, a label used twice, a weight missing beside others, or what
            `open_source` refuses.
    """
    if not specs:
        raise UserError("data.sources", "is empty", "give at least one source")
    entries: list[Entry] = []
    for position, spec in enumerate(specs):
        where = f"data.sources[{position}]"
        entry = open_source(spec, where)
        taken = {e.label for e in entries}
        label, count = entry.label, 1
        while label in taken and not spec.get("label"):
            count += 1
            label = f"{entry.label}-{count}"
        if label in taken:
            raise UserError(f"{where}.label", f"'{label}' is taken", "choose another label")
        entries.append(Entry(label, entry.source, entry.weight, entry.crop))
    weighted = [e.weight is not None for e in entries]
    if any(weighted) and not all(weighted):
        where = f"data.sources[{weighted.index(False)}].weight"
        raise UserError(where, "missing beside weighted sources", "weight all sources or none")
    return Mixture(entries)
