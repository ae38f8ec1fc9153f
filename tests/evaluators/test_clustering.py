"""Clustering against its definitions by brute force, over all pairs of pictures."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from made_up_faces import chance, constant, noisy, number, perfect, person

from facejax.errors import UserError
from facejax.evaluators import clustering, knn


def evaluate(cfg, embed):
    return clustering.run(cfg, clustering.prepare(cfg, 8), embed)


@pytest.fixture
def cfg(faces) -> clustering.Config:
    return clustering.Config(faces.images)


def test_perfect_and_random_embeddings(cfg):
    right = evaluate(cfg, perfect).metrics
    for name in ("pairwise_f", "bcubed_f", "nmi", "clusters"):
        assert right[name] == pytest.approx(1, abs=1e-12)
    assert right["n"] == 200
    assert evaluate(cfg, chance).metrics["pairwise_f"] < 0.25
    one = evaluate(cfg, constant).metrics
    np.testing.assert_allclose(one["clusters"], 1 / 10)


def test_the_other_half_chooses_the_threshold(cfg):
    data = clustering.prepare(cfg, 8)
    assert sorted(np.bincount(data.half)) == [100, 100]
    for label in np.unique(data.labels):
        assert len(set(data.half[data.labels == label])) == 1
    found = evaluate(cfg, noisy).metrics
    assert 0.3 < found["pairwise_f"] < 1
    assert -1 <= found["threshold"] <= 1


def test_measures_are_their_definitions():
    rng = np.random.default_rng(0)
    labels, clusters = rng.integers(0, 4, 30), rng.integers(0, 5, 30)
    together = same = both = 0
    for i, j in itertools.combinations(range(30), 2):
        together += clusters[i] == clusters[j]
        same += labels[i] == labels[j]
        both += clusters[i] == clusters[j] and labels[i] == labels[j]
    precision, recall = both / together, both / same
    want = 2 * precision * recall / (precision + recall)
    np.testing.assert_allclose(clustering.pairwise_f(labels, clusters), want)
    each = []
    for i in range(30):
        shared = np.sum((labels == labels[i]) & (clusters == clusters[i]))
        p, r = shared / np.sum(clusters == clusters[i]), shared / np.sum(labels == labels[i])
        each.append(2 * p * r / (p + r))
    np.testing.assert_allclose(clustering.bcubed(labels, clusters), each)
    joint = np.array(
        [[np.mean((labels == a) & (clusters == b)) for b in range(5)] for a in range(4)]
    )
    rows, columns = joint.sum(1), joint.sum(0)
    known = joint > 0
    mutual = np.sum(joint[known] * np.log(joint[known] / np.outer(rows, columns)[known]))
    entropies = [-np.sum(p * np.log(p)) for p in (rows, columns)]
    np.testing.assert_allclose(clustering.nmi(labels, clusters), mutual / np.mean(entropies))
    assert clustering.nmi(np.zeros(4, int), np.zeros(4, int)) == 1


def test_a_cut_tree_is_single_linkage():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    tree = clustering.chain(x)
    for bar in (0.93, 0.97, 0.99):
        links = x @ x.T > bar
        label = np.arange(40)
        for _ in range(40):
            label = np.array([label[links[i]].min() for i in range(40)])
        got = clustering.cut(tree, bar)
        np.testing.assert_array_equal(got[:, None] == got[None], label[:, None] == label[None])
        assert 1 < len(np.unique(got)) < 40


def test_failed_pictures_are_left_out_and_counted(cfg):
    def broken(images):
        x = perfect(images)
        x[person(images) == 3] = np.nan
        return x

    found = evaluate(cfg, broken)
    assert found.metrics["failed"] == 10
    assert found.metrics["n"] == 190
    assert found.metrics["bcubed_f"] == pytest.approx(1)

    def one_left(images):
        x = perfect(images)
        x[(person(images) > 0) | (number(images) > 1)] = np.nan
        return x

    with pytest.raises(UserError, match="can't be clustered"):
        evaluate(cfg, one_left)


def test_too_few_people_and_illegal_options_are_user_errors(cfg, tmp_path):
    with pytest.raises(UserError) as caught:
        clustering.prepare(replace(cfg, flip="both"), 8)
    assert caught.value.where == "flip"
    small = knn.Config.tiny(tmp_path / "few")
    for extra in ("P3", "P4", "P5"):
        for path in (tmp_path / "few/images" / extra).iterdir():
            path.unlink()
    with pytest.raises(UserError, match="3 people"):
        clustering.prepare(clustering.Config(small.path), 8)
