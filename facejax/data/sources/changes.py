"""Queries of composed retrieval: a picture, a text that says what changes, what it then would be.

    {'name': 'changes', 'source': {'name': 'folder', 'path': 'faces.zip'}, 'queries': 'train.csv'}

Record i is query i: `image` is the reference, `caption` the change, `generated` the target's
picture and `target` its record in `source`, so that what `facejax.embed` makes of `source` is the
bank of targets. Other fields of the reference are the query's too. The list is that of the
evaluator `composed_retrieval`, whose columns `category` and `subset` are ignored here.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facejax.data import queries as lists
from facejax.data.mixture import open_source
from facejax.data.records import BadRecord, Field, Record, Source
from facejax.errors import UserError


@dataclass(frozen=True)
class Config:
    """Which pictures, and what changes.

    Attributes:
        source: the pictures, like an entry of `config.data.sources`.
        queries: CSV file with the columns `reference` (a picture), `text` (the change) and `target`
            (a picture, or several with | between, of which the first is taken).
    """

    # A mapping has no hash; equality still compares it.
    source: Mapping[str, Any] = field(hash=False)
    queries: str

    @classmethod
    def tiny(cls, root: Path) -> "Config":
        """Four changes among six synthetic pictures."""
        path = Path(root) / "queries.csv"
        source = {"name": "synthetic", "n": 6, "identities": 2, "size": 16}
        rows = [(f"person {i % 2}, picture {i // 2}", f"change {i}") for i in range(6)]
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("reference", "text", "target"))
            writer.writerows((*rows[i], rows[i + 2][0]) for i in range(4))
        return cls(source, str(path))


def open(cfg: Config) -> "Changes":
    """Reads the list and finds its pictures.

    Raises:
        UserError: what `source` refuses, or what `facejax.data.queries.read` does.
    """
    entry = open_source(cfg.source, "source")
    if entry.crop != 1:
        raise UserError("source.crop", "queries are cropped, not pictures", "leave it out")
    source = entry.source
    names = [source.name(i) for i in range(len(source))]
    return Changes(source, lists.read(cfg.queries, names, "the source"), cfg.queries)


class Changes:
    """The queries. See `facejax.data.records.Source`."""

    def __init__(self, pictures: Source, queries: Sequence[lists.Query], where: str):
        self._pictures, self._queries, self._where = pictures, queries, where
        self.fields = {
            **pictures.fields,
            "caption": Field(dtype="str"),
            "generated": Field(dtype="uint8"),
            "target": Field((), "int32", classes=len(pictures)),
        }

    def __len__(self) -> int:
        return len(self._queries)

    def name(self, index: int) -> str:
        return f"{self._where}:{index + 2}"

    def read(self, indices: Sequence[int]) -> list[Record | BadRecord]:
        asked = [self._queries[index] for index in indices]
        wanted = [row for query in asked for row in (query.reference, query.target[0])]
        found = iter(self._pictures.read(wanted))
        return [_query(query, next(found), next(found)) for query in asked]


def _query(
    query: lists.Query, reference: Record | BadRecord, target: Record | BadRecord
) -> Record | BadRecord:
    for record in (reference, target):
        if isinstance(record, BadRecord):
            return record
    told = {"caption": query.text, "generated": target["image"], "target": query.target[0]}
    return reference | told
