"""The pictures that an evaluator looks at: any source of `facejax/data/sources/`, read by row.

They go through the decoder that training uses (`facejax/data/decode.py`), with its geometry.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facejax.data import pipeline
from facejax.data.mixture import open_source
from facejax.data.records import BadRecord, Field, Source
from facejax.errors import UserError, nearest

CHUNK = 256
"""Pictures that are decoded, held and embedded at a time."""


@dataclass(frozen=True)
class Pictures:
    """An opened source.

    Attributes:
        source: the records.
        crop: share of the largest centred square of each picture that is kept.
        where: what messages call the source: its path or its config key.
    """

    source: Source
    crop: float
    where: str

    def names(self) -> tuple[str, ...]:
        """What a person would call each record."""
        return tuple(map(self.source.name, range(len(self.source))))

    def read(self, rows: Sequence[int], size: int) -> Iterator[pipeline.Rows]:
        """Decodes records to u8[n, size, size, 3], `CHUNK` at a time; see `pipeline.sequential`.

        All chunks have one length, so the last one is padded, and an encoder compiles once.
        """
        batch = min(CHUNK, len(rows))
        return pipeline.sequential(
            self.source, size=size, batch=batch, crop=self.crop, records=rows
        )

    def classes(self, field: str, where: str) -> Field:
        """The field `field`, whose values are class numbers.

        Raises:
            UserError: the source has no such field; `where` is the key that asked for it.
        """
        fields = {name: f for name, f in self.source.fields.items() if f.classes}
        if field not in fields:
            what = f"no classes called '{field}' in {self.where}"
            raise UserError(where, what, nearest(field, fields))
        return fields[field]

    def values(self, *fields: str) -> tuple[np.ndarray, ...]:
        """Whole columns of the source, read without decoding a picture.

        Returns:
            For each of `fields`, i64[N] class numbers (-1 unknown) or i64[N, A] attributes
            (0 unknown); and bool[N], records that could be read at all.
        """
        unknown = {
            name: np.full(f.shape, -1 if f.classes else 0)
            for name, f in self.source.fields.items()
            if name in fields
        }
        columns = {name: [] for name in fields}
        readable: list[bool] = []
        for start in range(0, len(self.source), CHUNK):
            rows = range(start, min(start + CHUNK, len(self.source)))
            for record in self.source.read(rows):
                readable.append(not isinstance(record, BadRecord))
                for name, column in columns.items():
                    value = record.get(name) if readable[-1] else None
                    column.append(unknown[name] if value is None else value)
        return *(np.array(column, np.int64) for column in columns.values()), np.array(readable)


def open_pictures(
    path: str, source: Mapping[str, Any] | None, crop: float, **folder: Any
) -> Pictures:
    """Opens the pictures that an evaluator's config names in one of two ways.

    Args:
        path: a folder or a zip, short for a source `folder` of this path; "" where `source` is it.
        source: a dict like an entry of `config.data.sources`, or None.
        crop: share of the centred square that is kept, where `source` doesn't say.
        folder: the other keys of the source that `path` is short for.

    Raises:
        UserError: both or neither, or what the source refuses.
    """
    if bool(path) == (source is not None):
        raise UserError("source", "exactly one of path and source is wanted", "give one of them")
    spec = {"name": "folder", "path": path, **folder} if source is None else source
    entry = open_source({"crop": crop, **spec}, "source")
    return Pictures(entry.source, entry.crop, path or "source")


def labels_of(field: Field, numbers: np.ndarray) -> np.ndarray:
    """str[n]: the names of class numbers i64[n], or the numbers where the field has no names."""
    names = np.array(field.names or [str(k) for k in range(field.classes)])
    return names[numbers]
