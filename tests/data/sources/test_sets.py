"""Pictures as sets: which faces and names are in each, whatever order the faces come in."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from facejax.data.fields import collate
from facejax.data.mixture import open_source
from facejax.data.sources import sets
from facejax.data.texts import Texts
from facejax.errors import UserError
from facejax.tokenizer import train

# A file, the picture that it was cut from, and who it shows.
FACES = [("0", "b", "Ann"), ("1", "a", ""), ("2", "b", "Cy"), ("3", "", "Bo"), ("4", "a", "Ann")]


@pytest.fixture
def cfg(tmp_path) -> sets.Config:
    (tmp_path / "crops").mkdir()
    lines = ["file,picture,name"]
    for stem, picture, name in FACES:
        Image.new("RGB", (8, 8), (int(stem), 0, 0)).save(tmp_path / f"crops/{stem}.png")
        lines.append(f"{stem}.png,{picture},{name}")
    (tmp_path / "faces.csv").write_text("\n".join(lines))
    np.save(tmp_path / "faces.npy", np.arange(5, dtype=np.float32)[:, None] + [0, 10])
    folder = {
        "name": "folder",
        "path": str(tmp_path / "crops"),
        "labels": str(tmp_path / "faces.csv"),
        "classes": ("picture", "name"),
    }
    return sets.Config(folder, str(tmp_path / "faces.npy"))


def told(cfg) -> dict[str, tuple]:
    """By picture: its faces by number, its names, and the red of its image."""
    source = sets.open(cfg)
    out = {}
    for i, record in enumerate(source.read(range(len(source)))):
        assert (record["faces"][:, 1] - record["faces"][:, 0] == 10).all()
        image = record["image"]
        out[source.name(i)] = record["faces"][:, 0].tolist(), record["names"], image
    return out


def test_faces_and_their_own_names_by_picture(cfg):
    found = told(cfg)
    assert {name: both[:2] for name, both in found.items()} == {
        "picture a": ([1, 4], ("Ann",)),
        "picture b": ([0, 2], ("Ann", "Cy")),
    }
    source = sets.open(cfg)
    assert (source.fields["faces"].shape, source.fields["names"].shape) == ((2, 2), (2,))


def test_names_of_captions_and_faces_without_a_vector(cfg, tmp_path):
    (tmp_path / "names.csv").write_text("name,picture\nDi,a\nAnn,a\nAnn,a\n")
    vectors = np.load(cfg.faces)
    (tmp_path / "out").mkdir()
    np.save(tmp_path / "out/embeddings-00000-of-00001.npy", vectors)
    rows = [f"{i},{i}.png,{'no face' if i == 1 else ''}" for i in range(5)]
    listed = "\n".join(["index,name,rejected", *rows])
    (tmp_path / "out/rows-00000-of-00001.csv").write_text(listed)
    (tmp_path / "out/embeddings.json").write_text('{"shards": 1, "format": "npy"}')
    found = told(
        dataclasses.replace(cfg, names=str(tmp_path / "names.csv"), faces=str(tmp_path / "out"))
    )
    assert found["picture a"][:2] == ([4], ("Ann", "Di"))
    assert found["picture b"][:2] == ([0, 2], ())


def test_the_null_name_is_in_every_picture_and_easy_faces_have_one_name(cfg, tmp_path):
    (tmp_path / "names.csv").write_text("picture,name\nb,Ann\nc,Bo\n")
    lines = (tmp_path / "faces.csv").read_text().replace("3.png,,", "3.png,c,")
    (tmp_path / "faces.csv").write_text(lines)
    cfg = dataclasses.replace(cfg, names=str(tmp_path / "names.csv"), null="nobody")
    names = {name: both[1] for name, both in told(cfg).items()}
    assert names == {
        "picture a": ("nobody",),
        "picture b": ("nobody", "Ann"),
        "picture c": ("nobody", "Bo"),
    }
    faces, names = sets.easy(cfg)
    assert (faces[:, 0].tolist(), names.tolist()) == ([3], ["Bo"])
    (tmp_path / "names.csv").write_text("picture,name\nb,Ann\n")
    with pytest.raises(UserError, match="one face and one name"):
        sets.easy(cfg)


def test_batches_are_padded_and_names_tokenised(cfg):
    source = sets.open(cfg)
    wanted = {name: source.fields[name] for name in ("faces", "names")}
    records = [{**r, "image": np.zeros((4, 4, 3), np.uint8)} for r in source.read([0, 1])]
    arrays = collate(records, wanted, 4)
    Texts(train(["ann", "cy"], 300), 6).put(arrays, [0, 1])
    assert arrays["names"].shape == (2, 2, 6)
    assert arrays["count_names"].tolist() == [1, 2]
    assert arrays["count_faces"].tolist() == [2, 2]
    same = (arrays["names"][0, 0] == arrays["names"][1]).all(axis=1)
    assert same.tolist() == [True, False]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"picture": "pictures"}, r"s\.picture: no classes called 'pictures'.*did you mean 'pictu"),
        ({"person": "who"}, r"s\.person: no classes called 'who'"),
        ({"faces": "nowhere.npy"}, "nowhere.npy: does not exist"),
        ({"names": "nowhere.csv"}, "nowhere.csv: No such file"),
        ({"source": {"name": "folder"}}, r"s\.source\.path: missing"),
        ({"source": {"name": "synthetic", "n": 2, "crop": 0.5}}, r"s\.source\.crop: pictures are"),
    ],
)
def test_mistakes_are_user_errors(cfg, keys, told):
    spec = {"name": "sets", **dataclasses.asdict(cfg), **keys}
    with pytest.raises(UserError, match=told):
        open_source(spec, "s")


def test_lists_of_names_that_do_not_fit_are_refused(cfg, tmp_path):
    path = tmp_path / "names.csv"
    for text, what in (
        ("picture,names\na,Ann\n", "has no column 'name'"),
        ("picture,name\nz,Ann\n", r"names\.csv:2: no picture 'z' in the source"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=what):
            sets.open(dataclasses.replace(cfg, names=str(path)))


def test_vectors_of_other_faces_are_refused(cfg, tmp_path):
    for array, what in ((np.zeros((4, 2)), "4 rows for 5"), (np.zeros((5, 2, 2)), "one vector")):
        np.save(tmp_path / "other.npy", array)
        with pytest.raises(UserError, match=what):
            sets.open(dataclasses.replace(cfg, faces=str(tmp_path / "other.npy")))
