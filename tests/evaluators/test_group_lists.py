"""evaluators/group_lists.py by its rule spelled out, one pair at a time."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_faces import chance, perfect, person

from facejax.errors import UserError
from facejax.evaluators import _search, group_lists
from facejax.evaluators._metrics import unit


def biased(images):
    """Noisier for the people from 10 on, all of whom look a little alike."""
    noise = np.pad(chance(images), ((0, 0), (0, 8)))
    second = (person(images) >= 10)[:, None]
    return perfect(images)[:, :24] + noise * np.where(second, 0.4, 0.25) + 0.3 * second


@pytest.fixture
def lists(faces, tmp_path):
    """The first ten people and the others; five pictures of each, and another four as impostors."""
    files = {"genuine": {}, "impostors": {}}
    for group, first in (("North", 0), ("South", 10)):
        people = range(first, first + 10)
        for kind, numbers in (("genuine", range(1, 6)), ("impostors", range(6, 10))):
            path = tmp_path / f"{group}-{kind}.txt"
            path.write_text("\n".join(faces.name(p, i) for p in people for i in numbers))
            files[kind][group] = str(path)
    return group_lists.Config(faces.images, far=(0.05, 1e-4), bootstrap=50, **files)


def evaluate(cfg, embed):
    return group_lists.run(cfg, group_lists.prepare(cfg, 8), embed)


def test_each_group_has_the_exact_threshold_of_its_own_impostors(lists):
    metrics, rates = evaluate(lists, biased).metrics, []
    for group, first in (("North", 0), ("South", 10)):
        images = np.zeros((10, 9, 1, 1, 3), np.uint8)
        images[..., 0] = np.arange(first, first + 10)[:, None, None, None]
        images[..., 1] = np.arange(1, 10)[:, None, None]
        x = unit(biased(images.reshape(90, 1, 1, 3))).reshape(10, 9, -1)
        own = [x[p, i] @ x[p, j] for p in range(10) for i in range(5) for j in range(i)]
        others = x[:, 5:].reshape(40, -1)
        impostors = [others[i] @ others[j] for i in range(40) for j in range(i)]
        limit = sorted(impostors, reverse=True)[int(0.05 * 780)]
        rates.append(np.mean(np.array(own) > limit))
        assert metrics[f"tar@far=5e-2/{group}"] == pytest.approx(rates[-1])
    assert metrics["tar@far=5e-2"] == pytest.approx(np.mean(rates))
    assert metrics["tar@far=5e-2_std"] == pytest.approx(np.std(rates))
    assert metrics["gap@far=5e-2"] == pytest.approx(max(rates) - min(rates))
    assert 0 < metrics["tar@far=5e-2_low"] <= metrics["tar@far=5e-2"] < 1
    assert "tar@far=1e-4" not in metrics, "no impostor pair decides it"
    assert (metrics["n"], metrics["failed"]) == (2 * 10 * 10, 0)


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


def test_what_fails_is_left_out(lists):
    def broken(images):
        rows = np.asarray(biased(images), np.float32)
        rows[person(images) == 3] = np.nan
        return rows

    result, whole = evaluate(lists, broken), evaluate(lists, biased)
    counts = {"n": 190, "failed": 10, "failed/pictures": 9}
    assert {name: result.metrics[name] for name in counts} == counts
    value, low, high = group_lists.difference(result, whole, n=30)["tar@far=5e-2"]
    name, group = "tar@far=5e-2", result.items["group"]
    both = np.isfinite(result.items[name])
    sides = [
        np.mean([r.items[name][both & (group == g)].mean() for g in (0, 1)])
        for r in (result, whole)
    ]
    assert value == pytest.approx(sides[0] - sides[1])
    assert low <= high


def test_a_group_that_failed_cannot_be_judged(lists):
    def north(images):
        rows = np.asarray(biased(images), np.float32)
        rows[person(images) >= 10] = np.nan
        return rows

    with pytest.raises(UserError, match="too many pictures of South failed"):
        evaluate(lists, north)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"impostors": {}}, "not of the same groups"),
        ({"impostors": {}, "genuine": {}}, "genuine: 0 groups"),
        ({"each": 4}, "50 names are not 4 of each person"),
        ({"each": 1}, "50 names are not 1 of each person"),
        ({"flip": "both"}, "flip"),
        ({"far": (2.0,)}, "far"),
    ],
)
def test_illegal_options_are_user_errors(lists, options, message):
    with pytest.raises(UserError, match=message):
        group_lists.prepare(replace(lists, **options), 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("P00/P00_0001.png\n", "1 names, 1 different ones"),
        ("P00/P00_0001.png\n" * 2, "2 names, 1 different ones"),
        ("nobody.png\nP00/P00_0001.png\n", r"no picture 'nobody\.png'"),
        (None, "no such file"),
    ],
)
def test_lists_are_checked(lists, tmp_path, text, message):
    path = tmp_path / "list.txt"
    if text is not None:
        path.write_text(text)
    changed = {**lists.impostors, "South": str(path)}
    with pytest.raises(UserError, match=message):
        group_lists.prepare(replace(lists, impostors=changed), 8)
