"""Tar shards in the layout of WebDataset, read in place.

    {'name': 'webdataset', 'path': 'faces-{000..127}.tar', 'identity': 'cls', 'captions': 'txt'}

Members that follow each other and agree up to the first dot of their file names are one record:
0001.jpg, 0001.cls, 0001.txt. The image is a .jpg, .jpeg, .png or .webp. A .cls holds a class
number, a .txt captions, one a line, a .json an object with either and with names of classes.

The headers of all members are read once at start, which takes about 40 s per million, and the
places of records are kept in memory; nothing is written beside the shards. Pack sets that are
opened often. Compressed shards can't be read at random and are refused.
"""

import glob
import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from facejax.data import labels as tables
from facejax.data.records import BadRecord, Field, Record
from facejax.errors import UserError

IMAGES = ("jpg", "jpeg", "png", "webp")
BLOCK = tarfile.BLOCKSIZE
OPEN = 256
"""Shards that are kept open."""


@dataclass(frozen=True)
class Config:
    """Where the shards are and what is taken from them.

    Attributes:
        path: shards as 'name-{000..127}.tar', a glob, or a directory of `.tar` files.
        identity: where identity comes from: the number in each `.cls`, a key of each `.json`.
        identity_column: that key.
        classes: further keys of the `.json` that hold names of classes ("gender", "race"); each is
            a field of its own name.
        captions: where captions come from: the `.txt`, a key of the `.json` (a string or a list).
        caption_column: that key.
        missing: what a record without one of these is: an "error", or just "unknown".
    """

    path: str
    identity: Literal["cls", "column", "none"] = "none"
    identity_column: str = "identity"
    classes: tuple[str, ...] = ()
    captions: Literal["txt", "column", "none"] = "none"
    caption_column: str = "caption"
    missing: Literal["error", "unknown"] = "error"

    @classmethod
    def tiny(cls, root: Path) -> "Config":
        """Six 20 x 20 JPEGs of three people in two shards, with captions."""
        from facejax.data.decode import encode_jpeg

        rng = np.random.default_rng(0)
        for shard in range(2):
            members = {}
            for i in range(3 * shard, 3 * shard + 3):
                image = rng.integers(0, 256, (20, 20, 3), np.uint8)
                members[f"{i:04d}.jpg"] = encode_jpeg(image, 90)
                members[f"{i:04d}.cls"] = str(i // 2).encode()
                members[f"{i:04d}.txt"] = f"a face, number {i}".encode()
                members[f"{i:04d}.json"] = json.dumps({"gender": "mf"[i % 2]}).encode()
            write(Path(root) / f"faces-{shard:03d}.tar", members)
        path = f"{root}/faces-{{000..001}}.tar"
        return cls(path=path, identity="cls", classes=("gender",), captions="txt")


def open(cfg: Config) -> "WebDataset":
    """Reads the headers of all shards, and the labels.

    Raises:
        UserError: no such shard, one that is cut off or compressed, or a label that is missing or
            is none.
    """
    labelled = cfg.identity == "column" or bool(cfg.classes)
    texts = {
        "cls": cfg.identity == "cls",
        "json": labelled or cfg.captions == "column",
        "txt": cfg.captions == "txt",
    }
    parts = ["image", *(name for name, wanted in texts.items() if wanted)]
    members = Members(_shards(cfg.path), parts)
    if not len(members):
        raise UserError(cfg.path, "holds no images", "name them KEY.jpg, KEY.png or KEY.webp")
    for name in parts[1:]:
        absent = [members.name(i) for i in np.flatnonzero(members.absent(name))]
        tables.check_missing(f"{cfg.path} .{name}", absent, cfg.missing)
    annotations = _of_json(cfg, members) if labelled else {}
    if cfg.identity == "cls":
        annotations["identity"] = _of_cls(members)
    return WebDataset(cfg, members, annotations)


class Members:
    """Where the parts of each record lie, and their bytes.

    Read by position (`os.pread`), so threads share the files without a lock.
    """

    def __init__(self, shards: Sequence[Path], parts: Sequence[str]):
        self._shards, self._parts = shards, {name: i for i, name in enumerate(parts)}
        scanned = [_scan(path, self._parts) for path in shards]
        keys = [key.encode() for found, _ in scanned for key in found]
        self._keys, self._ends = b"".join(keys), np.cumsum([len(key) for key in keys])
        self._shard = np.repeat(
            np.arange(len(shards), dtype=np.int32), [len(k) for k, _ in scanned]
        )
        self._places = np.concatenate([places for _, places in scanned])
        self._file = lru_cache(OPEN)(lambda shard: self._shards[shard].open("rb", buffering=0))

    def __len__(self) -> int:
        return len(self._shard)

    def name(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        key = self._keys[start : self._ends[index]].decode()
        return f"{self._shards[self._shard[index]].name}/{key}"

    def absent(self, part: str) -> np.ndarray:
        """bool[N], records without this part."""
        return self._places[:, self._parts[part], 1] < 0

    def read(self, index: int, part: str) -> bytes | None:
        """The content of a part, None where the record has none.

        Raises:
            OSError: it could not be read.
        """
        offset, size = self._places[index, self._parts[part]].tolist()
        if size < 0:
            return None
        # An evicted file is closed once the last reader has let go of it.
        file = self._file(int(self._shard[index]))
        data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise OSError("the shard ends too early")
        return data


def _scan(path: Path, parts: dict[str, int]) -> tuple[list[str], np.ndarray]:
    """Keys, and i64[n, parts, 2] of byte offset and size (-1: absent), of the records of a shard.

    Raises:
        UserError: it is no whole tar file, or a record has two images.
    """
    keys, places, now = [], [], None
    try:
        with tarfile.open(path, "r:") as archive:
            end = 0
            while member := archive.next():
                archive.members = []  # or it keeps every header
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                name = PurePosixPath(member.name)
                stem, _, extension = name.name.partition(".")
                if not member.isfile() or not stem:
                    continue
                key = (name.parent / stem).as_posix()
                if key != now:
                    keys.append(key)
                    places.append([(-1, -1)] * len(parts))
                    now = key
                extension = extension.lower()
                part = parts.get("image" if extension in IMAGES else extension)
                if part == 0 and places[-1][0][1] >= 0:
                    raise UserError(str(path), f"has two images of '{key}'", "keep one")
                if part is not None:
                    places[-1][part] = member.offset_data, member.size
        with path.open("rb") as stream:
            stream.seek(end)
            if stream.read(BLOCK) != bytes(BLOCK):  # tarfile takes a torn header for the end
                raise tarfile.ReadError("its end is missing")
    except FileNotFoundError as error:
        raise UserError(str(path), "no such shard", "check the path") from error
    except (tarfile.TarError, OSError) as error:
        what = f"no whole, uncompressed tar file ({error})"
        raise UserError(str(path), what, "copy it again, or unpack its compression") from error
    table = np.array(places, np.int64).reshape(len(keys), len(parts), 2)
    shown = table[:, 0, 1] >= 0
    return [key for key, has in zip(keys, shown) if has], table[shown]


class WebDataset:
    """The records of tar shards, in their order. See `facejax.data.records.Source`."""

    def __init__(self, cfg: Config, members: Members, annotations: dict):
        self._cfg, self._members = cfg, members
        self._values = {name: values for name, (_, values) in annotations.items()}
        self.fields = {"image": Field(dtype="uint8")}
        self.fields |= {name: field for name, (field, _) in annotations.items()}
        if cfg.captions != "none":
            self.fields["caption"] = Field(dtype="str")

    def __len__(self) -> int:
        return len(self._members)

    def name(self, index: int) -> str:
        return self._members.name(index)

    def identities(self) -> np.ndarray:
        """i32[N], -1 where unknown."""
        return self._values["identity"]

    def read(self, indices: Sequence[int]) -> list[Record | BadRecord]:
        return [self._read(index) for index in indices]

    def _read(self, index: int) -> Record | BadRecord:
        try:
            record = {"image": self._members.read(index, "image")}
            caption = self._caption(index)
        except (OSError, ValueError) as error:
            return BadRecord(str(error))
        if caption is not None:
            record["caption"] = caption
        return record | {name: values[index] for name, values in self._values.items()}

    def _caption(self, index: int) -> str | tuple[str, ...] | None:
        if self._cfg.captions == "txt":
            return tables.caption_lines(self._members.read(index, "txt") or b"")
        if self._cfg.captions == "column":
            value = _object(self._members, index).get(self._cfg.caption_column)
            several = value if isinstance(value, list) else [] if value is None else [value]
            return tables.captions([str(text) for text in several])
        return None


def _object(members: Members, index: int) -> dict[str, Any]:
    """What the `.json` of a record holds, {} without one.

    Raises:
        ValueError: it is no JSON object.
    """
    text = members.read(index, "json")
    value = {} if text is None else json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("the .json holds no object")
    return value


def _of_cls(members: Members) -> tuple[Field, np.ndarray]:
    numbers = np.full(len(members), -1, np.int32)
    for index in range(len(members)):
        text = members.read(index, "cls")
        if text is None:
            continue
        word = text.decode("utf-8", "replace").strip()
        if not re.fullmatch(r"\d{1,9}", word, re.ASCII):
            where, what = members.name(index), f"its .cls holds '{word}', no class number"
            raise UserError(where, what, "write 0, 1, 2, ...")
        numbers[index] = int(word)
    return Field((), "int32", int(numbers.max()) + 1), numbers


def _of_json(cfg: Config, members: Members) -> dict[str, tuple[Field, np.ndarray]]:
    columns = {name: name for name in cfg.classes}
    if cfg.identity == "column":
        columns["identity"] = cfg.identity_column
    values = {field: [] for field in columns}
    for index in range(len(members)):
        try:
            found = _object(members, index)
        except ValueError as error:
            raise UserError(members.name(index), str(error), "correct its .json") from error
        for field, column in columns.items():
            value = found.get(column)
            values[field].append("" if value is None else str(value))
    annotations = {}
    for field, column in columns.items():
        absent = [members.name(i) for i, v in enumerate(values[field]) if not v]
        if len(absent) == len(members):
            what = f"no .json has the key '{column}'"
            raise UserError(cfg.path, what, f"correct it; {absent[0]} has none")
        tables.check_missing(f"{cfg.path} {column}", absent, cfg.missing)
        numbers, names = tables.classes(values[field])
        annotations[field] = Field((), "int32", len(names), names), numbers
    return annotations


def _shards(path: str) -> list[Path]:
    """The shards that a pattern, a glob or a directory names.

    Raises:
        UserError: it names none.
    """
    if Path(path).is_dir():
        found = map(str, Path(path).glob("*.tar"))
    elif any(mark in path for mark in "*?["):
        found = itertools.chain(*map(glob.glob, _spelled(path)))
    else:
        found = _spelled(path)
    shards = sorted(map(Path, found))
    if not shards:
        raise UserError(path, "no such shards", "give 'name-{000..127}.tar', a glob or a directory")
    return shards


def _spelled(pattern: str) -> Iterator[str]:
    """'a-{08..10}.tar' as a-08.tar, a-09.tar, a-10.tar; several ranges as all combinations."""
    literals = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)
    ranges = [
        [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
        for first, last in zip(literals[1::3], literals[2::3])
    ]
    for numbers in itertools.product(*ranges):
        yield "".join(a + b for a, b in zip(literals[::3], (*numbers, "")))


def write(path: Path, members: dict[str, bytes]) -> None:
    """Writes a shard of files by name, in this order."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
