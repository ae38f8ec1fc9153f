import numpy as np
import pytest

from facejax.evaluators import _fairness

FMR, FNMR = np.array([0.001, 0.002, 0.004]), np.array([0.01, 0.02, 0.03])


def test_golden_values():
    assert _fairness.gini(FMR) == pytest.approx(0.428571, abs=1e-6)
    assert _fairness.gini(FNMR) == pytest.approx(0.333333, abs=1e-6)
    assert _fairness.garbe(FMR, FNMR) == pytest.approx(0.380952, abs=1e-6)
    assert _fairness.fdr(FMR, FNMR) == pytest.approx(0.9885, abs=1e-12)
    assert _fairness.inequity(FMR, FNMR) == pytest.approx(3.464102, abs=1e-6)


def test_equal_groups_are_fair():
    same = np.full(4, 0.02)
    found = _fairness.gini(same), _fairness.garbe(same, same), _fairness.fdr(same, same)
    assert found == (0, 0, 1)
    assert _fairness.inequity(same, same) == 1
    assert _fairness.gini(np.zeros(3)) == 0


def test_a_count_of_zero_smooths_all_rates():
    rates = _fairness.jeffreys([0, 3], [10, 20])
    np.testing.assert_allclose(rates, [0.5 / 11, 3.5 / 21])
    np.testing.assert_allclose(_fairness.jeffreys([1, 3], [10, 20]), [0.1, 0.15])
    assert _fairness.ratio(rates) == pytest.approx(3.5 / 21 * 11 / 0.5)


def test_the_weight_moves_between_the_two_rates():
    assert _fairness.garbe(FMR, FNMR, 1) == _fairness.gini(FMR)
    assert _fairness.fdr(FMR, FNMR, 0) == pytest.approx(1 - 0.02)
    assert _fairness.inequity(FMR, FNMR, 1) == pytest.approx(4)
