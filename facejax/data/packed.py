"""The format of a packed data set: ArrayRecord shards and their manifest.

    <dir>/data-00000-of-00012.array_record     records, one msgpack map each
    <dir>/parts/plan.json                      what is being packed, and how
    <dir>/parts/00000.json                     one finished shard: counts, checksum, pixel sums
    <dir>/dataset.json                         the manifest, there once every shard is
    <dir>/identity.npy                         i32[N], -1 unknown: for samplers, to read no images
    <dir>/rejected.csv                         what was left out, and why

A record's map holds `name` and the fields of `facejax.data.records`, images as JPEG and region maps
as PNG, several captions as a list; a NumPy array is a msgpack extension of type 1, itself a msgpack
list [dtype, shape, bytes] in C order and little-endian.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from facejax.data.records import Field, Record
from facejax.data.rejected import Rejected
from facejax.errors import UserError

SCHEMA_VERSION = 1
MANIFEST = "dataset.json"
PARTS = "parts"
IDENTITY = "identity.npy"
_ARRAY = 1


def pack_record(record: Record) -> bytes:
    """Serialises a record of plain values, bytes and arrays."""
    return msgpack.packb(record, default=_pack_array)


def unpack_record(data: bytes) -> Record:
    """The record that `pack_record` serialised."""
    return msgpack.unpackb(data, ext_hook=_unpack_array, use_list=False)


def _pack_array(value: Any) -> Any:
    if isinstance(value, np.generic) and value.ndim == 0:
        return value.item()
    little = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False)
    parts = (little.dtype.str, little.shape, little.tobytes())
    return msgpack.ExtType(_ARRAY, msgpack.packb(parts))


def _unpack_array(code: int, data: bytes) -> np.ndarray:
    if code != _ARRAY:
        raise ValueError(f"unknown msgpack extension {code}")
    dtype, shape, content = msgpack.unpackb(data)
    return np.frombuffer(content, dtype).reshape(shape)


def shard_name(shard: int, shards: int) -> str:
    """File name of one shard."""
    return f"data-{shard:05d}-of-{shards:05d}.array_record"


def part_path(folder: Path, shard: int) -> Path:
    """Where the facts of a finished shard are kept."""
    return folder / PARTS / f"{shard:05d}.json"


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file that is either there as a whole or not at all."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    scratch.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(scratch, path)


def _read_part(path: Path) -> dict[str, Any]:
    part = json.loads(path.read_text())
    return part | {"identity": np.array(part["identity"], np.int32)}  # millions, so no ints


def _write_array(path: Path, values: np.ndarray) -> None:
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(scratch, "wb") as stream:
        np.save(stream, values)
    os.replace(scratch, path)


def fields_to_json(fields: dict[str, Field]) -> dict[str, dict]:
    """The schema of a manifest."""
    return {name: dataclasses.asdict(field) for name, field in fields.items()}


def fields_from_json(schema: dict[str, dict]) -> dict[str, Field]:
    """The fields that a manifest's schema describes."""
    return {
        name: Field(**{**f, "shape": tuple(f["shape"]), "names": tuple(f["names"])})
        for name, f in schema.items()
    }


def merge_parts(folder: Path) -> dict | None:
    """Writes the manifest and `rejected.csv` once every shard is finished.

    Several workers may do so at the same time: they write the same bytes.

    Returns:
        The manifest, None if shards are missing.
    """
    plan = json.loads((folder / PARTS / "plan.json").read_text())
    paths = [part_path(folder, shard) for shard in range(plan["shards"])]
    if not all(path.exists() for path in paths):
        return None
    parts = [_read_part(path) for path in paths]
    records = sum(part["records"] for part in parts)
    known = {name: sum(part["known"][name] for part in parts) for name in plan["fields"]}
    pixels = max(records, 1) * plan["size"] ** 2
    total = np.array([part["sum"] for part in parts], object).sum(0)
    squares = np.array([part["sum_of_squares"] for part in parts], object).sum(0)
    mean = [value / pixels for value in total]
    variance = [value / pixels - m * m for value, m in zip(squares, mean)]
    rejected = [row for part in parts for row in part["rejected"]]
    if "identity" in plan["fields"]:
        _write_array(folder / IDENTITY, np.concatenate([part["identity"] for part in parts]))
    manifest = plan | {
        "records": records,
        "rejected": len(rejected),
        "known": known,
        "mean": [m / 255 for m in mean],
        "std": [max(v, 0.0) ** 0.5 / 255 for v in variance],
        "files": [
            {
                "name": shard_name(i, len(parts)),
                "records": part["records"],
                "sha256": part["sha256"],
            }
            for i, part in enumerate(parts)
        ],
    }
    Rejected.write(folder / "rejected.csv", [tuple(row) for row in rejected])
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(path: str) -> dict:
    """The manifest of a packed data set.

    Raises:
        UserError: there is none, shards are missing, or it is of another version.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(path, "no such directory", "give a directory written by facejax.pack")
    if not (folder / MANIFEST).exists() and (folder / PARTS / "plan.json").exists():
        raise UserError(path, "packing is not finished", "run facejax.pack again, for all shards")
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise UserError(path, f"no readable {MANIFEST} ({error})", "run facejax.pack") from error
    if manifest.get("schema_version") != SCHEMA_VERSION:
        what = f"schema version {manifest.get('schema_version')}, not {SCHEMA_VERSION}"
        raise UserError(path, what, "pack the data set again")
    absent = [f["name"] for f in manifest["files"] if not (folder / f["name"]).exists()]
    if absent:
        raise UserError(path, f"{len(absent)} shards are missing: {absent[0]}, ...", "restore them")
    return manifest
