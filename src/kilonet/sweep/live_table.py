"""Progress of a sweep: one live table in a terminal, a line a trial in a log."""

import sys
from types import TracebackType
from typing import Any

from ray.tune import Callback
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kilonet.sweep.pareto import Front
from kilonet.sweep.trials import Trials


class LiveTable(Callback):  # type: ignore[misc]
    """Trials at work, how many are done, and the front so far."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials
        self._running: dict[int, tuple[int, str, str]] = {}
        self._front = Front.of(trials)
        self._console = Console(stderr=True)
        self._live = Live(self._drawn(), console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "LiveTable":
        """Begin to draw, if there is a terminal to draw in."""
        print(f"{self._trials.plan.search.trials} trials, in {self._trials.plan.out}", file=sys.stderr)
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take the table away; the front that is printed afterwards stays."""
        if self._console.is_terminal:
            self._live.stop()

    def __getstate__(self) -> dict[str, Any]:
        """Keep nothing: Tune writes its callbacks down for a restart of its own, which never happens."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins."""
        self._running[trial.config["number"]] = (trial.config["parameters"], "", "")
        self._live.update(self._drawn())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has finished an epoch."""
        figures = str(result["epoch"]), f"{100 * result['error']:.2f} %"
        self._running[trial.config["number"]] = (trial.config["parameters"], *figures)
        self._live.update(self._drawn())

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended."""
        result = trial.last_result
        finished = result["epoch"] == self._trials.plan.search.epochs
        how = (
            "failed"
            if result["failure"]
            else "diverged"
            if result["diverged"]
            else "finished"
            if finished
            else "stopped"
        )
        self._ended(trial, how)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has lost its worker once too often."""
        self._ended(trial, "failed")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has lost its worker and is to go on with another."""
        self._console.print(
            f"trial {trial.config['number']} has lost its worker, and goes on with another", highlight=False
        )

    def _ended(self, trial: Any, how: str) -> None:
        number = trial.config["number"]
        parameters, epoch, error = self._running.pop(number, (trial.config["parameters"], "", ""))
        self._front = Front.of(self._trials)
        if self._console.is_terminal:
            self._live.update(self._drawn())
            return
        figures = f"{parameters:,} parameters"
        figures += f", {error} holdout error after {epoch} epochs" if how in ("finished", "stopped") else ""
        print(f"{self._progress()}: trial {number} {how}: {figures}", file=sys.stderr, flush=True)

    def _progress(self) -> str:
        done = sum(map(self._trials.is_done, self._trials.records))
        return f"{done}/{self._trials.plan.search.trials}"

    def _drawn(self) -> Group:
        epochs = self._trials.plan.search.epochs
        table = Table("trial", "parameters", "epoch", "holdout error", title=f"{self._progress()} trials done")
        for number, (parameters, epoch, error) in sorted(self._running.items()):
            table.add_row(str(number), f"{parameters:,}", f"{epoch or 0}/{epochs}", error)
        return Group(Text(str(self._front), no_wrap=True, overflow="ellipsis"), table)
