"""The statistics of two groups' differences, and of two models' on the same images."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kilonet.evaluation.statistics import mean_and_std
from kilonet.report.comparison.groups import Group

ALPHA = 0.05


@dataclass(frozen=True)
class SeedsTest:
    """A t-test of two groups' errors over their seeds."""

    kind: Literal["paired", "Welch"]
    """Paired by seed where both groups have the same seeds, otherwise Welch's."""
    difference: float
    """Mean errors of the second group less those of the first."""
    interval: tuple[float, float] | None
    p: float | None
    """Two-sided; None where there is nothing to test with: a single run, or runs that do not vary."""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def seeds_test(first: Group, second: Group) -> SeedsTest:
    """Test whether two groups differ in their mean errors.

    Source of the unpaired test: B. L. Welch, "The generalization of Student's problem", 1947.
    """
    ours, theirs = ([entry.errors for entry in group.entries] for group in (first, second))
    paired = first.seeds == second.seeds and len(set(first.seeds)) == len(first.seeds)
    kind: Literal["paired", "Welch"] = "paired" if paired else "Welch"
    difference = mean_and_std(theirs)[0] - mean_and_std(ours)[0]
    if not _varies(ours, theirs, paired=paired):
        return SeedsTest(kind, difference, None, None)
    tested = stats.ttest_rel(theirs, ours) if paired else stats.ttest_ind(theirs, ours, equal_var=False)
    low, high = tested.confidence_interval(1 - ALPHA)
    return SeedsTest(kind, difference, (float(low), float(high)), float(tested.pvalue))


def _varies(ours: Sequence[int], theirs: Sequence[int], *, paired: bool) -> bool:
    """Tell whether there is a spread to hold the difference against."""
    if min(len(ours), len(theirs)) < 2:
        return False
    if paired:
        return len({one - other for one, other in zip(ours, theirs, strict=True)}) > 1
    return len(set(ours)) > 1 or len(set(theirs)) > 1


@dataclass(frozen=True)
class ModelsTest:
    """McNemar's exact test of two models on the same images."""

    seeds: tuple[int, int]
    first_alone: int
    """Images that only the first model got right."""
    second_alone: int
    p: float
    """Two-sided."""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def models_test(seeds: tuple[int, int], first: NDArray[np.bool_], second: NDArray[np.bool_]) -> ModelsTest:
    """Test whether two models err equally often.

    Args:
        seeds: of the models, for the record.
        first: bool (N,), which images the first model got right.
        second: bool (N,), likewise.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions", 1947; exact by
    the binomial distribution.
    """
    alone = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(stats.binomtest(alone[0], sum(alone)).pvalue) if sum(alone) else 1.0
    return ModelsTest(seeds, *alone, p)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for their number; None stays None and is not counted.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    order = sorted((p, place) for place, p in enumerate(values) if p is not None and not math.isnan(p))
    adjusted: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = highest
    return adjusted
