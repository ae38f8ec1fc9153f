import numpy as np
import pytest

from facejax.errors import UserError
from facejax.evaluators._drawn_pairs import draw_pairs


def drawn(counts, wanted=None, seed=0):
    """Pairs of a set in which person p has counts[p] pictures."""
    people = np.repeat(np.arange(len(counts)), counts)
    names = [f"picture {i}" for i in range(len(people))]
    return people, *draw_pairs(names, people, wanted, seed)


@pytest.mark.parametrize("counts", [[5] * 40, [1, 2, 3, 9] * 15, [2] * 20])
def test_pairs_are_what_lfw_promises(counts):
    people, pairs, same, fold = drawn(counts)
    per_fold = len(same) // 10
    assert len(same) >= 20
    assert len({tuple(sorted(pair)) for pair in pairs.tolist()}) == len(pairs)
    np.testing.assert_array_equal(people[pairs[:, 0]] == people[pairs[:, 1]], same)
    np.testing.assert_array_equal(fold, np.repeat(np.arange(10), per_fold))
    np.testing.assert_array_equal(same, np.arange(len(same)) % per_fold < per_fold // 2)
    folds_of = {p: set(fold[(people[pairs] == p).any(axis=1)]) for p in set(people)}
    assert all(len(folds) <= 1 for folds in folds_of.values())


@pytest.mark.parametrize("wanted", [None, 40, 200, 800])
def test_each_picture_is_used_about_equally(wanted):
    people, pairs, same, _ = drawn([5] * 40, wanted)
    assert len(pairs) == (wanted or 200)
    for kind in (same, ~same):
        used = np.bincount(pairs[kind].ravel(), minlength=len(people))
        assert used.max() - used.min() <= 2
        assert np.mean(used == np.median(used)) >= 0.75


def test_auto_stops_at_the_size_of_lfw():
    assert len(drawn([10] * 700)[2]) == 6000


def test_the_draw_depends_on_names_and_seed_alone():
    people, pairs, _, fold = drawn([4] * 30)
    names = np.array([f"picture {i}" for i in range(len(people))])
    shuffled = np.random.default_rng(0).permutation(len(people))
    again = draw_pairs(names[shuffled].tolist(), people[shuffled], None, 0)
    np.testing.assert_array_equal(names[shuffled][again[0]], names[pairs])
    np.testing.assert_array_equal(again[2], fold)
    assert not np.array_equal(drawn([4] * 30, seed=1)[1], pairs)


def test_pictures_of_nobody_known_are_in_no_pair():
    people = np.where(np.arange(200) % 7 == 0, -1, np.arange(200) // 5)
    pairs, _, _ = draw_pairs([str(i) for i in range(200)], people, None, 0)
    assert (people[pairs] >= 0).all()


@pytest.mark.parametrize(
    ("counts", "wanted", "told"),
    [
        ([2] * 19, None, "19 people"),
        ([1] * 50, None, "50 people"),
        ([], None, "0 people"),
        ([5] * 40, 30, "give a multiple of 20 up to 800"),
        ([5] * 40, 0, "give a multiple of 20"),
        ([5] * 40, 820, "up to 800, or 'auto'"),
    ],
)
def test_errors(counts, wanted, told):
    with pytest.raises(UserError, match=told):
        drawn(counts, wanted)
