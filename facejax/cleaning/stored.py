"""What `facejax.embed` wrote, as cleaning wants it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facejax.data.arrays import open_shards
from facejax.errors import UserError


class Vectors:
    """Embeddings in shards, read when they are asked for, at unit length; zero where there is none.

    Attributes:
        shape: (N, D).
    """

    def __init__(self, parts: Sequence[np.ndarray]):
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])
        self.shape = (int(self._starts[-1]), parts[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """f32[n, D] of records i64[n] or of a slice of them."""
        rows = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        x = np.empty((len(rows), self.shape[1]), np.float32)
        part = np.searchsorted(self._starts, rows, side="right") - 1
        for p in np.unique(part):
            here = part == p
            x[here] = self._parts[p][rows[here] - self._starts[p]]
        length = np.linalg.norm(x, axis=1, keepdims=True)
        good = np.isfinite(length) & (length > 0)
        return np.divide(x, length, out=np.zeros_like(x), where=good)


@dataclass(frozen=True)
class Stored:
    """Embeddings and whose they are.

    Attributes:
        embeddings: of N records.
        labels: the source of each record.
        indices: its number in the source.
        names: its name.
        rejected: why there is no embedding, or "".
        identities: its identity, "" where unknown.
        manifest: what embedded what.
    """

    embeddings: Vectors
    labels: list[str]
    indices: list[int]
    names: list[str]
    rejected: list[str]
    identities: list[str]
    manifest: dict


def read(folder: Path) -> Stored:
    """Opens a finished directory.

    Raises:
        UserError: it isn't finished, or isn't one.
    """
    manifest, parts, rows = open_shards(folder)
    if not rows or "identity" not in rows[0]:
        raise UserError(str(folder), "rows without identities", "run facejax.embed again")
    return Stored(
        embeddings=Vectors(parts),
        labels=[row["label"] for row in rows],
        indices=[int(row["index"]) for row in rows],
        names=[row["name"] for row in rows],
        rejected=[row["rejected"] for row in rows],
        identities=[row["identity"] for row in rows],
        manifest=manifest,
    )


def by_identity(identities: np.ndarray) -> list[np.ndarray]:
    """Record numbers of each identity i64[n], for identities i64[N] (negative: none) in order."""
    order = np.argsort(identities, kind="stable")
    order = order[identities[order] >= 0]
    ends = np.flatnonzero(np.diff(identities[order])) + 1
    return np.split(order, ends) if len(order) else []
