"""The progress of a sweep on stderr: a live table in a terminal, a line a trial elsewhere."""

import sys
from types import TracebackType
from typing import Any

from ray.tune import Callback
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kilonet.evaluation.metrics import METRIC_NAMES
from kilonet.sweep.pareto import ParetoFront
from kilonet.sweep.trials import Trials
from kilonet.utils.terminal import counted, printable


class LiveTable(Callback):  # type: ignore[misc]
    """The running trials, the number of done ones, and the Pareto front so far."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials
        self._running: dict[int, tuple[int, str, str]] = {}
        self._front = ParetoFront.of(trials)
        objective = trials.objective
        self._measured = "holdout error" if objective == "accuracy" else f"holdout {METRIC_NAMES[objective]}"
        self._console = Console(stderr=True)
        self._live = Live(self._render(), console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "LiveTable":
        """Start drawing if stderr is a terminal."""
        print(
            f"{counted(self._trials.plan.search.trials, 'trial')}, in {printable(self._trials.plan.out)}",
            file=sys.stderr,
        )
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Remove the table; the command prints the final front to stdout."""
        if self._console.is_terminal:
            self._live.stop()

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its callbacks for a restart that sweeps do not use."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running[trial.config["number"]] = (trial.config["parameters"], "", "")
        self._live.update(self._render())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        error = result["error"]
        shown = error if self._trials.objective == "accuracy" else 1 - error
        figures = str(result["epoch"]), f"{100 * shown:.2f} %"
        self._running[trial.config["number"]] = (trial.config["parameters"], *figures)
        self._live.update(self._render())

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
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
        self._show_end(trial, how)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report a trial that lost its worker too often."""
        self._show_end(trial, "failed")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report a trial that lost its worker and goes on with another one."""
        self._console.print(
            f"trial {trial.config['number']} has lost its worker, and goes on with another", highlight=False
        )

    def _show_end(self, trial: Any, how: str) -> None:
        number = trial.config["number"]
        parameters, epoch, score = self._running.pop(number, (trial.config["parameters"], "", ""))
        self._front = ParetoFront.of(self._trials)
        if self._console.is_terminal:
            self._live.update(self._render())
            return
        figures = f"{parameters:,} parameters"
        figures += (
            f", {score} {self._measured} after {counted(int(epoch), 'epoch')}"
            if score and how in ("finished", "stopped")
            else ""
        )
        print(f"{self._progress()}: trial {number} {how}: {figures}", file=sys.stderr, flush=True)

    def _progress(self) -> str:
        done = sum(map(self._trials.is_done, self._trials.records))
        return f"{done}/{self._trials.plan.search.trials}"

    def _render(self) -> Group:
        epochs = self._trials.plan.search.epochs
        table = Table("trial", "parameters", "epoch", self._measured, title=f"{self._progress()} trials done")
        for number, (parameters, epoch, score) in sorted(self._running.items()):
            table.add_row(str(number), f"{parameters:,}", f"{epoch or 0}/{epochs}", score)
        return Group(Text(str(self._front), no_wrap=True, overflow="ellipsis"), table)
