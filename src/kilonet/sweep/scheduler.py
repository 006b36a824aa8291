"""Early stopping by successive halving among networks of about the same size."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from kilonet.sweep.plan import SearchSection
from kilonet.sweep.trials import Trials, error_of


class SizeGroupedASHA(FIFOScheduler):  # type: ignore[misc]
    """Asynchronous successive halving (ASHA) within groups of trials of similar size.

    A group holds the networks of one octave of the plan's first cost, such as parameters, so that no small network is
    stopped because large ones are more accurate.

    Source: L. Li, K. Jamieson and others, "A system for massively parallel hyperparameter tuning", 2020.
    """

    def __init__(self, search: SearchSection) -> None:
        super().__init__()
        self._octaves: dict[int, Any] = defaultdict(
            lambda: ASHAScheduler(
                metric="error",
                mode="min",
                max_t=search.epochs,
                grace_period=search.grace,
                reduction_factor=search.reduction,
                # A trial that lost its worker reports its epochs again; these reports must not stop it.
                stop_last_trials=False,
            )
        )

    def _octave(self, trial: Any) -> Any:
        return self._octaves[trial.config["cost"].bit_length()]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial to its group."""
        self._octave(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether a trial goes on or stops after an epoch."""
        decision: str = self._octave(trial).on_trial_result(tune_controller, trial, result)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Count the last epoch of a trial."""
        self._octave(trial).on_trial_complete(tune_controller, trial, result)

    def replay(self, trials: Trials, costs: dict[int, int]) -> None:
        """Replay the done trials of earlier sessions; `costs` maps a trial's number to its first cost."""
        for number in filter(trials.is_done, trials.records):
            stand_in = SimpleNamespace(trial_id=f"earlier {number}", config={"cost": costs[number]})
            self.on_trial_add(None, stand_in)
            for metrics in trials.history(number):
                error = error_of(metrics, trials.objective, trials.path(number))
                result = {"training_iteration": metrics.epoch + 1, "error": error}
                self.on_trial_result(None, stand_in, result)
