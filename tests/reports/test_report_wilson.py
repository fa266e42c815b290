"""The Wilson interval against published values."""

import pytest

from keras_robust.reports.record import NORMAL_QUANTILE, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_intervals(successes, trials, low, high):
    """Newcombe (1998), Statistics in Medicine 17, table I, method 3: the score interval, four decimals."""
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_all_successes_has_the_closed_form():
    """With p = 1 the formula reduces to [n / (n + z^2), 1]."""
    assert wilson_interval(50, 50) == pytest.approx((50 / (50 + NORMAL_QUANTILE**2), 1.0))


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_impossible_counts_raise(successes, trials):
    with pytest.raises(ValueError, match="Received: successes="):
        wilson_interval(successes, trials)
