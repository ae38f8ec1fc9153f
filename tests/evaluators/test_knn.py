import zipfile
from dataclasses import replace

import numpy as np
import pytest
from made_up_faces import chance, constant, noisy, number, perfect, person

from facejax.errors import UserError
from facejax.evaluators import knn


def evaluate(cfg, embed):
    return knn.run(cfg, knn.prepare(cfg, 8), embed)


@pytest.fixture
def cfg(faces) -> knn.Config:
    return knn.Config(faces.images, k=(1, 20), bootstrap=100)


@pytest.mark.parametrize("split", ["leave-one-out", "hash"])
def test_perfect_and_random_embeddings(cfg, split):
    cfg = replace(cfg, split=split, test_share=0.5)
    right = evaluate(cfg, perfect).metrics
    assert right["knn@1"] == right["knn@20"] == right["knn@20_low"] == 1
    assert right["n"] == (200 if split == "leave-one-out" else 100)
    assert evaluate(cfg, chance).metrics["knn@20"] < 0.15  # 20 people


def test_nobody_votes_for_themselves(cfg):
    def own(images):  # every picture alone in its direction
        return np.eye(256, dtype=np.float32)[(person(images) * 10 + number(images)) % 256]

    assert evaluate(cfg, own).metrics["knn@1"] < 0.2
    assert evaluate(cfg, constant).metrics["knn@20"] < 0.2


def test_leave_one_out_by_brute_force(cfg):
    data = knn.prepare(cfg, 8)
    result = knn.run(cfg, data, noisy)
    names = data.pictures.names()
    pictures = np.array([[[[int(n[1:3]), int(n[-8:-4]), 0]]] for n in names])
    x = noisy(pictures).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    right = []
    for i in range(len(x)):
        others = sorted((j for j in range(len(x)) if j != i), key=lambda j: -x[i] @ x[j])[:20]
        votes = np.zeros(20)
        for j in others:
            votes[data.labels[j]] += np.exp(x[i] @ x[j] / 0.07)
        right.append(votes.argmax() == data.labels[i])
    assert 0.2 < np.mean(right) < 1
    np.testing.assert_array_equal(result.items["knn@20"], right)


def test_hash_splits_every_class_and_separates_the_parts(cfg):
    data = knn.prepare(replace(cfg, split="hash"), 8)
    assert not (data.query & data.gallery).any()
    np.testing.assert_array_equal(np.bincount(data.labels[data.query]), 2)
    np.testing.assert_array_equal(np.bincount(data.labels[data.gallery]), 8)


def test_classes_from_a_label_file(cfg, faces, tmp_path):
    rows = [f"{faces.name(p, i)},{p % 2}" for p in range(4) for i in range(1, 11)]
    rows += [f"{faces.name(9, 1)},", f"{faces.name(9, 2)},alone"]
    (tmp_path / "labels.csv").write_text("\n".join(["file,group", *rows]))
    cfg = replace(cfg, labels=str(tmp_path / "labels.csv"), column="group", k=(5,))
    data = knn.prepare(cfg, 8)
    assert data.classes == ("0", "1")
    assert len(data.rows) == 40
    assert knn.run(cfg, data, perfect).metrics["knn@5"] == 1
    with pytest.raises(UserError, match="did you mean 'group'"):
        knn.prepare(replace(cfg, column="groop"), 8)


def test_failed_pictures_are_counted_and_neither_ask_nor_vote(cfg, faces):
    faces.path(2, 3).write_bytes(b"")
    faces.path(4, 1).write_bytes(b"\xff\xd8")
    result = evaluate(cfg, perfect)
    assert (result.metrics["n"], result.metrics["failed"]) == (198, 2)
    assert result.metrics["knn@1"] == 1
    assert np.sum(~result.items["valid"]) == 2


def test_pictures_that_can_not_be_read_are_counted(cfg, faces, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for p in range(4):
            for i in range(1, 4):
                archive.write(faces.path(p, i), faces.name(p, i))
    data = (tmp_path / "set.zip").read_bytes()
    at = data.index(faces.path(2, 2).read_bytes())  # breaks its checksum
    (tmp_path / "set.zip").write_bytes(data[:at] + b"!" + data[at + 1 :])
    metrics = evaluate(replace(cfg, path=str(tmp_path / "set.zip"), k=(1,)), perfect).metrics
    assert (metrics["n"], metrics["failed"], metrics["knn@1"]) == (11, 1, 1)


def test_classes_of_a_source():
    source = {"name": "synthetic", "n": 40, "identities": 10, "size": 16}
    cfg = knn.Config(source=source, k=(1,), bootstrap=0)
    data = knn.prepare(cfg, 16)
    assert (len(data.classes), len(data.rows)) == (10, 40)
    moods = knn.prepare(replace(cfg, column="expression"), 16)
    field = moods.pictures.source.fields["expression"]
    records = moods.pictures.source.read(moods.rows.tolist())
    named = [moods.classes[label] for label in moods.labels]
    assert named == [field.names[r["expression"]] for r in records]
    with pytest.raises(UserError, match="exactly one"):
        knn.prepare(replace(cfg, path="somewhere"), 16)


def test_difference(cfg):
    good, bad = evaluate(cfg, noisy), evaluate(cfg, chance)
    found = knn.difference(good, bad, n=100)
    assert set(found) == {"knn@1", "knn@20"}
    value, low, high = found["knn@20"]
    assert value == pytest.approx(good.metrics["knn@20"] - bad.metrics["knn@20"])
    assert 0 < low <= value <= high


@pytest.mark.parametrize(
    "options", [{"k": (200,)}, {"k": ()}, {"k": (0,)}, {"split": "random"}, {"flip": "yes"}]
)
def test_illegal_options_are_user_errors(cfg, options):
    with pytest.raises(UserError):
        knn.prepare(replace(cfg, **options), 8)
