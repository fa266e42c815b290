"""The Wilson score interval of a proportion."""

import math

# The 97.5 % quantile of the standard normal distribution: 95 % lie between minus and plus this.
NORMAL_QUANTILE = 1.959963984540054


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a binomial proportion (Wilson, 1927; Newcombe, 1998, method 3).

    With p = successes / trials and z the normal quantile it is
    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).

    Returns:
        The lower and the upper end, both fractions in [0, 1].

    Raises:
        ValueError: `trials` is not positive, or `successes` is not in [0, trials].
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(f"Expected 0 <= successes <= trials, trials > 0. Received: {successes=}, {trials=}")
    fraction = successes / trials
    z_squared = NORMAL_QUANTILE**2
    centre = fraction + z_squared / (2 * trials)
    spread = math.sqrt(fraction * (1 - fraction) / trials + z_squared / (4 * trials**2))
    scale = 1 + z_squared / trials
    low = (centre - NORMAL_QUANTILE * spread) / scale
    high = (centre + NORMAL_QUANTILE * spread) / scale
    # Rounding must not push an end that is exactly 0 or 1 past it.
    return max(low, 0.0), min(high, 1.0)
