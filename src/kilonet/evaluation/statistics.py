"""Means, standard deviations and confidence intervals.

Their quantiles come from `scipy.special`, inside the functions that need them: every training and scoring gives an
interval, and `scipy.stats` takes half a second or more to import.
"""

import math
from collections.abc import Sequence

MOST_LISTED = 12
"""The most numbers that `listed` gives one by one."""


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a proportion, two fractions; (0, 1) without trials.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if trials == 0:
        return 0.0, 1.0
    from scipy.special import ndtri  # noqa: PLC0415

    # The formula in the order of `scipy.stats`, to which it is equal to the bit.
    share, z = successes / trials, float(ndtri(0.975))
    doubled = 2 * (trials + z**2)
    centre = (2 * trials * share + z**2) / doubled
    half = z / doubled * math.sqrt(4 * trials * share * (1 - share) + z**2)
    return centre - half if successes else 0.0, centre + half if successes < trials else 1.0


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation, which is NaN for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def listed(numbers: Sequence[float], form: str) -> str:
    """Return numbers in a format, one by one, or the lowest and the highest of more than a line has room for."""
    if len(numbers) > MOST_LISTED:
        return f"{min(numbers):{form}} to {max(numbers):{form}}"
    return ", ".join(f"{number:{form}}" for number in numbers)


def mean_interval(shares: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean of normally distributed shares, 0 to 1; NaN for a single one.

    Student's t knows no bounds; a share has them, and so has the interval.

    Source: "Student" (W. S. Gosset), "The probable error of a mean", 1908.
    """
    from scipy.special import stdtrit  # noqa: PLC0415

    mean, std = mean_and_std(shares)
    if len(shares) < 2:
        return math.nan, math.nan
    half = float(stdtrit(len(shares) - 1, 0.975)) * std / math.sqrt(len(shares))
    return max(0.0, mean - half), min(1.0, mean + half)
