"""Ageing evolution: new trials are changed copies of good ones among the youngest.

Source: E. Real and others, "Regularized evolution for image classifier architecture search", 2019. With several
objectives the best of a sample is that of randomly weighted ranks, after B. Paria and others, "A flexible framework for
multi-objective Bayesian optimization using random scalarizations", 2019.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from scipy.stats import rankdata

from kilonet.recipe import Recipe
from kilonet.sweep.mutations import mutate
from kilonet.sweep.plan import Plan
from kilonet.sweep.trials import TrialRecord

_KEY_SHARE = 0.25
"""How often a child differs from its parent in a recipe key, where keys are searched, and not in its layers."""
_MOST_FIRST_MOVES = 4
"""The most moves between the base recipe's layers and a first trial's, where no layers are given to draw from."""


@dataclass(frozen=True)
class Member:
    """A finished trial that may be a parent."""

    record: TrialRecord
    recipe: Recipe
    objectives: tuple[float, ...]
    """All of them are minimised."""


@dataclass(frozen=True)
class Child:
    """What a new trial takes from an earlier one."""

    layers: tuple[str, ...] | None
    """None for layers that are to be drawn."""
    parent: int | None
    draws: Mapping[str, Any]
    """The values of recipe keys that are not drawn anew."""


def breed(plan: Plan, members: Mapping[int, Member], number: int, generator: Generator) -> Child:
    """Return what the trial of a number takes from an earlier one.

    Args:
        plan: the search.
        members: the finished trials, by number.
        number: that of the new trial.
        generator: draws the parent and the move.

    Raises:
        KilonetError: the drawn move cannot be made.
    """
    base = plan.base.model
    if number <= plan.search.population or not members:
        if plan.lines:
            return Child(None, None, {})
        layers = base.layers
        for _ in range(int(generator.integers(_MOST_FIRST_MOVES + 1))):
            layers = mutate(layers, base.input_shape, generator)
        return Child(layers, None, {})
    parent = _parent(plan, members, generator)
    draws = {key: value for key, value in parent.record.draws.items() if key in plan.keys}
    layers = parent.recipe.model.layers
    if draws and generator.random() < _KEY_SHARE:
        del draws[list(draws)[int(generator.integers(len(draws)))]]
    else:
        layers = mutate(layers, base.input_shape, generator)
    return Child(layers, parent.record.number, draws)


def _parent(plan: Plan, members: Mapping[int, Member], generator: Generator) -> Member:
    youngest = [members[number] for number in sorted(members)[-plan.search.population :]]
    places = generator.permutation(len(youngest))[: plan.search.sample].tolist()
    sample: list[Member] = [youngest[place] for place in places]
    ranks = rankdata(np.array([member.objectives for member in sample]), axis=0)
    weights = generator.dirichlet(np.ones(ranks.shape[1]))
    best = int(np.argmin(ranks @ weights))
    return sample[best]
