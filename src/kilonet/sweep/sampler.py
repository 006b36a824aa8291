"""Draws candidates for Ray Tune by Optuna, and rejects those over the budget before they become trials."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from kilonet.network.layers import Gap
from kilonet.recipe import Recipe
from kilonet.sweep.evolution import Child, Member, breed
from kilonet.sweep.plan import Plan
from kilonet.sweep.trials import TrialRecord, Trials
from kilonet.training.run_folder import is_finished
from kilonet.utils.errors import KilonetError

_TRIES = 2000
_TRIES_BY_MODEL = 30
"""After so many rejections in a row candidates are drawn uniformly: the model's region has no new ones left."""


class CandidateSampler(Searcher):  # type: ignore[misc]
    """Draws trials that minimise the plan's costs and the error, by Optuna's TPE sampler or by evolution.

    It learns from the done trials in the sweep's folder, and suggests the unfinished ones before it draws new ones.
    """

    def __init__(self, plan: Plan, trials: Trials) -> None:
        super().__init__(metric="error", mode="min")
        self._plan, self._trials = plan, trials
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(directions=["minimize"] * (1 + len(plan.search.costs)))
        self._drawn: set[tuple[object, ...]] = set()
        """What tells the trials apart, `_network_and_training` of each."""
        self._members: dict[int, Member] = {}
        self._waiting: list[tuple[int, Recipe, optuna.Trial]] = []
        self._running: dict[str, tuple[int, Recipe, optuna.Trial]] = {}
        self.costs: dict[int, int] = {}
        """The first cost of the trials of earlier sessions, by the trial's number."""
        self.exhausted = ""
        """Why the last draw was rejected, once no new candidate can be found; empty before."""
        self.failures: list[str] = []
        """Why trials could not be trained, a line each."""
        for number in trials.records:
            self._restore_trial(number)

    def _restore_trial(self, number: int) -> None:
        record = self._trials.records[number]
        recipe, draws = self._redraw(record)
        self._trials.check_run(number, recipe)
        self._drawn.add(_network_and_training(recipe))
        self.costs[number] = self._plan.first_cost(recipe)
        if self._trials.is_done(number):
            self._learn(number, recipe, draws, self._trials.error(number))
        else:
            self._waiting.append((number, recipe, draws))

    def _redraw(self, record: TrialRecord) -> tuple[Recipe, optuna.Trial]:
        """Draw the values of a record again.

        Raises:
            KilonetError: they are no values that this plan draws; names the record's file.
        """
        self._study.enqueue_trial(record.draws)
        draws = self._study.ask()
        try:
            with warnings.catch_warnings():
                # Optuna warns of a value outside its range, and uses it.
                warnings.simplefilter("error", UserWarning)
                recipe = self._plan.candidate(draws, record.layers)
            if self._plan.search.sampler == "tpe" and (record.layers or record.parent):
                raise ValueError("a trial of an evolution")
            if record.parent is not None and record.parent >= record.number:
                raise ValueError(f"its parent is trial {record.parent}")
            for name in draws.params.keys() | record.draws.keys():
                drawn, recorded = draws.params.get(name), record.draws.get(name)
                if type(drawn) is not type(recorded) or drawn != recorded:
                    raise ValueError(f"{name}: {recorded} in place of {drawn}")
        except (KilonetError, ValueError, OverflowError, UserWarning) as error:
            path = self._trials.record_path(record.number)
            reason = " ".join(str(error).split())
            drop = self._trials.how_to_drop(record.number)
            raise KilonetError(f"{path}: its draws are none of this sweep's ({reason}); {drop}") from None
        return recipe, draws

    def suggest(self, trial_id: str) -> Any:
        """Return the configuration of the next trial for `worker.train`, or `Searcher.FINISHED` if there is none."""
        suggestion = self._waiting.pop(0) if self._waiting else self._draw()
        if suggestion is None:
            return Searcher.FINISHED
        self._running[trial_id] = suggestion
        number, recipe, _ = suggestion
        return configuration(self._trials, number, recipe)

    def _learn(self, number: int, recipe: Recipe, draws: optuna.Trial, error: float) -> None:
        """Take what a trial ended with into account for later ones."""
        objectives = [error, *self._plan.costs_of(recipe)]
        self._study.tell(draws, objectives)
        record = self._trials.records[number]
        if is_finished(self._trials.path(number)):
            self._members[number] = Member(record, recipe, tuple(objectives))

    def _draw(self) -> tuple[int, Recipe, optuna.Trial] | None:
        reason = ""
        number = self._trials.next_number
        # A seed a trial: a sweep that is killed and continued draws what it would have drawn.
        seed = _seed(self._plan.search.seed, number)
        model, uniform = _sampler(seed), optuna.samplers.RandomSampler(seed)
        evolves, generator = self._plan.search.sampler == "evolution", np.random.default_rng(seed)
        child = Child(None, None, {})
        for attempt in range(_TRIES):
            self._study.sampler = uniform if evolves or attempt >= _TRIES_BY_MODEL else model
            try:
                if evolves:
                    child = breed(self._plan, self._members, number, generator)
            except KilonetError as error:
                reason = str(error)
                continue
            if child.draws:
                self._study.enqueue_trial(dict(child.draws))
            draws = self._study.ask()
            try:
                recipe = self._plan.candidate(draws, child.layers)
                candidate = _network_and_training(recipe)
                if candidate in self._drawn:
                    raise KilonetError("drawn before")
            except KilonetError as error:
                reason = str(error)
                self._study.tell(draws, state=TrialState.FAIL)
                continue
            self._drawn.add(candidate)
            return self._trials.add(draws.params, child.layers, child.parent).number, recipe, draws
        self.exhausted = (
            f"none of {_TRIES:,} candidates fits: widen the budget, or what is drawn; the last one: {reason}"
        )
        return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass the result of a trial to Optuna, and record how the trial ended."""
        number, recipe, draws = self._running.pop(trial_id)
        if error or not result or result["failure"]:
            self._study.tell(draws, state=TrialState.FAIL)
            self.failures.append(f"trial {number}: {result['failure'] if result else 'it keeps losing its worker'}")
            return
        if result["diverged"]:
            self._trials.end(number, "diverged")
        elif not self._trials.is_done(number):
            self._trials.end(number, "stopped")
        self._learn(number, recipe, draws, result["error"])

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the sweep's folder has everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


def configuration(trials: Trials, number: int, recipe: Recipe) -> dict[str, Any]:
    """Return the configuration that is sent to a trial's worker."""
    plan, parent = trials.plan, trials.records[number].parent
    return {
        "number": number,
        "folder": str(trials.path(number)),
        "started_in": str(Path.cwd()),
        "recipe": json.dumps(recipe.model_dump(mode="json", exclude_none=True)),
        "parameters": recipe.model.parameters,
        "cost": plan.first_cost(recipe),
        "parent": str(trials.path(parent)) if parent and plan.search.inherit else None,
        "objective": trials.objective,
    }


def _network_and_training(recipe: Recipe) -> tuple[object, ...]:
    """Return what decides how a trial ends: the same for layers that compute the same in other words."""
    # The average of maps of one value computes nothing.
    layers = [
        layer for layer in recipe.model.placed if not (isinstance(layer.layer, Gap) and layer.input_shape[1:] == (1, 1))
    ]
    places = {layer.number: place for place, layer in enumerate(layers)}
    network = tuple((places[layer.owner], layer.layer.residual, layer.operations) for layer in layers)
    return network, recipe.model_copy(update={"model": recipe.model.model_copy(update={"layers": ()})})


def _seed(search_seed: int, number: int) -> int:
    """Return the seed of a trial's draw."""
    return int(np.random.SeedSequence((search_seed, number)).generate_state(1)[0])


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    """Return a TPE sampler: multivariate, in groups of values that occur together, aware of running trials."""
    with warnings.catch_warnings():
        # Optuna still calls `multivariate` and `group` experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
