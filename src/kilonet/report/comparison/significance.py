"""Tests of significance: two groups over their seeds, and two models on the same images.

`scipy.stats` is imported inside the functions: it takes half a second or more, and a report of one run does not use it.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kilonet.evaluation.statistics import mean_and_std
from kilonet.report.comparison.groups import Group

ALPHA = 0.05


@dataclass(frozen=True)
class SeedsTest:
    """A t-test of two groups over their seeds: of their errors, or of another metric than the accuracy."""

    kind: Literal["paired", "Welch"]
    """Paired by seed where both groups have the same seeds, otherwise Welch's test."""
    difference: float
    """By how much the first group is better on average: errors fewer, or percentage points more."""
    interval: tuple[float, float] | None
    p: float | None
    """Two-sided p-value; None where no test is possible: a group has a single run, or the figures do not vary."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def seeds_test(first: Group, second: Group) -> SeedsTest:
    """Test whether two groups differ in their mean errors, or in the mean of the metric that they are compared by.

    Source of the unpaired test: B. L. Welch, "The generalization of Student's problem", 1947.
    """
    ours, theirs = first.shortfalls, second.shortfalls
    paired = first.seeds == second.seeds and len(set(first.seeds)) == len(first.seeds)
    kind: Literal["paired", "Welch"] = "paired" if paired else "Welch"
    difference = mean_and_std(theirs)[0] - mean_and_std(ours)[0]
    if not _varies(ours, theirs, paired=paired):
        return SeedsTest(kind, difference, None, None)
    from scipy import stats  # noqa: PLC0415

    tested = stats.ttest_rel(theirs, ours) if paired else stats.ttest_ind(theirs, ours, equal_var=False)
    low, high = tested.confidence_interval(1 - ALPHA)
    return SeedsTest(kind, difference, (float(low), float(high)), float(tested.pvalue))


def _varies(ours: Sequence[float], theirs: Sequence[float], *, paired: bool) -> bool:
    """Tell whether the figures vary over the seeds by more than rounding, without which there is no t-test."""
    if min(len(ours), len(theirs)) < 2:
        return False
    if paired:
        return len({round(one - other, 9) for one, other in zip(ours, theirs, strict=True)}) > 1
    return any(len({round(one, 9) for one in group}) > 1 for group in (ours, theirs))


@dataclass(frozen=True)
class ModelsTest:
    """McNemar's exact test of two models on the same images."""

    seeds: tuple[int, int]
    first_alone: int
    """The number of images that only the first model classified correctly."""
    second_alone: int
    p: float
    """Two-sided p-value."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def models_test(seeds: tuple[int, int], first: NDArray[np.bool_], second: NDArray[np.bool_]) -> ModelsTest:
    """Test whether two models make errors equally often.

    Args:
        seeds: the seeds of the two models, which the result names.
        first: which images the first model classified correctly, bool (N,).
        second: the same of the second model, bool (N,).

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions", 1947; exact by
    the binomial distribution.
    """
    from scipy import stats  # noqa: PLC0415

    alone = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(stats.binomtest(alone[0], sum(alone)).pvalue) if sum(alone) else 1.0
    return ModelsTest(seeds, *alone, p)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for their number; None stays None and is not counted.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    order = sorted((p, place) for place, p in enumerate(values) if p is not None and not math.isnan(p))
    adjusted: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = highest
    return adjusted
