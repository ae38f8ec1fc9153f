import pytest

from facejax.reporting import plots


@pytest.mark.parametrize(
    ("low", "high", "log", "texts"),
    [
        (0, 400, False, ["0", "100", "200", "300", "400"]),
        (0, 20000, False, ["0", "5k", "10k", "15k", "20k"]),
        (0.5, 1.0, False, ["0.6", "0.8", "1.0"]),
        (0, 1.5e-4, False, ["0", "0.5", "1.0", "1.5"]),
        (-1, 1, False, ["−1.0", "−0.5", "0", "0.5", "1.0"]),
        (1e-4, 1, True, ["10⁻⁴", "10⁻³", "0.01", "0.1", "1"]),
        (0.6, 7, True, ["1", "2", "5"]),
    ],
)
def test_axes_have_round_numbers(low, high, log, texts):
    ticks = plots.Axis(low, high, 0, 100, log).ticks()
    assert [text for _, text in ticks] == texts
    assert all(low - 1e-12 <= value <= high + 1e-12 for value, _ in ticks)
