"""The shards that `facejax.pack` writes; see `facejax/data/packed.py` for the format."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from facejax.data import packed
from facejax.data.records import BadRecord, Record
from facejax.data.sampling import numbers_of


@dataclass(frozen=True)
class Config:
    """Where the shards are.

    Attributes:
        path: the directory that holds `dataset.json`.
    """

    path: str

    @classmethod
    def tiny(cls, root: Path) -> "Config":
        """The tiny folder source, packed at 16 px."""
        from facejax import pack
        from facejax.data.sources import folder

        root = Path(root)
        options = dataclasses.asdict(folder.Config.tiny(root / "folder"))
        plan = pack.make_plan("folder", options, size=16, records_per_shard=4)
        pack.pack(plan, root / "packed")
        return cls(path=str(root / "packed"))


@dataclass(frozen=True)
class _Shard:
    """Tells the reader how many records a shard holds, so that it need not open it to know."""

    filename: str
    take: int
    examples_in_shard: int
    skip: int = 0


def open(cfg: Config) -> "ArrayRecord":
    """Reads the manifest.

    Raises:
        UserError: no finished data set there.
    """
    return ArrayRecord(Path(cfg.path), packed.read_manifest(cfg.path))


class ArrayRecord:
    """Random access to packed records. See `facejax.data.records.Source`."""

    def __init__(self, folder: Path, manifest: dict):
        self._folder = folder
        self.fields = packed.fields_from_json(manifest["fields"])
        self._length = manifest["records"]
        self._records = ArrayRecordDataSource(
            [
                _Shard(str(folder / f["name"]), f["records"], f["records"])
                for f in manifest["files"]
                if f["records"]
            ]
        )

    def __len__(self) -> int:
        return self._length

    def name(self, index: int) -> str:
        """The name that the record had in the set it was packed from."""
        try:
            return packed.unpack_record(self._records[index])["name"]
        except (ValueError, RuntimeError, IndexError):
            return f"record {index}"

    def identities(self) -> np.ndarray:
        """i32[N], -1 where unknown; of a set without a table of them, by reading its records."""
        table = self._folder / packed.IDENTITY
        return np.load(table) if table.exists() else numbers_of(self, "identity")

    def read(self, indices: Sequence[int]) -> list[Record | BadRecord]:
        try:
            return [_record(data) for data in self._records.__getitems__(list(indices))]
        except (ValueError, RuntimeError, IndexError):
            return [self._read(index) for index in indices]

    def _read(self, index: int) -> Record | BadRecord:
        try:
            return _record(self._records[index])
        except (ValueError, RuntimeError, IndexError) as error:
            return BadRecord(f"broken shard ({error})")


def _record(data: bytes) -> Record:
    record = packed.unpack_record(data)
    del record["name"]
    return record
