"""evaluators/clustering.py: DBSCAN and its measures against their definitions, pair by pair."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_faces import constant, noisy, number, perfect, person

from facejax.errors import UserError
from facejax.evaluators import _search, clustering
from facejax.evaluators._metrics import unit

partitions = st.integers(1, 14).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n)] * 2)
)


def numbered(labels):
    return np.unique(labels, return_inverse=True)[1]


@given(partitions)
def test_measures_follow_their_definitions(given_):
    found, people = map(numbered, given_)
    n = len(found)
    pairs = [(i, j) for i in range(n) for j in range(i)]
    made = [found[i] == found[j] for i, j in pairs]
    wanted = [people[i] == people[j] for i, j in pairs]
    right = sum(a and b for a, b in zip(made, wanted))
    precision = right / sum(made) if sum(made) else 1.0
    recall = right / sum(wanted) if sum(wanted) else 1.0
    f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert clustering.pairwise(found, people) == pytest.approx((f, precision, recall))

    each = clustering.bcubed(found, people)
    for i in range(n):
        mine, alike = (
            set(np.flatnonzero(found == found[i])),
            set(np.flatnonzero(people == people[i])),
        )
        both = len(mine & alike)
        assert each[0][i] == pytest.approx(both / len(mine))
        assert each[1][i] == pytest.approx(both / len(alike))

    joint = np.array([[np.mean((found == a) & (people == b)) for b in range(5)] for a in range(5)])
    ours, theirs = joint.sum(1), joint.sum(0)
    entropy = [-sum(p * np.log(p) for p in q if p) for q in (ours, theirs)]
    mutual = sum(
        joint[a, b] * np.log(joint[a, b] / (ours[a] * theirs[b]))
        for a in range(5)
        for b in range(5)
        if joint[a, b]
    )
    expected = mutual / np.mean(entropy) if sum(entropy) else 1.0
    assert clustering.nmi(found, people) == pytest.approx(expected, abs=1e-12)


def literal_dbscan(x, threshold, min_samples):
    """Clusters as frozensets, grown from one core after another."""
    cosine, n = x @ x.T, len(x)
    near = [set(np.flatnonzero(cosine[i] > threshold)) | {i} for i in range(n)]
    core = {i for i in range(n) if len(near[i]) >= min_samples}
    of = {}
    for start in core:
        if start in of:
            continue
        todo = [start]
        while todo:
            i = todo.pop()
            if i not in of:
                of[i] = start
                todo += near[i] & core
    for i in set(range(n)) - core:
        cores = near[i] & core
        of[i] = of[max(cores, key=lambda j: cosine[i, j])] if cores else ("alone", i)
    return {frozenset(i for i in range(n) if of[i] == c) for c in set(of.values())}


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("min_samples", [1, 2, 4])
def test_clusters_are_those_of_dbscan(monkeypatch, block, min_samples):
    monkeypatch.setattr(_search.blocks, "__defaults__", (block,))
    x, thresholds = unit(np.random.default_rng(0).normal(size=(60, 4))), (0.5, 0.8, 0.95)
    sizes = []
    for labels, t in zip(clustering.clusters(x, thresholds, min_samples), thresholds):
        found = {frozenset(np.flatnonzero(labels == c).tolist()) for c in range(labels.max() + 1)}
        assert found == literal_dbscan(x, t, min_samples)
        sizes.append(len(found))
    assert sizes[0] < sizes[1] < sizes[2]


def test_a_bridge_between_two_people_needs_a_core():
    angles = np.radians([0, 2, 4, 20, 36, 38, 40])  # three, one between, three
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    limit = [np.cos(np.radians(17))]
    assert clustering.clusters(x, limit, 1)[0].max() == 0
    assert np.bincount(clustering.clusters(x, limit, 4)[0]).tolist() in ([4, 3], [3, 4])


def evaluate(cfg, embed):
    return clustering.run(cfg, clustering.prepare(cfg, 8), embed)


@pytest.fixture
def cfg(faces):
    return clustering.Config(path=faces.images, bootstrap=50)


def test_perfect_and_constant_embeddings(cfg):
    metrics = evaluate(cfg, perfect).metrics
    expected = {"pairwise_f": 1, "bcubed_f": 1, "nmi": 1, "clusters": 10, "people": 10, "n": 100}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    metrics = evaluate(cfg, constant).metrics
    assert metrics["clusters"] == 1
    assert (metrics["bcubed_f/recall"], metrics["nmi"]) == (1, pytest.approx(0, abs=1e-12))
    assert metrics["bcubed_f/precision"] == pytest.approx(0.1)


def test_the_threshold_comes_from_other_people(cfg):
    data = clustering.prepare(cfg, 8)
    assert not set(data.people[data.judged]) & set(data.people[~data.judged])
    result = clustering.run(cfg, data, noisy)
    curve = result.curves["pairwise_f"]
    assert result.metrics["threshold"] == curve["x"][np.argmax(curve["y"])]
    fixed = evaluate(replace(cfg, threshold=result.metrics["threshold"]), noisy)
    assert fixed.metrics["people"] == 20
    assert not fixed.curves
    assert 0 < result.metrics["bcubed_f_low"] <= result.metrics["bcubed_f"] <= 1


def test_what_fails_is_counted(cfg):
    def broken(images):
        rows = np.asarray(noisy(images), np.float32)
        rows[number(images) == 4] = np.nan
        return rows

    result = evaluate(cfg, broken)
    assert (result.metrics["n"], result.metrics["failed"]) == (90, 10)
    assert np.isnan(result.items["precision"]).sum() == 10
    value, low, high = clustering.difference(result, evaluate(cfg, perfect), n=50)["bcubed_f"]
    assert value == pytest.approx(result.metrics["bcubed_f"] - 1)
    assert low <= high <= 0

    def nothing(images):
        rows = np.asarray(noisy(images), np.float32)
        rows[np.isin(person(images), bad)] = np.nan
        return rows

    data = clustering.prepare(cfg, 8)
    bad = [int(name[1:]) for name in set(data.people[data.judged])]
    with pytest.raises(UserError, match="none is left to judge"):
        clustering.run(cfg, data, nothing)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_samples": 0}, "min_samples"),
        ({"threshold": 1.0}, "threshold: 1.0 is no cosine"),
        ({"flip": "both"}, "flip"),
        ({"crop": 0.0}, "crop"),
    ],
)
def test_illegal_options_are_user_errors(cfg, options, message):
    with pytest.raises(UserError, match=message):
        clustering.prepare(replace(cfg, **options), 8)
