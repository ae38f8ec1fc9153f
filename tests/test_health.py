import numpy as np
import pytest

from facejax.errors import TrainingFailed
from facejax.health import Spikes, check_finite, short

IDS = [("faces", i) for i in range(12)]


def test_a_run_that_is_not_finite_stops_naming_step_objective_and_batch():
    metrics = {"nonfinite": 4, "loss/mae": 0.3, "loss/simclr": np.nan}
    check_finite(9, metrics, IDS, most=4)
    with pytest.raises(TrainingFailed) as error:
        check_finite(9, metrics, IDS, most=3)
    text = str(error.value)
    assert text.startswith("step 9: not finite for 4 steps in a row, from simclr (batch faces:0, ")
    assert "faces:7, ..." in text
    with pytest.raises(TrainingFailed, match="from the gradient"):
        check_finite(9, {"nonfinite": 1, "loss/mae": 0.3}, IDS, most=0)


def test_short_lists_are_whole():
    assert short(IDS[:2]) == "faces:0, faces:1"


def test_noise_and_slow_rises_are_no_spikes():
    rng = np.random.default_rng(0)
    spikes = Spikes()
    losses = 5 + 0.3 * rng.normal(size=2000) + np.linspace(0, 3, 2000)
    assert [spikes.find(x) for x in losses] == [None] * 2000


def test_a_spike_is_found_with_its_median():
    spikes = Spikes(window=16)
    assert spikes.find(100.0) is None  # nothing to compare with yet
    for i in range(16):
        assert spikes.find(2.0 + 0.01 * (i % 3)) is None
    assert spikes.find(4.0) == pytest.approx(2.01)
    assert spikes.find(2.0) is None
    assert spikes.find(np.nan) is None


def test_equal_losses_have_no_spread_and_a_tenth_is_allowed():
    spikes = Spikes(window=4)
    for _ in range(4):
        spikes.find(1.0)
    assert spikes.find(1.05) is None
    assert spikes.find(1.2) is not None
