import numpy as np
import pytest

from facejax.evaluators import _bootstrap

MEAN = _bootstrap.weighted_mean("x")


def test_interval_of_independent_people_has_the_textbook_width():
    x = np.arange(400) % 2 == 0
    value, low, high = _bootstrap.interval({"x": x}, np.arange(400), MEAN, n=2000)
    assert value == 0.5
    assert (high - low) / 2 == pytest.approx(1.96 * 0.5 / 20, rel=0.1)


def test_the_images_of_one_person_are_not_independent():
    x = np.repeat(np.arange(40) % 2 == 0, 10)
    _, low, high = _bootstrap.interval({"x": x}, np.repeat(np.arange(40), 10), MEAN, n=2000)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.5 / np.sqrt(40), rel=0.1)


def test_a_pair_weighs_the_product_of_its_two_people():
    subjects = np.array([[7, 7], [7, 9], [9, 9]])
    weights = np.concatenate(list(_bootstrap._weights(subjects, 500, 0)))
    assert weights.shape == (500, 3)
    np.testing.assert_array_equal(weights[:, 1], weights[:, 0] * weights[:, 2])
    np.testing.assert_array_equal(weights[:, 0] + weights[:, 2], 2)  # two people, drawn twice
    assert set(weights[:, 0]) == {0, 1, 2}


def test_paired_draws_cancel_what_both_share():
    rng = np.random.default_rng(0)
    subjects = np.arange(300)
    b = rng.normal(size=300)
    difference, low, high = _bootstrap.paired_interval(
        {"x": b + 0.1}, {"x": b}, subjects, MEAN, n=200
    )
    assert difference == pytest.approx(0.1)
    assert high - low < 1e-12


def test_a_seed_gives_the_same_interval_again():
    x, subjects = np.arange(30) / 7, np.arange(30) // 2
    runs = [_bootstrap.interval({"x": x}, subjects, MEAN, n=100, seed=s) for s in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_units_without_a_value_are_left_out_of_a_mean():
    statistic = _bootstrap.weighted_mean("right")
    items = {"right": np.array([1.0, np.nan, 0.0, 1.0])}
    weights = np.array([[1.0, 5, 1, 1], [2, 0, 1, 0], [0, 1, 0, 0]])
    np.testing.assert_allclose(statistic(items, weights), [2 / 3, 2 / 3, np.nan])
