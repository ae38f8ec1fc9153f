"""Tar shards: grouped by key, read at random, named where they are broken."""

import io
import json
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facejax.data.records import BadRecord, Field
from facejax.data.sources import webdataset
from facejax.data.sources.webdataset import Config, write
from facejax.errors import UserError

KEYS = st.from_regex(r"([a-c]/)?[a-c]{1,3}[0-9]", fullmatch=True)
PARTS = st.dictionaries(
    st.sampled_from(["jpg", "png", "JPEG", "webp"]), st.binary(max_size=600), min_size=1, max_size=1
)


def everything(source):
    return {source.name(i): r for i, r in enumerate(source.read(range(len(source))))}


@settings(max_examples=40, deadline=None)
@given(
    shards=st.lists(st.dictionaries(KEYS, PARTS, min_size=1, max_size=5), min_size=1, max_size=3),
    texts=st.booleans(),
)
def test_what_was_written_is_read_back(tmp_path_factory, shards, texts):
    folder, expected = tmp_path_factory.mktemp("tar"), {}
    for number, shard in enumerate(shards):
        members = {}
        for key, image in shard.items():
            ((extension, data),) = image.items()
            members |= {f"{key}.txt": f" about {key}\n".encode()} if texts else {}
            members |= {f"{key}.{extension}": data, f"{key}.seg.png": b"not the image"}
            expected[f"{number}.tar/{key}"] = {"image": data}
            if texts:
                expected[f"{number}.tar/{key}"]["caption"] = f"about {key}"
        write(folder / f"{number}.tar", members)
    cfg = Config(str(folder), captions="txt" if texts else "none")
    assert everything(webdataset.open(cfg)) == expected


def shards(tmp_path, **changes):
    """Two shards of two records with every part; `changes` replaces members, None removes them."""
    for shard in range(2):
        members = {}
        for i in (2 * shard, 2 * shard + 1):
            members[f"{i}.jpg"] = b"image %d" % i
            members[f"{i}.cls"] = b"%d\n" % (3 * i)
            members[f"{i}.txt"] = b"face %d" % i
            about = {"who": f"person {i % 2}", "mood": "happy", "text": f"number {i}"}
            members[f"{i}.json"] = json.dumps(about).encode()
        members |= {name: data for name, data in changes.items() if name in members}
        named = {name: data for name, data in members.items() if data is not None}
        write(tmp_path / f"x-{shard:02d}.tar", named)
    return str(tmp_path / "x-{00..01}.tar")


def test_labels_come_from_where_the_config_says(tmp_path):
    path = shards(tmp_path)
    by_number = webdataset.open(Config(path, identity="cls", captions="txt"))
    assert by_number.fields["identity"] == Field((), "int32", 10)
    assert by_number.identities().tolist() == [0, 3, 6, 9]
    assert by_number.read([3, 0]) == [
        {"image": b"image 3", "identity": 9, "caption": "face 3"},
        {"image": b"image 0", "identity": 0, "caption": "face 0"},
    ]
    by_name = webdataset.open(
        Config(
            path,
            identity="column",
            identity_column="who",
            classes=("mood",),
            captions="column",
            caption_column="text",
        )
    )
    assert by_name.fields["identity"].names == ("person 0", "person 1")
    assert by_name.read([1]) == [
        {"image": b"image 1", "identity": 1, "mood": 0, "caption": "number 1"}
    ]
    assert webdataset.open(Config(path)).read([2]) == [{"image": b"image 2"}]


def test_several_captions_of_a_record(tmp_path):
    members = {"0.jpg": b"a", "0.txt": b"one\n\n two \r\n", "0.json": b'{"says": ["a", " ", "b"]}'}
    members |= {"1.jpg": b"b", "1.txt": b" \n", "1.json": b'{"says": []}'}
    members |= {"2.jpg": b"c", "2.txt": b"\xff", "2.json": b'{"says": "alone"}'}
    write(tmp_path / "x.tar", members)
    options = {"path": str(tmp_path), "missing": "unknown"}
    lines = webdataset.open(Config(**options, captions="txt")).read(range(3))
    assert lines[0]["caption"] == ("one", "two")
    assert "caption" not in lines[1]
    assert lines[2].reason.startswith("the caption is not UTF-8")
    named = {"captions": "column", "caption_column": "says"}
    keys = webdataset.open(Config(**options, **named)).read(range(3))
    assert [r.get("caption") for r in keys] == [("a", "b"), None, "alone"]


def test_patterns_globs_and_directories_name_shards(tmp_path):
    shards(tmp_path)
    names = [f"x-{i // 2:02d}.tar/{i}" for i in range(4)]
    for path in ("x-{00..01}.tar", "x-*.tar", "", "x-{0..0}{0..1}.tar", "[x]-{00..01}.tar"):
        source = webdataset.open(Config(str(tmp_path / path)))
        assert [source.name(i) for i in range(len(source))] == names
    assert list(webdataset._spelled("a{8..10}b{01..02}")) == [
        f"a{i}b{j}" for i in (8, 9, 10) for j in ("01", "02")
    ]


def test_many_shards_are_not_all_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "OPEN", 1)
    source = webdataset.open(Config(shards(tmp_path)))
    images = [r["image"] for r in source.read([0, 2, 1, 3, 0])]
    assert images == [b"image %d" % i for i in (0, 2, 1, 3, 0)]
    assert source._members._file.cache_info().currsize == 1


@pytest.mark.parametrize("keep", [0, 300, 1000, 1500, 3072])
def test_a_shard_that_is_cut_off_is_named(tmp_path, keep):
    cfg = Config(shards(tmp_path))
    path = tmp_path / "x-01.tar"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"x-01\.tar: no whole, uncompressed tar file"):
        webdataset.open(cfg)


def test_a_shard_that_is_cut_off_later_gives_bad_records(tmp_path):
    source = webdataset.open(Config(shards(tmp_path)))
    (tmp_path / "x-01.tar").write_bytes(b"")
    assert source.read([0, 3]) == [{"image": b"image 0"}, BadRecord("the shard ends too early")]


def test_compressed_shards_are_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())
    with pytest.raises(UserError, match=r"x\.tar: no whole, uncompressed tar file"):
        webdataset.open(Config(str(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "options", "told"),
    [
        ({"2.cls": b"three"}, {"identity": "cls"}, r"x-01\.tar/2: its \.cls holds 'three'"),
        ({"2.cls": b"-1"}, {"identity": "cls"}, r"holds '-1', no class number"),
        ({"1.cls": None}, {"identity": "cls"}, r"1 images have no entry: x-00\.tar/1"),
        ({"3.txt": None}, {"captions": "txt"}, r"\.txt: 1 images have no entry: x-01\.tar/3"),
        ({"0.json": b"[]"}, {"classes": ("mood",)}, r"x-00\.tar/0: the \.json holds no object"),
        ({"0.json": b"{"}, {"classes": ("mood",)}, r"x-00\.tar/0: .*; correct its \.json"),
        ({"0.json": b"{}"}, {"classes": ("mood",)}, r"mood: 1 images have no entry: x-00\.tar/0"),
        ({}, {"classes": ("age",)}, "no .json has the key 'age'"),
        ({}, {"path": "x-{00..02}.tar"}, r"x-02\.tar: no such shard"),
        ({}, {"path": "y*.tar"}, "no such shards"),
    ],
)
def test_mistakes_are_user_errors(tmp_path, changes, options, told):
    options = {"path": shards(tmp_path, **changes)} | options
    options["path"] = str(tmp_path / options["path"])
    with pytest.raises(UserError, match=told):
        webdataset.open(Config(**options))


def test_what_is_missing_may_be_unknown(tmp_path):
    path = shards(tmp_path, **{"1.cls": None, "3.txt": None, "2.json": b"{}"})
    source = webdataset.open(
        Config(path, identity="cls", classes=("mood",), captions="txt", missing="unknown")
    )
    assert source.identities().tolist() == [0, -1, 6, 9]
    records = source.read(range(4))
    assert [r["mood"] for r in records] == [0, 0, -1, 0]
    assert "caption" not in records[3]


def test_records_need_one_image(tmp_path):
    write(tmp_path / "a.tar", {"0.jpg": b"0", "1.txt": b"text", "2.png": b"2"})
    assert everything(webdataset.open(Config(str(tmp_path)))) == {
        "a.tar/0": {"image": b"0"},
        "a.tar/2": {"image": b"2"},
    }
    write(tmp_path / "a.tar", {"0.jpg": b"0", "0.png": b"0"})
    with pytest.raises(UserError, match=r"a\.tar: has two images of '0'"):
        webdataset.open(Config(str(tmp_path)))
    write(tmp_path / "a.tar", {"0.txt": b"0"})
    with pytest.raises(UserError, match="holds no images"):
        webdataset.open(Config(str(tmp_path)))


def test_names_of_classes_follow_the_texts(tmp_path):
    source = webdataset.open(Config.tiny(tmp_path))
    assert source.fields["gender"].names == ("f", "m")
    assert np.bincount(source.identities()).tolist() == [2, 2, 2]
