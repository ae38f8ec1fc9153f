"""Faces and names of one picture: who is who, and who is not named."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_joint import Joint, unit
from PIL import Image

from facejax.errors import UserError
from facejax.evaluators import face_naming

PEOPLE, WIDTH = 12, 16
# Who is in which picture, and whom its caption names: "" is somebody the labels do not know.
FACES = {
    "a": [0, 1, 2],
    "b": [3, 4],
    "c": [5, None, 6],
    "d": [7],
    "e": [8, 9],
    "f": [10, 11, 0, 3],
}
CAPTIONS = {"a": [0, 1, 2], "b": [3, 9], "c": [5, 6], "d": [], "e": [8, 9, 2], "f": [10, 11, 0, 3]}


class Knowing(Joint):
    """A person's face is at their name; the red of its first pixel says who it is."""

    def image(self, images: np.ndarray) -> np.ndarray:
        return self.text([f"Person {red}" for red in images[:, 0, 0, 0]])

    def text(self, texts) -> np.ndarray:
        # The null name meets nobody's face above 0.5.
        axes = {f"Person {p}": p for p in range(PEOPLE)}
        rows = [np.eye(WIDTH)[axes.get(t, WIDTH - 1)] for t in texts]
        return unit(np.array(rows) + 0.3 * (np.array(texts) == "NONAME")[:, None])


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> face_naming.Config:
    root = tmp_path_factory.mktemp("faces")
    (root / "images").mkdir()
    lines, listed = ["file,picture,name"], ["picture,name"]
    for picture, faces in FACES.items():
        for k, person in enumerate(faces):
            red = 200 if person is None else person
            Image.new("RGB", (8, 8), (red, k, ord(picture))).save(root / f"images/{picture}{k}.png")
            name = "" if person is None else f"Person {person}"
            lines.append(f"{picture}{k}.png,{picture},{name}")
        listed += [f"{picture},Person {person}" for person in CAPTIONS[picture]]
    (root / "labels.csv").write_text("\n".join(lines))
    (root / "names.csv").write_text("\n".join(listed))
    return face_naming.Config(
        str(root / "images"),
        str(root / "labels.csv"),
        names=str(root / "names.csv"),
        bootstrap=100,
    )


def evaluate(cfg, joint):
    return face_naming.run(cfg, face_naming.prepare(cfg, 8), joint)


def test_who_knows_names_everyone_and_gives_none_to_the_unnamed(cfg):
    m = evaluate(cfg, Knowing(None, WIDTH)).metrics
    assert m["precision"] == m["recall"] == m["f1"] == m["accuracy"] == 1
    assert m["null_recall"] == m["null_precision"] == 1
    assert m["n"] == 15
    assert m["f1@chance"] < 0.5


def test_numbers_are_their_definitions(cfg):
    class Random(Knowing):
        def image(self, images):
            rng = np.random.default_rng(4)
            return unit(super().image(images) + 0.4 * rng.normal(size=(len(images), WIDTH)))

    joint, data = Random(None, WIDTH), face_naming.prepare(cfg, 8)
    result = evaluate(cfg, joint)
    images = next(data.pictures.read(range(15), 8)).arrays["image"]
    x, chosen, right = joint.image(images), [], []
    faces = [(picture, who) for picture, people in FACES.items() for who in people]
    for row, (picture, who) in zip(x, faces):
        names = ["NONAME", *(f"Person {p}" for p in sorted(CAPTIONS[picture], key=str))]
        best = names[int(np.argmax(joint.text(names).astype(float) @ row.astype(float)))]
        chosen.append(best)
        right.append(best == (f"Person {who}" if who in CAPTIONS[picture] else "NONAME"))
    given = np.array(chosen) != "NONAME"
    named = np.array([who in CAPTIONS[picture] for picture, who in faces])
    hits = np.sum(np.array(right) & named)
    m = result.metrics
    assert 0 < hits < np.sum(named)
    assert m["precision"] == pytest.approx(hits / given.sum())
    assert m["recall"] == pytest.approx(hits / named.sum())
    p, r = m["precision"], m["recall"]
    assert m["f1"] == pytest.approx(2 * p * r / (p + r))
    assert m["accuracy"] == pytest.approx(np.mean(right))
    assert m["f1_low"] <= m["f1"] <= m["f1_high"]


def test_padding_and_other_pictures_change_nothing(cfg, monkeypatch):
    joint = Joint(lambda images: images[:, 0, :6].reshape(-1, 18)[:, :16] + 1.0, WIDTH)
    data = face_naming.prepare(cfg, 8)
    faces = joint.image(next(data.pictures.read(range(15), 8)).arrays["image"]).astype(float)
    names = joint.text(data.texts).astype(float)
    whole = face_naming._assigned(faces, names, data)
    wider = replace(data, listed=np.pad(data.listed, ((0, 0), (0, 3)), constant_values=-1))
    np.testing.assert_array_equal(face_naming._assigned(faces, names, wider), whole)
    monkeypatch.setattr(face_naming, "_PICTURES_AT_ONCE", 2)
    np.testing.assert_array_equal(face_naming._assigned(faces, names, data), whole)


def test_without_a_list_the_names_are_those_of_the_faces(cfg):
    data = face_naming.prepare(replace(cfg, names=""), 8)
    assert [sorted(data.texts[n] for n in row if n > 0) for row in data.listed] == [
        sorted(f"Person {p}" for p in faces if p is not None) for faces in FACES.values()
    ]
    assert np.sum(data.place == face_naming.NULL) == 1


def test_errors(cfg, tmp_path):
    (tmp_path / "names.csv").write_text("picture,name\nz,Ann\n")
    (tmp_path / "bare.csv").write_text("who\nAnn\n")
    for change, told in (
        ({"names": str(tmp_path / "names.csv")}, r"names.csv:2: no picture 'z'"),
        ({"names": str(tmp_path / "bare.csv")}, "no column 'picture'"),
        ({"names": "nowhere.csv"}, "No such file"),
        ({"template": "a photo"}, "write {} for the name"),
    ):
        with pytest.raises(UserError, match=told):
            face_naming.prepare(replace(cfg, **change), 8)
    (tmp_path / "others.csv").write_text("picture,name\na,Ann\n")
    with pytest.raises(UserError, match="no face's name"):
        face_naming.prepare(replace(cfg, names=str(tmp_path / "others.csv")), 8)
