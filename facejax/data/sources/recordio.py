"""InsightFace RecordIO, a `.rec` file and its `.idx`: MS1MV2, MS1MV3, Glint360K, WebFace.

    {'name': 'recordio', 'path': 'faces_emore/train.rec'}

Format (dmlc-core `src/recordio.cc`, mxnet `recordio.py`), little-endian:

    record     u32 0xced7230a; u32 flag in 3 bits and length in 29; payload, padded to 4 bytes
    payload    u32 flag; f32 label; u64 id; u64 id2; `flag` more f32 labels; an encoded image
    .idx       lines "key<TAB>byte offset"

A payload that holds the magic number at a multiple of 4 bytes is cut there into parts, flagged 1
(first), 2 and 3 (last), and the number is left out between them. Where the payload has more labels,
the first of them is the label.

In a file with a header, record 0 has the labels (end of the image keys, end of the identity keys):
images are keys 1 to the first of them - 1, and each identity's record has the labels (first key,
end) of its images. A file for DALI has no header; every record is an image. The identity of an
image is its label.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facejax.data.records import BadRecord, Field, Record
from facejax.errors import UserError

MAGIC = b"\x0a\x23\xd7\xce"
WHOLE, FIRST, MIDDLE, LAST = range(4)
LENGTH_BITS = 29
HEAD = np.dtype([("flag", "<u4"), ("label", "<f4"), ("id", "<u8"), ("id2", "<u8")])
FLOAT_LIMIT = 1 << 24
"""Whole numbers below it are exact in the float32 of a label."""
CHUNK = 1 << 16
"""Labels that are read at a time."""


@dataclass(frozen=True)
class Config:
    """Where the records are.

    Attributes:
        path: the `.rec` file, or a directory with a `train.rec`; the `.idx` lies beside it under
            the same name.
        identities: number of identities of a file without a header. None reads it from a file
            `property` beside the `.rec`, and without one from every record.
    """

    path: str
    identities: int | None = None

    @classmethod
    def tiny(cls, root: Path) -> "Config":
        """Six 20 x 20 JPEGs of three people, with a header."""
        from facejax.data.decode import encode_jpeg

        rng = np.random.default_rng(0)
        faces = [encode_jpeg(rng.integers(0, 256, (20, 20, 3), np.uint8), 90) for _ in range(6)]
        path = Path(root) / "train.rec"
        write(path, [(i // 2, face) for i, face in enumerate(faces)])
        return cls(path=str(path))


def open(cfg: Config) -> "RecordIO":
    """Reads the index, the identities' ranges and, where nothing else tells, all labels.

    Raises:
        UserError: no such file, an index of another file, a `.rec` that is cut off, or a label that
            is no class number.
    """
    path = Path(cfg.path)
    path = path / "train.rec" if path.is_dir() else path
    keys, offsets = _index(path)
    try:
        records = Records(path)
    except OSError as error:
        raise UserError(str(path), error.strerror, "give the .rec file") from error
    first, image = _check_ends(path, records, keys, offsets)
    if keys[0] == 0 and len(first) > 1 and not image:
        return _with_header(path, records, keys, offsets, first[:2])
    return _without_header(cfg, path, records, keys, offsets)


class Records:
    """The records of a `.rec` file by byte offset.

    They are read by position (`os.pread`), so threads share one file without a lock.
    """

    def __init__(self, path: Path):
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size
        self._bytes = np.memmap(path, np.uint8, "r") if self.size else np.zeros(0, np.uint8)

    def payload(self, offset: int) -> bytes:
        """The joined parts of the record at `offset`.

        Raises:
            ValueError: there is no whole record.
        """
        parts, flag = [], None
        while flag not in (WHOLE, LAST):
            head = self._read(8, offset)
            if head[:4] != MAGIC:
                raise ValueError(f"no record at byte {offset}")
            word = int.from_bytes(head[4:], "little")
            flag, length = word >> LENGTH_BITS, word & ((1 << LENGTH_BITS) - 1)
            if flag not in ((MIDDLE, LAST) if parts else (WHOLE, FIRST)):
                raise ValueError(f"a part of a record out of its place at byte {offset}")
            parts.append(self._read(length, offset + 8))
            offset += 8 + -(-length // 4) * 4
        return MAGIC.join(parts)

    def _read(self, size: int, offset: int) -> bytes:
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise ValueError("the .rec file ends within a record")
        return data

    def labels(self, offsets: np.ndarray) -> np.ndarray:
        """The first two labels of records, f32[n, 2], without reading their images.

        NaN stands where there is no such label, or no record.
        """
        wanted = 8 + HEAD.itemsize + 8
        found = np.empty((len(offsets), 2), np.float32)
        for start in range(0, len(offsets), CHUNK):
            at = offsets[start : start + CHUNK, None] + np.arange(wanted)
            data = self._bytes[np.minimum(at, self.size - 1)]
            words = np.ascontiguousarray(data[:, :8]).view("<u4")
            heads = np.ascontiguousarray(data[:, 8 : wanted - 8]).view(HEAD)[:, 0]
            more = np.ascontiguousarray(data[:, wanted - 8 :]).view("<f4")
            block = found[start : start + CHUNK]
            block[:, 0] = np.where(heads["flag"] > 0, more[:, 0], heads["label"])
            block[:, 1] = np.where(heads["flag"] > 1, more[:, 1], np.nan)
            whole = (data[:, :4] == np.frombuffer(MAGIC, np.uint8)).all(1)
            whole &= words[:, 1] >> LENGTH_BITS == WHOLE
            for row in np.flatnonzero(~whole):
                block[row] = np.nan
                with suppress(ValueError):
                    labels = _unpack(self.payload(int(offsets[start + row])))[0][:2]
                    block[row, : len(labels)] = labels
        return found


def _unpack(payload: bytes) -> tuple[np.ndarray, bytes]:
    """The labels f32[n], n > 0, and the image of a payload.

    Raises:
        ValueError: too short for what it declares.
    """
    head = np.frombuffer(payload, HEAD, 1)[0]
    count = int(head["flag"])
    labels = np.frombuffer(payload, "<f4", count, HEAD.itemsize) if count else head["label"][None]
    return labels, payload[HEAD.itemsize + 4 * count :]


class RecordIO:
    """The images of a `.rec` file by their keys. See `facejax.data.records.Source`."""

    def __init__(self, path: Path, records: Records, keys, offsets, identities: int, ranges=None):
        self._path, self._records, self._ranges = path, records, ranges
        self._keys, self._offsets = keys, offsets
        self.fields = {
            "image": Field(dtype="uint8"),
            "identity": Field((), "int32", classes=identities),
        }

    def __len__(self) -> int:
        return len(self._offsets)

    def name(self, index: int) -> str:
        return f"{self._path.name}:{self._keys[index]}"

    def read(self, indices: Sequence[int]) -> list[Record | BadRecord]:
        return [self._read(index) for index in indices]

    def _read(self, index: int) -> Record | BadRecord:
        try:
            labels, image = _unpack(self._records.payload(int(self._offsets[index])))
        except (OSError, ValueError) as error:
            return BadRecord(str(error))
        classes = self.fields["identity"].classes
        if not _is_class(labels[:1], classes)[0]:
            return BadRecord(f"label {labels[0]:g} is not one of {classes} identities")
        return {"image": image, "identity": int(labels[0])}

    def identities(self) -> np.ndarray:
        """i32[N], the identity of every image: of the ranges if there are, else read; -1 if bad."""
        if self._ranges is not None:
            numbers, lengths = self._ranges
            return np.repeat(numbers, lengths)
        labels = self._records.labels(self._offsets)[:, 0]
        good = _is_class(labels, self.fields["identity"].classes)
        return np.where(good, labels, -1).astype(np.int32)


def _is_class(labels: np.ndarray, classes: float = np.inf) -> np.ndarray:
    return (labels >= 0) & (labels < classes) & (np.floor(labels) == labels)


def _index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Keys, ascending, and byte offsets, i64[N] each."""
    index = path.with_suffix(".idx")
    try:
        table = np.loadtxt(index, np.int64, ndmin=2)
    except OSError as error:
        what = "no such index" if isinstance(error, FileNotFoundError) else error.strerror
        raise UserError(str(index), what, "keep it beside the .rec file") from error
    except ValueError as error:
        remedy = "write it again: lines of a key, a tab and a byte offset"
        raise UserError(str(index), f"not an index ({error})", remedy) from error
    if not table.size or table.shape[1] != 2:
        raise UserError(str(index), "holds no keys and offsets", "write it again")
    order = np.argsort(table[:, 0], kind="stable")
    keys, offsets = (np.ascontiguousarray(column[order]) for column in table.T)
    if (twice := np.flatnonzero(np.diff(keys) == 0)).size:
        raise UserError(str(index), f"names key {keys[twice[0]]} twice", "write it again")
    return keys, offsets


def _check_ends(path: Path, records: Records, keys: np.ndarray, offsets: np.ndarray):
    """The labels and the image of the first record.

    Raises:
        UserError: an offset is outside the file, or its first or last record can't be read.
    """
    last = int(np.argmax(offsets))
    for row in (int(np.argmin(offsets)), last):
        if not 0 <= offsets[row] <= records.size - 8 - HEAD.itemsize:
            what = f"key {keys[row]} lies at byte {offsets[row]} of a file of {records.size}"
            raise UserError(str(path), what, "copy it again, or the index that belongs to it")
    for row in (last, 0):
        try:
            first = _unpack(records.payload(int(offsets[row])))
        except ValueError as error:
            what = f"key {keys[row]} can't be read ({error})"
            raise UserError(str(path), what, "copy it again") from error
    return first


def _labels(path: Path, records: Records, keys: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The first two labels of records, f32[n, 2].

    Raises:
        UserError: one can't be read, or the first label is no whole number from 0.
    """
    labels = records.labels(offsets)
    if (bad := np.flatnonzero(~_is_class(labels[:, 0]))).size:
        what = f"the label of key {keys[bad[0]]} is {labels[bad[0], 0]:g}, no class number"
        raise UserError(str(path), what, "label images 0, 1, 2, ...")
    return labels


def _with_header(path: Path, records: Records, keys, offsets, header) -> RecordIO:
    where = str(path)
    if not _is_class(header, FLOAT_LIMIT * 64).all():
        raise UserError(where, f"its header holds {header.tolist()}, no keys", "write it again")
    images, end = map(int, header)
    exact = images < FLOAT_LIMIT
    if not exact:  # a float32 no longer tells the key apart from its neighbours
        near = np.arange(images - 64, images + 65)
        near = near[np.isin(near, keys)]
        begins = records.labels(offsets[_rows(where, keys, near)])
        firsts = near[(begins[:, 0] == 1) & (begins[:, 1] > 1)]
        images, end = (int(firsts[0]), int(keys[-1]) + 1) if firsts.size else (0, 0)
    rows = _rows(where, keys, np.arange(1, images))
    people = _rows(where, keys, np.arange(images, end))
    if not rows.size or not people.size:
        what = f"its header {header.tolist()} leaves no images or no identities"
        raise UserError(where, what, "write it again")
    if not exact:
        return RecordIO(path, records, keys[rows], offsets[rows], len(people))
    ranges = np.nan_to_num(_labels(path, records, keys[people], offsets[people]), nan=0)
    ranges = ranges.astype(np.int64)[ranges[:, 1] > ranges[:, 0]]
    starts, lengths = ranges[:, 0], ranges[:, 1] - ranges[:, 0]
    if lengths.sum() != len(rows) or (starts != 1 + np.cumsum(lengths) - lengths).any():
        what = "the ranges of its identities don't follow each other over all images"
        raise UserError(where, what, "write it again")
    # An identity's number is the label of its images, which all images of one range share.
    firsts = rows[starts - 1]
    numbers = _labels(path, records, keys[firsts], offsets[firsts])[:, 0].astype(np.int32)
    classes = int(numbers.max()) + 1
    return RecordIO(path, records, keys[rows], offsets[rows], classes, (numbers, lengths))


def _rows(where: str, keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Rows of `keys` (ascending) that hold the keys `wanted`."""
    rows = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    if (absent := wanted[keys[rows] != wanted]).size:
        what = f"the index lacks key {absent[0]} and {len(absent) - 1} others"
        raise UserError(where, what, "copy the index that belongs to it")
    return rows


def _without_header(cfg: Config, path: Path, records: Records, keys, offsets) -> RecordIO:
    listed = path.with_name("property")
    classes = cfg.identities
    if classes is None and listed.is_file():
        first = listed.read_text().split(",")[0].strip()
        if not first.isdecimal():
            raise UserError(str(listed), "begins with no number of identities", "set identities")
        classes = int(first)
    if classes is None:
        classes = int(_labels(path, records, keys, offsets)[:, 0].max()) + 1
    if not 1 <= classes <= FLOAT_LIMIT:
        raise UserError("identities", f"{classes} identities", f"give 1 to {FLOAT_LIMIT}")
    return RecordIO(path, records, keys, offsets, classes)


def write(path: Path, images: Sequence[tuple[int, bytes]], header: bool = True) -> None:
    """Writes a `.rec` file and its `.idx`.

    Args:
        path: the `.rec` file.
        images: identity and encoded image; the images of one identity follow each other.
        header: write the header and the identities' records; without, the form for DALI.
    """
    payloads = [_payload([label], image) for label, image in images]
    if header:
        labels = np.array([label for label, _ in images])
        starts = np.flatnonzero(np.diff(labels, prepend=-1))
        ends = np.append(starts[1:], len(labels))
        end = 1 + len(labels)
        payloads.insert(0, _payload([end, end + len(starts)]))
        payloads += [_payload([1 + a, 1 + b]) for a, b in zip(starts, ends)]
    lines, offset = [], 0
    with path.open("wb") as stream:
        for key, payload in enumerate(payloads):
            lines.append(f"{key}\t{offset}\n")
            offset += stream.write(_framed(payload))
    path.with_suffix(".idx").write_text("".join(lines))


def _payload(labels: Sequence[float], image: bytes = b"") -> bytes:
    one = len(labels) == 1
    head = np.array([(0 if one else len(labels), labels[0] if one else 0, 0, 0)], HEAD)
    return head.tobytes() + (b"" if one else np.array(labels, "<f4").tobytes()) + image


def _framed(payload: bytes) -> bytes:
    cuts = [i for i in range(0, len(payload) - 3, 4) if payload[i : i + 4] == MAGIC]
    starts, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(payload)]
    out = []
    for part, (start, end) in enumerate(zip(starts, ends)):
        flag = WHOLE if not cuts else LAST if part == len(cuts) else MIDDLE if part else FIRST
        word = flag << LENGTH_BITS | end - start
        out += [MAGIC, word.to_bytes(4, "little"), payload[start:end]]
    return b"".join(out) + bytes(-len(payload) % 4)
