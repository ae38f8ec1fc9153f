"""A `.bin` is judged as its pairs file and its pictures are."""

import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from made_up_faces import Faces, noisy, perfect

from facejax.errors import UserError
from facejax.evaluators import verification
from facejax.evaluators._bin_pairs import _linked, bin_pairs
from facejax.evaluators._pairs import read_pairs


def write_bin(cfg, read):
    """The pictures of a pairs file, put into a `.bin` beside it."""
    listed = read_pairs(cfg.pairs)
    names = [side for pair in zip(listed.left, listed.right) for side in pair]
    images = [read(cfg.template.format(name=name, number=number)) for name, number in names]
    path = cfg.pairs.replace(".txt", ".bin")
    with open(path, "wb") as stream:
        pickle.dump((images, listed.same.tolist()), stream)
    return replace(cfg, path=path, pairs="auto")


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    faces = Faces(tmp_path_factory.mktemp("faces")).write()
    template = "{name}/{name}_{number:04d}.png"
    cfg = verification.Config(faces.images, faces.pairs(10, 8), template=template, bootstrap=50)
    return cfg, write_bin(cfg, lambda name: (faces.root / "images" / name).read_bytes())


def evaluate(cfg, embed, size=8):
    data = verification.prepare(cfg, size)
    return data, verification.run(cfg, data, embed)


@pytest.mark.parametrize("flip", ["none", "sum"])
def test_the_numbers_are_those_of_the_pairs_file(listed, flip):
    (a, of_file), (b, of_bin) = (evaluate(replace(c, flip=flip), noisy) for c in listed)
    assert 0.6 < of_file.metrics["accuracy"] < 1
    interval = {"accuracy_low", "accuracy_high"}  # over people, whom a .bin doesn't name
    for name in of_file.metrics.keys() - interval:
        assert of_bin.metrics[name] == of_file.metrics[name], name
    np.testing.assert_array_equal(of_bin.items["score"], of_file.items["score"])
    assert len(a.rows) == len(b.rows) < 2 * len(a.same)


def test_people_are_as_far_apart_as_the_pairs_tell(listed):
    (a, _), (b, _) = (evaluate(c, perfect) for c in listed)
    persons = {}
    for person, linked in zip(a.people[a.pairs].ravel(), b.people[b.pairs].ravel()):
        assert persons.setdefault(linked, person) == person  # never two people in one
    assert 20 <= len(persons) < len(b.rows)
    assert _linked(np.array([[3, 1], [4, 3], [0, 2]]), 6).tolist() == [0, 1, 0, 1, 1, 5]


def test_ten_does_not_divide_the_pairs(listed, tmp_path):
    images = [bytes([i]) for i in range(46)]
    (tmp_path / "x.bin").write_bytes(pickle.dumps((images, [True, False, False] * 7 + [True] * 2)))
    fold = bin_pairs(str(tmp_path / "x.bin"), 1.0)[-1]
    assert np.bincount(fold).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert (np.diff(fold) >= 0).all()
    (tmp_path / "x.bin").write_bytes(pickle.dumps((images[:18], [True] * 9)))
    with pytest.raises(UserError, match=r"x\.bin: 9 pairs make no 10 folds"):
        bin_pairs(str(tmp_path / "x.bin"), 1.0)


def test_options_that_do_not_go_with_a_bin(listed):
    cfg = listed[1]
    for options, key in (({"pairs": "pairs.txt"}, "pairs"), ({"source": {"name": "x"}}, "source")):
        with pytest.raises(UserError, match=f"^{key}: .*has its own pictures and pairs"):
            verification.prepare(replace(cfg, **options), 8)
    best = evaluate(replace(cfg, protocol="best"), noisy)[1]
    assert best.metrics["accuracy"] >= evaluate(cfg, noisy)[1].metrics["accuracy"]


@pytest.mark.real_faces
def test_part_of_lfw_gives_the_accuracy_of_its_pairs_file(real_faces, tmp_path):
    lines = (real_faces / "pairs.txt").read_text().splitlines()[1:]
    starts = [600 * fold + 300 * kind for fold in range(10) for kind in (0, 1)]
    part = ["10\t20", *(line for start in starts for line in lines[start : start + 20])]
    (tmp_path / "pairs.txt").write_text("\n".join(part) + "\n")
    path = real_faces / "lfw128.zip"
    cfg = verification.Config(str(path), str(tmp_path / "pairs.txt"), bootstrap=0, flip="sum")
    with zipfile.ZipFile(path) as archive:
        binned = write_bin(cfg, archive.read)

    def grey(images):
        small = images.astype(np.float32).mean(-1).reshape(len(images), -1)
        return small - small.mean(1, keepdims=True)

    of_file, of_bin = (evaluate(c, grey, 32)[1].metrics for c in (cfg, binned))
    assert of_bin == of_file
    assert of_file["n"] == 400
    assert 0.5 < of_file["accuracy"] < 0.75
