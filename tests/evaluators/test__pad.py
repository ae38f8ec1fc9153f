"""Rates of presentation attacks: the sheet's golden values, weights, thresholds."""

import numpy as np
import pytest

from facejax.evaluators import _metrics, _pad

ONE = np.ones((1, 12))
# Type A accepted 1 of 4, type B 2 of 4, live rejected 1 of 4.
KIND = np.repeat([0, 1, 2], 4)
ACCEPTED = np.array([1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0, 0], bool)


def test_golden_values():
    assert _pad.apcer_of_each(ACCEPTED, KIND, ONE)[0].tolist() == [0.25, 0.5]
    assert _pad.apcer(ACCEPTED, KIND, ONE) == 0.5
    assert _pad.bpcer(ACCEPTED, KIND, ONE) == 0.25
    assert _pad.acer(ACCEPTED, KIND, ONE) == 0.375
    assert _pad.far(ACCEPTED, KIND, ONE) == 0.375
    assert _pad.hter(ACCEPTED, KIND, ONE) == 0.3125


def test_weights_are_repetitions_and_absent_types_do_not_count():
    rng = np.random.default_rng(0)
    score, weights = rng.integers(0, 6, 12) / 5, rng.integers(0, 3, (1, 12))
    again = np.repeat(np.arange(12), weights[0])
    ones = np.ones((1, len(again)))
    for rate in (_pad.apcer, _pad.bpcer, _pad.far):
        assert rate(ACCEPTED, KIND, weights) == rate(ACCEPTED[again], KIND[again], ones)
    want = _metrics.auc(score[again], KIND[again] == 0)
    assert _pad.auc(score, KIND, weights)[0] == pytest.approx(want, abs=1e-12)
    only_a = np.where(KIND == 2, 0.0, 1.0)[None]
    assert _pad.apcer(ACCEPTED, KIND, only_a) == 0.25
    assert np.isnan(_pad.apcer(ACCEPTED, KIND, (KIND == 0)[None] * 1.0)).all()


def test_the_threshold_balances_both_errors():
    kind = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    assert _pad.eer_threshold(np.array([5.0, 6, 7, 8, 1, 2, 3, 4]), kind) == 4.5  # mid-gap
    score = np.array([2.0, 6, 7, 8, 1, 3, 3, 9])
    cut = _pad.eer_threshold(score, kind)
    assert cut == 4.5
    accepted = score > cut
    one = np.ones((1, 8))
    assert _pad.far(accepted, kind, one) == _pad.bpcer(accepted, kind, one) == 0.25
    everywhere = _pad.eer_threshold(np.zeros(8), kind)  # nothing to tell: all in or all out
    assert _pad.hter(np.zeros(8) > everywhere, kind, one) == 0.5
