"""What `facejax.embed` wrote, as cleaning wants it."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facejax.data.arrays import MANIFEST, shard_paths
from facejax.errors import UserError


@dataclass(frozen=True)
class Stored:
    """Embeddings and whose they are.

    Attributes:
        embeddings: f32[N, D], of unit length; zero where rejected.
        labels: the source of each record.
        indices: its number in the source.
        names: its name.
        rejected: why there is no embedding, or "".
        identities: its identity, "" where unknown.
        manifest: what embedded what.
    """

    embeddings: np.ndarray
    labels: list[str]
    indices: list[int]
    names: list[str]
    rejected: list[str]
    identities: list[str]
    manifest: dict


def read(folder: Path) -> Stored:
    """Reads the shards of a finished directory.

    Raises:
        UserError: it isn't finished, or isn't one.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        shards = [shard_paths(folder, i, manifest["shards"]) for i in range(manifest["shards"])]
        parts = [np.load(arrays) for arrays, _ in shards]
        rows = []
        for _, path in shards:
            with path.open(newline="", encoding="utf-8") as file:
                rows += list(csv.DictReader(file))
        x = np.concatenate(parts).astype(np.float32)
        if len(x) != len(rows) or "identity" not in rows[0]:
            raise ValueError("rows and embeddings differ")
    except (OSError, ValueError, KeyError, IndexError) as error:
        what = f"no finished embeddings ({error})"
        raise UserError(str(folder), what, "run facejax.embed again") from error
    length = np.linalg.norm(x, axis=1, keepdims=True)
    good = np.isfinite(length) & (length > 0)
    return Stored(
        embeddings=np.divide(x, length, out=np.zeros_like(x), where=good),
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
