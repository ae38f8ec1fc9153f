import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facejax.evaluators import _metrics


@st.composite
def scored_pairs(draw):
    """Scores on a coarse grid, so that ties are common, of both kinds."""
    genuine = draw(st.lists(st.integers(-5, 5), min_size=1, max_size=12))
    impostors = draw(st.lists(st.integers(-5, 5), min_size=1, max_size=25))
    score = np.array(genuine + impostors) / 5
    same = np.arange(len(score)) < len(genuine)
    order = draw(st.permutations(range(len(score))))
    return score[list(order)], same[list(order)]


def test_tar_at_far_golden_value():
    impostors = [0.9, 0.5, 0.4, 0.3, 0.2, 0.1, 0, -0.1, -0.2, -0.3]
    genuine = [0.6, 0.5, 0.95]
    score, same = np.array(impostors + genuine), np.arange(13) >= 10
    rate, threshold = _metrics.tar_at_far(score, same, 0.1)
    assert (rate, threshold) == (pytest.approx(2 / 3), 0.5)
    assert np.mean(score[~same] > threshold) == pytest.approx(0.1)


@given(scored_pairs(), st.sampled_from([0.04, 0.1, 0.29, 0.5, 1.0]))
def test_tar_at_far_is_the_best_rate_that_keeps_the_limit(pairs, far):
    score, same = pairs
    rate, threshold = _metrics.tar_at_far(score, same, far)
    assert np.mean(score[~same] > threshold) <= far
    candidates = np.append(score, -np.inf)
    allowed = [t for t in candidates if np.mean(score[~same] > t) <= far]
    assert rate == max(np.mean(score[same] > t) for t in allowed)


def test_the_limit_is_not_lost_to_rounding():
    assert _metrics.allowed_impostors(100, 0.29) == 29


@given(scored_pairs(), st.sampled_from([0.04, 0.1, 0.5]))
def test_insightface_takes_the_nearest_point_of_the_roc(pairs, far):
    score, same = pairs
    points = [(np.mean(score[~same] >= t), np.mean(score[same] >= t)) for t in {*score, np.inf}]
    nearest = min(abs(f - far) for f, _ in points)
    best = max(p for p in points if abs(abs(p[0] - far) - nearest) < 1e-12)
    assert _metrics.tar_at_far_insightface(score, same, far) == pytest.approx(best[1])


def test_insightface_may_exceed_the_rate_that_exact_keeps():
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    same = np.array([False, True, False, True, False])
    assert _metrics.tar_at_far(score, same, 0.3)[0] == 0.0
    assert _metrics.tar_at_far_insightface(score, same, 0.3) == 0.5


@given(scored_pairs())
def test_auc_is_the_chance_that_a_genuine_pair_scores_higher(pairs):
    score, same = pairs
    difference = score[same][:, None] - score[~same]
    expected = np.mean((difference > 0) + 0.5 * (difference == 0))
    assert _metrics.auc(score, same) == pytest.approx(expected, abs=1e-12)


@given(scored_pairs())
def test_eer_lies_on_the_roc_where_the_errors_meet(pairs):
    score, same = pairs
    rate = _metrics.eer(score, same)
    false, true = _metrics.roc(score, same)
    # A vertical piece of the ROC has many true-accept rates at one false-accept rate.
    touching = np.isclose(false, rate, atol=1e-12)
    low = true[touching].min() if touching.any() else np.interp(rate, false, true)
    high = true[touching].max() if touching.any() else low
    assert low - 1e-12 <= 1 - rate <= high + 1e-12


@given(scored_pairs())
def test_lfw_threshold_is_the_first_best_of_the_grid(pairs):
    score, same = pairs
    distance = 2 - 2 * score
    accuracy = [np.sum((distance < t) == same) for t in _metrics.THRESHOLDS]
    expected = _metrics.THRESHOLDS[accuracy.index(max(accuracy))]
    assert _metrics.lfw_threshold(distance, same) == expected


def test_val_threshold_interpolates_between_the_impostors():
    same = np.array([True] + [False] * 4)
    distance = np.array([0.3, 0.5, 1.0, 1.5, 2.0])
    assert _metrics.val_threshold(distance, same, 0.25) == pytest.approx(1.0, abs=2e-3)
    halfway = _metrics.val_threshold(distance, same, 0.375)  # inside the step at 1.0
    assert halfway == pytest.approx(1.0005, abs=1e-9)
    assert _metrics.val_threshold(np.full(5, 5.0), same, 0.25) == 0.0


def test_knn_golden_value():
    votes = _metrics.knn_votes(np.array([[0.9, 0.8, 0.1]]), np.array([0, 1, 1]), 2, 3, 0.07)
    np.testing.assert_allclose(votes[0] / votes.sum(), [0.806672, 0.193328], atol=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 9))
def test_knn_votes_by_brute_force(seed, k):
    rng = np.random.default_rng(seed)
    similarity, labels = rng.uniform(-1, 1, (3, 9)), rng.integers(0, 4, 9)
    expected = np.zeros((3, 4))
    for row in range(3):
        for j in sorted(range(9), key=lambda j: -similarity[row, j])[:k]:
            expected[row, labels[j]] += np.exp((similarity[row, j] - similarity[row].max()) / 0.07)
    np.testing.assert_allclose(_metrics.knn_votes(similarity, labels, 4, k, 0.07), expected)


def test_unit_keeps_zero_and_squared_distance_is_chunked():
    rng = np.random.default_rng(0)
    a, b = _metrics.unit(rng.normal(size=(2, 10, 5)))
    expected = 2 - 2 * np.sum(a * b, axis=1)
    np.testing.assert_allclose(_metrics.squared_distance(a, b, chunk=3), expected, atol=1e-12)
    assert not _metrics.unit(np.zeros((1, 4))).any()


@pytest.mark.parametrize(("far", "name"), [(1e-1, "1e-1"), (0.001, "1e-3"), (0.025, "2.5e-2")])
def test_rates_are_named_as_in_the_interface(far, name):
    assert _metrics.far_name(far) == name


@given(scored_pairs())
def test_several_rates_at_once_are_each_alone(pairs):
    score, same = pairs
    far = (0.04, 0.1, 0.5, 1.0)
    rates, thresholds = _metrics.tar_at_fars(score, same, far)
    assert list(zip(rates, thresholds)) == [_metrics.tar_at_far(score, same, f) for f in far]


def test_rates_that_no_impostor_decides_are_left_out():
    score, same = np.linspace(0, 1, 60), np.arange(60) % 6 == 0
    found = _metrics.tar_metrics(score, same, (1e-3, 0.1, 0.5))
    assert found.keys() == {"tar@far=1e-1", "impostors@far=1e-1", "tar@far=5e-1"}
    assert found["impostors@far=1e-1"] == 5
    nearest = _metrics.tar_metrics(score, same, (0.1,), "insightface")["tar@far=1e-1"]
    assert nearest == _metrics.tar_at_far_insightface(score, same, 0.1)


def test_cosines_of_pairs_are_chunked():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 4)), rng.normal(size=(7, 4))
    pairs = np.stack([rng.integers(0, 9, 20), rng.integers(0, 7, 20)], axis=1)
    expected = [a[i] @ b[j] for i, j in pairs]
    np.testing.assert_allclose(_metrics.cosines(a, pairs, b, chunk=3), expected)


def test_bytes_keep_directions():
    x = np.random.default_rng(0).normal(size=(50, 128)) * np.geomspace(1e-3, 1e3, 50)[:, None]
    stored = _metrics.to_bytes(x)
    assert stored.dtype == np.int8
    assert stored.nbytes == 50 * 128
    assert np.abs(stored).max(axis=1).tolist() == [127] * 50
    cosine = np.sum(_metrics.unit(x) * _metrics.unit(stored), axis=1)
    assert cosine.min() > 0.9999
    assert not _metrics.to_bytes(np.zeros((1, 4))).any()
