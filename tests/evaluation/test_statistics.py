"""Statistics against known values."""

import math
import statistics as standard

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonet.evaluation.statistics import mean_and_std, mean_interval, wilson_interval


# The first three are of R. G. Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
        (9914, 10_000, 0.9894, 0.9930),
    ],
)
def test_known_intervals(successes: int, trials: int, low: float, high: float) -> None:
    assert list(wilson_interval(successes, trials)) == pytest.approx([low, high], abs=6e-5)


def test_of_nothing_nothing_is_known() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@given(trials=st.integers(1, 10**6), share=st.floats(0, 1))
def test_an_interval_holds_the_share_and_mirrors(trials: int, share: float) -> None:
    successes = round(share * trials)
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1
    assert list(wilson_interval(trials - successes, trials)) == pytest.approx([1 - high, 1 - low], abs=1e-9)


@given(trials=st.integers(1, 10**6), share=st.floats(0, 1))
def test_an_interval_is_that_of_wilsons_formula(trials: int, share: float) -> None:
    successes = round(share * trials)
    squared = standard.NormalDist().inv_cdf(0.975) ** 2
    for bound in wilson_interval(successes, trials):
        # The bounds are the shares p whose distance from the found one is the quantile times their standard error.
        found = (successes / trials - bound) ** 2
        assert found == pytest.approx(squared * bound * (1 - bound) / trials, rel=1e-6, abs=1e-9)


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_mean_and_std_are_the_standard_librarys(values: list[float]) -> None:
    mean, std = mean_and_std(values)
    assert mean == pytest.approx(standard.mean(values), abs=1e-6)
    assert std == pytest.approx(standard.stdev(values), abs=1e-6)


def test_a_single_value_has_no_std() -> None:
    mean, std = mean_and_std([99.5])
    assert mean == 99.5
    assert math.isnan(std)


def test_the_interval_of_a_mean_is_student_s_and_within_the_bounds_of_a_share() -> None:
    # The quantile of two degrees of freedom is 4.3027.
    low, high = mean_interval([0.4, 0.5, 0.6])
    assert (low, high) == pytest.approx((0.5 - 4.3027 * 0.1 / 3**0.5, 0.5 + 4.3027 * 0.1 / 3**0.5), abs=1e-5)
    assert mean_interval([1.0, 0.98]) == pytest.approx((0.99 - 12.7062 * 0.01, 1.0), abs=1e-5)
    assert mean_interval([0.0, 0.9]) == (0.0, 1.0)
    assert all(math.isnan(bound) for bound in mean_interval([0.5]))
