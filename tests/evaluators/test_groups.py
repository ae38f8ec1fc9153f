"""evaluators/groups.py: groups by `verification`, one threshold and lists by literal rules."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_faces import chance, number, perfect, person

from facejax.errors import UserError
from facejax.evaluators import _fairness, _search, groups, verification
from facejax.evaluators._metrics import lfw_threshold, unit

TEMPLATE = "{name}/{name}_{number:04d}.png"


def biased(images):
    """Noisier for the people from 10 on, all of whom look a little alike."""
    noise = np.pad(chance(images), ((0, 0), (0, 8)))
    second = (person(images) >= 10)[:, None]
    return perfect(images)[:, :24] + noise * np.where(second, 0.4, 0.25) + 0.3 * second


def pairs_of(faces, root, group, first, folds=5, per_kind=12, head=True):
    rng = np.random.default_rng(first)
    lines = [f"{folds}\t{per_kind}"] if head else []
    for _ in range(folds):
        for _ in range(per_kind):
            i, j = rng.choice(10, 2, replace=False) + 1
            lines.append(f"P{first + rng.integers(10):02d}\t{i}\t{j}")
        for _ in range(per_kind):
            a, b = first + rng.choice(10, 2, replace=False)
            i, j = rng.integers(1, 11, 2)
            lines.append(f"P{a:02d}\t{i}\tP{b:02d}\t{j}")
    path = root / f"{group}.txt"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def rfw(faces, tmp_path):
    pairs = {g: pairs_of(faces, tmp_path, g, f) for g, f in (("North", 0), ("South", 10))}
    return groups.Config(
        faces.images, pairs=pairs, template=TEMPLATE, flip="none", far=(0.1,), bootstrap=50
    )


def evaluate(cfg, embed):
    return groups.run(cfg, groups.prepare(cfg, 8), embed)


def test_each_group_alone_is_verified_as_lfw(faces, rfw):
    metrics, alone, errors = evaluate(rfw, biased).metrics, [], []
    for group, path in rfw.pairs.items():
        cfg = verification.Config(faces.images, path, template=TEMPLATE, bootstrap=0)
        found = verification.run(cfg, verification.prepare(cfg, 8), biased).metrics["accuracy"]
        assert metrics[f"accuracy/{group}"] == pytest.approx(found, abs=1e-12)
        alone.append(found)
        errors.append(1 - found)
    assert metrics["accuracy"] == pytest.approx(np.mean(alone))
    assert metrics["accuracy_std"] == pytest.approx(np.std(alone))
    assert metrics["ser"] == pytest.approx(max(errors) / min(errors))
    assert metrics["ser"] > 1
    assert metrics["accuracy_low"] <= metrics["accuracy"] <= metrics["accuracy_high"]
    assert (metrics["n"], metrics["failed"]) == (240, 0)


def test_one_threshold_for_all_shows_what_thresholds_of_their_own_hide(rfw):
    data = groups.prepare(rfw, 8)
    result = groups.run(rfw, data, biased)
    names = [data.pictures.source.name(row) for row in data.rows]
    images = np.array([[[[int(n[1:3]), int(n[-8:-4]), 0]]] for n in names])
    x = unit(biased(images))
    distance = np.sum((x[data.pairs[:, 0]] - x[data.pairs[:, 1]]) ** 2, axis=1)
    right = np.empty(len(distance))
    for fold in range(5):
        train = data.fold != fold
        limit = lfw_threshold(distance[train], data.same[train])
        right[~train] = (distance[~train] < limit) == data.same[~train]
    each = [right[data.group == g].mean() for g in (0, 1)]
    metrics = result.metrics
    assert metrics["global_accuracy/South"] == pytest.approx(each[1])
    assert metrics["global_accuracy"] == pytest.approx(np.mean(each))
    assert metrics["global_accuracy_std"] == pytest.approx(np.std(each))
    assert metrics["global_accuracy"] < metrics["accuracy"]

    score = 1 - distance / 2
    limit = np.sort(score[~data.same])[::-1][12]  # floor(.1 * 120)
    rates = {}
    for kind, wrong in (("fmr", score > limit), ("fnmr", score <= limit)):
        of = data.same if kind == "fnmr" else ~data.same
        rates[kind] = np.array([wrong[of & (data.group == g)].mean() for g in (0, 1)])
        assert metrics[f"{kind}@far=1e-1/North"] == pytest.approx(rates[kind][0])
    assert np.mean(rates["fmr"]) == pytest.approx(0.1)
    assert rates["fmr"][0] < rates["fmr"][1], "those who look alike are confused"
    assert metrics["fdr@far=1e-1"] == pytest.approx(_fairness.fdr(*rates.values()))
    assert metrics["garbe@far=1e-1"] == pytest.approx(_fairness.garbe(*rates.values()))


def test_perfect_embeddings_are_fair(rfw):
    metrics = evaluate(rfw, perfect).metrics
    expected = {"accuracy": 1, "accuracy_std": 0, "ser": 1, "global_ser": 1, "garbe@far=1e-1": 0}
    assert {name: metrics[name] for name in expected} == expected


def test_a_pairs_file_without_first_line_has_ten_folds(faces, rfw, tmp_path):
    path = pairs_of(faces, tmp_path, "bare", 0, folds=10, head=False)
    data = groups.prepare(replace(rfw, pairs={**rfw.pairs, "Bare": path}), 8)
    assert np.bincount(data.fold[data.group == 2]).tolist() == [24] * 10


def test_pictures_are_named_by_their_group(faces, rfw):
    by_group = replace(rfw, template="{group}/{name}.png")
    with pytest.raises(UserError, match=r"no picture 'North/P\d\d\.png'"):
        groups.prepare(by_group, 8)


@pytest.fixture
def lists(faces, tmp_path):
    """The first ten people and the others; five pictures of each, and another four as impostors."""
    genuine, impostors = {}, {}
    for group, first in (("North", 0), ("South", 10)):
        people = range(first, first + 10)
        for kind, files, numbers in (("g", genuine, range(1, 6)), ("i", impostors, range(6, 10))):
            path = tmp_path / f"{group}-{kind}.txt"
            path.write_text("\n".join(faces.name(p, i) for p in people for i in numbers))
            files[group] = str(path)
    return groups.Config(
        faces.images, genuine=genuine, impostors=impostors, flip="none", far=(0.05, 1e-4)
    )


def test_lists_follow_the_exact_rule(lists):
    metrics, rates = evaluate(lists, biased).metrics, []
    for group, first in (("North", 0), ("South", 10)):
        images = np.zeros((10, 9, 1, 1, 3), np.uint8)
        images[..., 0] = np.arange(first, first + 10)[:, None, None, None]
        images[..., 1] = np.arange(1, 10)[:, None, None]
        x = unit(biased(images.reshape(90, 1, 1, 3))).reshape(10, 9, -1)
        own = [x[p, i] @ x[p, j] for p in range(10) for i in range(5) for j in range(i)]
        others = x[:, 5:].reshape(40, -1)
        impostor = [others[i] @ others[j] for i in range(40) for j in range(i)]
        limit = sorted(impostor)[::-1][int(0.05 * 780)]
        rates.append(np.mean(np.array(own) > limit))
        assert metrics[f"tar@far=5e-2/{group}"] == pytest.approx(rates[-1])
    assert metrics["tar@far=5e-2"] == pytest.approx(np.mean(rates))
    assert metrics["tar@far=5e-2_std"] == pytest.approx(np.std(rates))
    assert 0 < metrics["tar@far=5e-2"] < 1
    assert "tar@far=1e-4" not in metrics, "no impostor pair decides it"
    assert metrics["n"] == 2 * 10 * 10


@given(st.lists(st.lists(st.integers(-4, 4), max_size=8), max_size=6), st.integers(1, 5))
def test_the_highest_of_all_parts(parts, count):
    found = _search.highest([np.array(part, np.float64) for part in parts], count)
    assert found.tolist() == sorted((v for part in parts for v in part), reverse=True)[:count]


@given(st.integers(0, 1000), st.integers(0, 9), st.integers(1, 10))
def test_every_pair_comes_once(seed, n, block):
    x = np.random.default_rng(seed).normal(size=(n, 3))
    found = np.concatenate([np.zeros(0), *_search.own_pairs(x, block)])
    expected = (x @ x.T)[np.triu_indices(n, 1)]
    np.testing.assert_allclose(np.sort(found), np.sort(expected), atol=1e-12)


def test_what_fails_is_left_out(rfw, lists):
    def broken(images):
        rows = np.asarray(biased(images), np.float32)
        rows[(person(images) == 3) & (number(images) <= 5)] = np.nan
        return rows

    for cfg in (rfw, lists):
        data = groups.prepare(cfg, 8)
        result, whole = groups.run(cfg, data, broken), evaluate(cfg, biased)
        names = [data.pictures.source.name(row) for row in data.rows]
        bad = [f"P03/P03_000{i}.png" in names for i in range(1, 6)]
        assert result.metrics["failed/pictures"] == sum(bad) > 0
        assert 0 < result.metrics["failed"] == len(data.pairs) - result.metrics["n"]
        name = "accuracy" if cfg is rfw else "tar@far=5e-2"
        value, low, high = groups.difference(result, whole, n=30)[name]
        both = np.isfinite(result.items[name])
        sides = [
            np.mean([r.items[name][both & (data.group == g)].mean() for g in (0, 1)])
            for r in (result, whole)
        ]
        assert value == pytest.approx(sides[0] - sides[1])
        assert low <= high


def test_a_group_without_pairs_cannot_be_judged(rfw, lists):
    def north(images):
        rows = np.asarray(biased(images), np.float32)
        rows[person(images) >= 10] = np.nan
        return rows

    for cfg in (rfw, lists):
        with pytest.raises(UserError, match="a group can't be judged"):
            evaluate(cfg, north)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": {}}, "exactly one of pairs and genuine"),
        ({"genuine": {"North": "x"}}, "exactly one of pairs and genuine"),
        ({"impostors": {"North": "x"}}, "not of the same groups"),
        ({"flip": "both"}, "flip"),
        ({"far": (2.0,)}, "far"),
    ],
)
def test_illegal_options_are_user_errors(rfw, options, message):
    with pytest.raises(UserError, match=message):
        groups.prepare(replace(rfw, **options), 8)


def test_lists_are_checked(rfw, lists, tmp_path):
    one = dict(list(rfw.pairs.items())[:1])
    with pytest.raises(UserError, match="fewer than two groups"):
        groups.prepare(replace(rfw, pairs=one), 8)
    with pytest.raises(UserError, match="50 names are not 4 of each person"):
        groups.prepare(replace(lists, each=4), 8)
    (tmp_path / "few.txt").write_text("P00/P00_0001.png\n")
    few = {"North": str(tmp_path / "few.txt"), "South": lists.impostors["South"]}
    with pytest.raises(UserError, match="fewer than two names"):
        groups.prepare(replace(lists, impostors=few), 8)
    (tmp_path / "few.txt").write_text("nobody.png\n")
    with pytest.raises(UserError, match=r"no picture 'nobody\.png'"):
        groups.prepare(replace(lists, impostors=few), 8)
    (tmp_path / "dev.txt").write_text("1\nP00\t1\t2\nP00\t1\tP01\t2\n")
    dev = {**rfw.pairs, "Dev": str(tmp_path / "dev.txt")}
    with pytest.raises(UserError, match="has no folds"):
        groups.prepare(replace(rfw, pairs=dev), 8)
