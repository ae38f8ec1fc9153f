import zipfile

import numpy as np
import pytest
from PIL import Image

from facejax.errors import UserError
from facejax.evaluators import _pictures
from facejax.evaluators._pictures import labels_of, open_pictures

SYNTHETIC = {"name": "synthetic", "n": 10, "identities": 3, "size": 16}


def test_path_is_short_for_a_folder_source(faces):
    short = open_pictures(faces.images, None, 0.5, identity="parent")
    long = open_pictures(
        "", {"name": "folder", "path": faces.images, "identity": "parent", "crop": 0.5}, 1.0
    )
    assert short.names() == long.names()
    assert short.crop == long.crop == 0.5
    assert short.source.fields == long.source.fields
    assert (short.where, long.where) == (faces.images, "source")


@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_rows_come_in_the_order_asked_whatever_the_chunk(faces, monkeypatch, chunk):
    monkeypatch.setattr(_pictures, "CHUNK", chunk)
    pictures = open_pictures(faces.images, None, 1.0)
    names = [faces.name(p, i) for p, i in ((3, 1), (0, 2), (19, 10), (3, 1), (1, 1))]
    rows = [pictures.names().index(name) for name in names]
    chunks = list(pictures.read(rows, 8))
    assert len({len(c.ids) for c in chunks}) == 1  # one shape for the encoder
    ids = np.concatenate([c.ids for c in chunks])
    images = np.concatenate([c.arrays["image"] for c in chunks])
    np.testing.assert_array_equal(ids[ids >= 0], rows)
    expected = [[3, 1], [0, 2], [19, 10], [3, 1], [1, 1]]
    np.testing.assert_array_equal(images[ids >= 0, 0, 0, :2], expected)


def test_columns_are_read_with_what_is_unknown(tmp_path):
    lines = ["file,identity,Smiling", "0.png,ann,1", "1.png,,-1"]
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for i in range(4):
            archive.write(tmp_path / f"{i}.png", f"{i}.png")
    data = (tmp_path / "set.zip").read_bytes()
    at = data.index((tmp_path / "0.png").read_bytes())  # breaks its checksum
    (tmp_path / "set.zip").write_bytes(data[:at] + b"!" + data[at + 1 :])
    labels = {"labels": str(tmp_path / "labels.csv"), "identity": "column", "missing": "unknown"}
    pictures = open_pictures(str(tmp_path / "set.zip"), None, 1.0, **labels)
    identity, attributes, readable = pictures.values("identity", "attributes")
    assert identity.tolist() == [-1, -1, -1, -1]
    assert attributes.tolist() == [[0], [-1], [0], [0]]
    assert readable.tolist() == [False, True, True, True]


def test_classes_without_names_are_called_by_their_number():
    pictures = open_pictures("", SYNTHETIC, 1.0)
    numbers, _ = pictures.values("identity")
    assert labels_of(pictures.classes("identity", "key"), numbers).tolist() == list("0120120120")
    with pytest.raises(UserError, match=r"key: .*did you mean 'identity'"):
        pictures.classes("identities", "key")
    with pytest.raises(UserError, match="no classes called 'age'"):
        pictures.classes("age", "key")


@pytest.mark.parametrize(
    ("path", "source", "told"),
    [
        ("", None, "source: exactly one"),
        ("somewhere", SYNTHETIC, "source: exactly one"),
        ("nowhere", None, "nowhere: does not exist"),
        ("", {"name": "synthetik"}, "source.name: no source called 'synthetik'"),
        ("", {**SYNTHETIC, "people": 3}, "source.people: unknown key"),
        ("", {**SYNTHETIC, "n": 0}, "source.n: 0 is too small"),
    ],
)
def test_errors(path, source, told):
    with pytest.raises(UserError, match=told):
        open_pictures(path, source, 1.0)
