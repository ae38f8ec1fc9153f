"""Arrays with one row per image, computed earlier: vectors of a recogniser, codes of a tokenizer.

    <file>.npy                               rows in the order of the images' paths
    <dir>/embeddings-00000-of-00003.npy      what `facejax.embed` writes of the same set of images:
    <dir>/rows-00000-of-00003.csv            rows by number, and each one's image
    <dir>/embeddings.json
    <dir>/embeddings-00000-of-00003.parquet  both in one, in place of the first two

Rows of `.npy` files are read from disk when they are asked for.
"""

import csv
import json
from bisect import bisect
from collections.abc import Container, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from facejax.data.records import Field
from facejax.errors import UserError

MANIFEST = "embeddings.json"


def shard_paths(folder: Path, shard: int, shards: int) -> tuple[Path, Path]:
    """The embeddings of a shard, and the list of its rows."""
    stem = f"{shard:05d}-of-{shards:05d}"
    return folder / f"embeddings-{stem}.npy", folder / f"rows-{stem}.csv"


def parquet_path(folder: Path, shard: int, shards: int) -> Path:
    """The embeddings of a shard and the list of its rows."""
    return folder / f"embeddings-{shard:05d}-of-{shards:05d}.parquet"


def open_shards(
    folder: Path,
) -> tuple[dict[str, Any], list[np.ndarray], list[dict[str, str]]]:
    """Opens what `facejax.embed` wrote.

    Returns:
        The manifest, the embeddings f32[n, D] of each shard, and the rows of all.

    Raises:
        UserError: it isn't finished, or isn't one.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        shards = [read_shard(folder, i, manifest) for i in range(manifest["shards"])]
        for arrays, rows in shards:
            if len(arrays) != len(rows):
                raise ValueError("rows and embeddings differ")
    except (OSError, ValueError, KeyError) as error:
        what = f"no finished embeddings ({error})"
        raise UserError(str(folder), what, "run facejax.embed again") from error
    return manifest, [arrays for arrays, _ in shards], [r for _, rows in shards for r in rows]


def read_shard(
    folder: Path, shard: int, manifest: Mapping[str, Any]
) -> tuple[np.ndarray, list[dict[str, str]]]:
    """The embeddings f32[n, D] of a shard and its rows, empty cells as empty strings."""
    if manifest["format"] == "parquet":
        return _read_parquet(parquet_path(folder, shard, manifest["shards"]))
    arrays, rows = shard_paths(folder, shard, manifest["shards"])
    with rows.open(newline="", encoding="utf-8") as file:
        return np.load(arrays, mmap_mode="r"), list(csv.DictReader(file))


def parquet_of(where: str) -> ModuleType:
    """pyarrow's `parquet`.

    Raises:
        UserError: pyarrow is not installed; `where` is what wants it.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(where, f"Parquet needs pyarrow ({error})", "pip install pyarrow") from error
    return parquet


def _read_parquet(path: Path) -> tuple[np.ndarray, list[dict[str, str]]]:
    parquet = parquet_of(str(path))
    table = parquet.read_table(path)
    vectors = table["embedding"].combine_chunks()
    arrays = vectors.flatten().to_numpy().reshape(len(vectors), -1)
    rows = table.drop_columns("embedding").to_pylist()
    return arrays, [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]


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
    _, parts, listed = open_shards(folder)
    for row, name in zip(listed, names):
        if row["name"] != name:
            what = f"row {row['index']} is of '{row['name']}', not of '{name}'"
            raise UserError(str(folder), what, "embed this set of images")
    return Rows(parts, {i for i, row in enumerate(listed) if row["rejected"]})
