"""Arrays with one row per image, computed earlier: vectors of a recogniser, codes of a tokenizer.

    <file>.npy                               rows in the order of the images' paths
    <dir>/embeddings-00000-of-00003.npy      what `facejax.embed` writes of the same set of images:
    <dir>/rows-00000-of-00003.csv            rows by number, and each one's image
    <dir>/embeddings.json

Rows are read from disk when they are asked for.
"""

import csv
import json
from bisect import bisect
from collections.abc import Container, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from facejax.data.records import Field
from facejax.errors import UserError

MANIFEST = "embeddings.json"


def shard_paths(folder: Path, shard: int, shards: int) -> tuple[Path, Path]:
    """The embeddings of a shard, and the list of its rows."""
    stem = f"{shard:05d}-of-{shards:05d}"
    return folder / f"embeddings-{stem}.npy", folder / f"rows-{stem}.csv"


class Rows:
    """The rows of some arrays put one after the other; `rows[i]` is None where it is unknown.

    Attributes:
        field: what the rows are.
    """

    def __init__(self, parts: Sequence[np.ndarray], unknown: Container[int]):
        self._parts, self._unknown = parts, unknown
        self._ends = list(accumulate(len(part) for part in parts))
        self.field = Field(parts[0].shape[1:], parts[0].dtype.name)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> np.ndarray | None:
        if index in self._unknown:
            return None
        part = bisect(self._ends, index)
        rows = self._parts[part]
        return np.array(rows[index - self._ends[part] + len(rows)])


def open_rows(path: str, names: Sequence[str]) -> Rows:
    """Opens the rows of images.

    Args:
        path: a `.npy` file or a directory of `facejax.embed`.
        names: the images' paths within their set, in order.

    Raises:
        UserError: no such file, or rows of other images.
    """
    folder = Path(path)
    if not folder.exists():
        raise UserError(path, "does not exist", "give a .npy file or a folder of facejax.embed")
    rows = _embedded(folder, names) if folder.is_dir() else Rows([_load(folder)], ())
    if len(rows) != len(names):
        what = f"holds {len(rows)} rows for {len(names)} images"
        raise UserError(path, what, "compute it for this set of images")
    return rows


def _load(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(str(path), f"not an array ({error})", "save it with numpy.save") from error
    if array.ndim < 2:
        raise UserError(str(path), f"has the shape {array.shape}", "give one row per image")
    return array


def _embedded(folder: Path, names: Sequence[str]) -> Rows:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = [shard_paths(folder, i, manifest["shards"]) for i in range(manifest["shards"])]
        listed = []
        for _, rows in files:
            with rows.open(newline="", encoding="utf-8") as file:
                listed += list(csv.DictReader(file))
    except (OSError, ValueError, KeyError) as error:
        what = f"no finished embeddings ({error})"
        raise UserError(str(folder), what, "run facejax.embed again") from error
    for row, name in zip(listed, names):
        if row["name"] != name:
            what = f"row {row['index']} is of '{row['name']}', not of '{name}'"
            raise UserError(str(folder), what, "embed this set of images")
    unknown = {i for i, row in enumerate(listed) if row["rejected"]}
    return Rows([_load(arrays) for arrays, _ in files], unknown)
