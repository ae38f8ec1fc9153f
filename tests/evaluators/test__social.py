"""Skew, NDKL, WEAT and effects against their definitions."""

import itertools

import numpy as np
import pytest

from facejax.evaluators import _social


def test_golden_values():
    assert _social.ndkl(np.array([1, 1, 0, 0]), 2) == pytest.approx(0.452369, abs=1e-6)
    ranked = np.array([1] * 7 + [0] * 3 + [0] * 90)
    assert _social.skew(ranked, 10, 2)[1] == pytest.approx(0.336472, abs=1e-6)
    assert _social.skew(ranked, 10, 2)[0] == pytest.approx(np.log(0.3 / 0.5))
    assert np.isneginf(_social.skew(ranked, 7, 2)[0])


def test_a_fair_ranking_has_less_ndkl_than_a_sorted_one():
    fair = np.tile([0, 1, 2], 20)
    assert 0 < _social.ndkl(fair, 3) < 0.35 * _social.ndkl(np.sort(fair), 3)


def test_weat_is_its_definition():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 1, (6, 2)), rng.normal(0, 1, (5, 2))
    size, p = _social.weat(a, b, 4000, 0)
    both = np.concatenate([a, b])
    np.testing.assert_allclose(size, (a.mean(0) - b.mean(0)) / both.std(0, ddof=1))
    total, far = 0, np.zeros(2)
    for chosen in itertools.combinations(range(11), 6):
        rest = np.setdiff1d(np.arange(11), chosen)
        gap = both[list(chosen)].mean(0) - both[rest].mean(0)
        far += np.abs(gap) >= np.abs(a.mean(0) - b.mean(0)) - 1e-12
        total += 1
    np.testing.assert_allclose(p, far / total, atol=0.03)


def test_effects_weigh_and_spread_stays_within_a_unit():
    rng = np.random.default_rng(1)
    unit, level = np.arange(12) // 3, np.tile([0, 1, 2], 4)
    delta = rng.normal(size=(12, 2)) + 100 * unit[:, None]
    weights = np.array([[1, 0, 2, 0]])[:, unit] * 1.0
    own = delta.reshape(4, 3, 2)
    want = (own[0, 2] - own[0, 0] + 2 * (own[2, 2] - own[2, 0])) / 3
    got = _social.effects(delta, level[:, None], weights)
    np.testing.assert_allclose(got[0, 0], want)
    pairs = [np.abs(o[i] - o[j]) for o in own for i, j in ((0, 1), (0, 2), (1, 2))]
    shuffled = rng.permutation(12)
    got = _social.spread(delta[shuffled], level[shuffled], unit[shuffled], 1000, 0)
    np.testing.assert_allclose(got, np.mean(pairs, axis=0))
