"""Schedules against their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from facejax.schedule import Schedule, at

STEPS = np.arange(0, 121)


def curve(schedule: Schedule, total: int = 100) -> np.ndarray:
    return np.asarray(jax.vmap(lambda t: at(schedule, t, total))(jnp.asarray(STEPS)))


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_number_is_itself():
    assert at(0.25, jnp.int32(3), 10) == 0.25


@pytest.mark.parametrize("warmup", [20, 0.2])
def test_cosine_with_warmup(warmup):
    """Steps, or a share of the run."""
    got = curve(Schedule("cosine", start=2.0, end=0.5, warmup=warmup))
    rising = 2.0 * STEPS[:20] / 20
    progress = (STEPS[20:101] - 20) / 80
    falling = 0.5 + 1.5 * (1 + np.cos(np.pi * progress)) / 2
    close(got, np.concatenate([rising, falling, np.full(20, 0.5)]))
    assert got[0] == 0
    assert got[20] == 2.0
    close(got[60], 1.25)
    assert got.dtype == np.float32


def test_linear_with_hold():
    got = curve(Schedule("linear", start=1.0, end=0.0, warmup=10, hold=0.3, warmup_start=0.5))
    close(got[:10], 0.5 + 0.5 * STEPS[:10] / 10)
    close(got[10:41], 1.0)
    close(got[40:101], 1 - (STEPS[40:101] - 40) / 60)
    close(got[101:], 0.0)


def test_constant():
    got = curve(Schedule("constant", start=3.0, warmup=4))
    close(got[:4], [0.0, 0.75, 1.5, 2.25])
    close(got[4:], 3.0)


@pytest.mark.parametrize("milestones", [(30, 80), (0.3, 0.8)])
def test_step(milestones):
    got = curve(Schedule("step", start=1.0, milestones=milestones, factor=0.1))
    close(got, np.select([STEPS < 30, STEPS < 80], [1.0, 0.1], 0.01))


def test_rsqrt():
    got = curve(Schedule("rsqrt", start=2.0, warmup=16))
    close(got[:16], 2.0 * STEPS[:16] / 16)
    close(got[16:], 2.0 * np.sqrt(16 / STEPS[16:]))
    close(curve(Schedule("rsqrt", start=2.0))[1:], 2 / np.sqrt(STEPS[1:]))


def test_rising_curves():
    """EMA momenta and weight decay go up."""
    got = curve(Schedule("cosine", start=0.996, end=1.0))
    assert got[0] == np.float32(0.996)
    close(got[50], 0.998)
    close(got[100:], 1.0)
    assert (np.diff(got[:101]) > 0).all()


def test_an_own_horizon_does_not_move_when_the_run_is_extended():
    own = Schedule("cosine", start=1.0, warmup=0.1, steps=50)
    np.testing.assert_array_equal(curve(own, 100), curve(own, 1000))
    close(curve(own)[50:], 0.0)
    run = Schedule("cosine", start=1.0, warmup=0.1)
    np.testing.assert_array_equal(curve(own, 100), curve(run, 50))
    close(curve(run, 200)[10], 0.5)


def test_no_steps_left_for_the_decay():
    """A warm-up as long as the run ends at the peak, without dividing by zero."""
    got = curve(Schedule("cosine", start=1.0, warmup=100))
    close(got[:101], STEPS[:101] / 100)
    assert np.isfinite(got).all()
