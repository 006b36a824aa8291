"""The statistics behind the figures."""

import math
from collections.abc import Sequence

NORMAL_QUANTILE_95 = 1.959964
"""The two-sided 95 % quantile of the normal distribution."""


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion, as two fractions.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if trials == 0:
        return 0.0, 1.0
    squared = NORMAL_QUANTILE_95**2
    share = successes / trials
    centre = (share + squared / (2 * trials)) / (1 + squared / trials)
    spread = math.sqrt(share * (1 - share) / trials + squared / (4 * trials**2))
    half = NORMAL_QUANTILE_95 * spread / (1 + squared / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation, which is NaN for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of values that are normally distributed; NaN for a single value.

    Source: "Student" (W. S. Gosset), "The probable error of a mean", 1908.
    """
    # Only here: whoever counts proportions need not wait for SciPy.
    from scipy.special import stdtrit  # noqa: PLC0415

    mean, deviation = mean_and_deviation(values)
    if len(values) < 2:
        return math.nan, math.nan
    half = float(stdtrit(len(values) - 1, 0.975)) * deviation / math.sqrt(len(values))
    return mean - half, mean + half
