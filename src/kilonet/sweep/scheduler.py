"""Early stopping by successive halving among networks of about the same size."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from kilonet.sweep.plan import SearchSection
from kilonet.sweep.trials import Trials


class HalvingBySize(FIFOScheduler):  # type: ignore[misc]
    """An ASHA scheduler for each octave of parameters: a small network is not stopped for not being a large one.

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
                # What one trial is told again after its worker's death must not stop it anew.
                stop_last_trials=False,
            )
        )

    def _octave(self, trial: Any) -> Any:
        return self._octaves[trial.config["parameters"].bit_length()]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Put a trial among its like."""
        self._octave(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial goes on after an epoch."""
        decision: str = self._octave(trial).on_trial_result(tune_controller, trial, result)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Count a trial's last epoch."""
        self._octave(trial).on_trial_complete(tune_controller, trial, result)

    def remember(self, trials: Trials, parameters: dict[int, int]) -> None:
        """Tell the trials of earlier sessions that need no more training; parameters by number."""
        for number in filter(trials.is_done, trials.records):
            stand_in = SimpleNamespace(trial_id=f"earlier {number}", config={"parameters": parameters[number]})
            self.on_trial_add(None, stand_in)
            for metrics in trials.history(number):
                result = {"training_iteration": metrics.epoch + 1, "error": 1 - metrics.test_accuracy}
                self.on_trial_result(None, stand_in, result)
