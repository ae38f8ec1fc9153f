"""RecordIO: what is written is read back, and what is broken is said."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facejax.data.records import BadRecord
from facejax.data.sources import recordio
from facejax.data.sources.recordio import MAGIC, Config, write
from facejax.errors import UserError

PIECES = st.sampled_from([MAGIC, MAGIC[:3], b"\x00" * 4, b"jpeg", b"x"])
IMAGES = st.lists(PIECES, max_size=9).map(b"".join) | st.binary(max_size=40)


def files(tmp_path, images, **options):
    path = tmp_path / "train.rec"
    write(path, images, **options)
    return path


def literal(image, label, labels=()):
    """One whole record, written out by hand."""
    payload = struct.pack("<IfQQ", len(labels), label, 7, 8)
    payload += struct.pack(f"<{len(labels)}f", *labels) + image
    head = struct.pack("<II", 0xCED7230A, len(payload))
    return head + payload + b"\0" * (-len(payload) % 4)


def by_hand(tmp_path, records):
    path, offset, lines = tmp_path / "train.rec", 0, []
    for key, record in enumerate(records):
        lines.append(f"{key}\t{offset}")
        offset += len(record)
    path.write_bytes(b"".join(records))
    path.with_suffix(".idx").write_text("\n".join(lines))
    return path


@settings(max_examples=60, deadline=None)
@given(
    images=st.lists(st.tuples(st.integers(0, 4), IMAGES), min_size=1, max_size=6),
    header=st.booleans(),
)
def test_what_was_written_is_read_back(tmp_path_factory, images, header):
    images = sorted(images, key=lambda pair: pair[0]) if header else images
    path = files(tmp_path_factory.mktemp("rec"), images, header=header)
    assert path.stat().st_size % 4 == 0
    source = recordio.open(Config(str(path)))
    records = source.read(range(len(source)))
    assert [(r["identity"], r["image"]) for r in records] == images
    assert source.identities().tolist() == [label for label, _ in images]
    assert source.identities().dtype == np.int32
    assert source.fields["identity"].classes == max(label for label, _ in images) + 1
    assert source.name(0) == f"train.rec:{int(header)}"


def test_the_magic_number_is_cut_out_where_it_is_aligned_and_nowhere_else(tmp_path):
    aligned, shifted = b"ab12" + MAGIC + b"cd", b"abc" + MAGIC + b"d"
    path = files(tmp_path, [(0, aligned), (1, shifted), (2, MAGIC * 3)], header=False)
    words = np.frombuffer(path.read_bytes(), "<u4")
    at = np.flatnonzero(words == 0xCED7230A)
    assert (words[at + 1] >> 29).tolist() == [1, 3, 0, 1, 2, 2, 3]
    images = [r["image"] for r in recordio.open(Config(str(path))).read(range(3))]
    assert images == [aligned, shifted, MAGIC * 3]


def test_records_written_by_hand(tmp_path):
    path = by_hand(
        tmp_path, [literal(b"one", 2), literal(b"two!", 0, [1, 9]), literal(b"three", 0, [0])]
    )
    source = recordio.open(Config(str(path)))
    assert source.read([1, 0, 2]) == [
        {"image": b"two!", "identity": 1},
        {"image": b"one", "identity": 2},
        {"image": b"three", "identity": 0},
    ]
    (tmp_path / "property").write_text("5,112,112\n")
    assert recordio.open(Config(str(tmp_path))).fields["identity"].classes == 5
    chosen = recordio.open(Config(str(path), identities=4))
    assert chosen.fields["identity"].classes == 4


def test_identities_keep_their_labels_in_a_file_with_a_header(tmp_path):
    path = by_hand(
        tmp_path,
        [
            literal(b"", 0, [4, 7]),
            literal(b"a", 5),
            literal(b"b", 5),
            literal(b"c", 2),
            literal(b"", 0, [1, 3]),
            literal(b"", 0, [3, 3]),
            literal(b"", 0, [3, 4]),
        ],
    )
    source = recordio.open(Config(str(path)))
    assert [r["identity"] for r in source.read(range(3))] == [5, 5, 2]
    assert source.identities().tolist() == [5, 5, 2]
    assert source.fields["identity"].classes == 6


def test_keys_past_what_a_float_counts_exactly(tmp_path, monkeypatch):
    images = [(k // 2, bytes([k])) for k in range(9)]
    path = files(tmp_path, images)
    monkeypatch.setattr(recordio, "FLOAT_LIMIT", 4)
    data = bytearray(path.read_bytes())
    data[8 + 24 : 8 + 32] = struct.pack("<2f", 8, 17)  # of 10 and 15
    path.write_bytes(data)
    source = recordio.open(Config(str(path)))
    assert [(r["identity"], r["image"]) for r in source.read(range(9))] == images
    assert source.identities().tolist() == [label for label, _ in images]
    assert source.fields["identity"].classes == 5


@pytest.mark.parametrize("cut", [1, 30, 50])
def test_a_file_that_is_cut_off_is_refused(tmp_path, cut):
    path = files(tmp_path, [(0, b"a" * 20), (1, b"b" * 20)], header=False)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"train\.rec: key 1 .*; copy it again"):
        recordio.open(Config(str(path)))


def test_a_broken_record_in_the_middle_is_a_bad_record(tmp_path):
    path = files(tmp_path, [(0, b"a" * 20), (1, b"b" * 20), (0, b"c")], header=False)
    data = bytearray(path.read_bytes())
    second = data.index(b"b" * 20) - 32
    data[second : second + 4] = b"gone"
    path.write_bytes(data)
    source = recordio.open(Config(str(path), identities=2))
    assert source.read([1, 2]) == [
        BadRecord(f"no record at byte {second}"),
        {"image": b"c", "identity": 0},
    ]
    assert source.identities().tolist() == [0, -1, 0]
    data[second : second + 8] = MAGIC + struct.pack("<I", 2 << 29 | 44)
    path.write_bytes(data)
    assert "out of its place" in recordio.open(Config(str(path), identities=2)).read([1])[0].reason


@pytest.mark.parametrize("label", [-1.0, 0.5, float("nan"), float("inf")])
def test_labels_that_are_no_classes(tmp_path, label):
    path = by_hand(tmp_path, [literal(b"a", 0), literal(b"b", label)])
    with pytest.raises(UserError, match=rf"the label of key 1 is {label:g}, no class number"):
        recordio.open(Config(str(path)))
    unseen = recordio.open(Config(str(path), identities=3))
    assert unseen.read([1]) == [BadRecord(f"label {label:g} is not one of 3 identities")]
    assert unseen.identities().tolist() == [0, -1]


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ("0\t0\n1\t4000\n", "key 1 lies at byte 4000 of a file of"),
        ("0\t0\n1\t-4\n", "key 1 lies at byte -4"),
        ("0\t0\n1\t4\n", r"key 1 can't be read \(no record at byte 4\)"),
        ("0\t0\n0\t36\n", "names key 0 twice"),
        ("zero\t0\n", "not an index"),
        ("0\n1\n", "holds no keys and offsets"),
        ("", "holds no keys and offsets"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_indices_that_are_refused(tmp_path, index, told):
    path = files(tmp_path, [(0, b"a"), (1, b"b")], header=False)
    path.with_suffix(".idx").write_text(index)
    with pytest.raises(UserError, match=told):
        recordio.open(Config(str(path)))


@pytest.mark.parametrize(
    ("header", "ranges", "told"),
    [
        ([3, 4], [[1, 4]], "ranges of its identities"),
        ([3, 5], [[1, 2], [1, 2]], "ranges of its identities"),
        ([3, 9], [[1, 3]], "the index lacks key 4 and 4 others"),
        ([1, 2], [[1, 3]], "leaves no images or no identities"),
        ([3, -1], [[1, 3]], "no keys"),
    ],
)
def test_headers_that_are_refused(tmp_path, header, ranges, told):
    records = [literal(b"", 0, header), literal(b"a", 0), literal(b"b", 0)]
    path = by_hand(tmp_path, records + [literal(b"", 0, r) for r in ranges])
    with pytest.raises(UserError, match=told):
        recordio.open(Config(str(path)))


def test_files_that_are_missing(tmp_path):
    path = files(tmp_path, [(0, b"a")])
    cfg = Config(str(path))
    with pytest.raises(UserError, match=r"other\.idx: no such index"):
        recordio.open(replace(cfg, path=str(tmp_path / "other.rec")))
    path.unlink()
    with pytest.raises(UserError, match=r"train\.rec: No such file"):
        recordio.open(cfg)
    path.touch()
    with pytest.raises(UserError, match=r"key 0 lies at byte 0 of a file of 0"):
        recordio.open(cfg)
