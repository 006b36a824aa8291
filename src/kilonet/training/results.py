"""What `kilonet train --json` prints, and reading it again: runs whose folders need not be at hand."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kilonet.training.run_folder import EpochMetrics, Result, Run
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import read_bounded
from kilonet.utils.schema import first_complaint

_MAXIMUM_BYTES = 16 << 20


@dataclass(frozen=True)
class PrintedRun:
    """A run as it was printed."""

    folder: str
    """Where it was trained."""
    result: Result
    history: tuple[EpochMetrics, ...]
    """Empty where only the result is known."""


def as_printed(run: Run) -> dict[str, Any]:
    """Return a run as plain values."""
    history = [epoch.model_dump(mode="json") for epoch in run.history]
    return {"folder": str(run.folder), **run.result.model_dump(mode="json"), "history": history}


def read_printed(path: Path) -> list[PrintedRun]:
    """Read what was printed of one run or of several seeds.

    Raises:
        KilonetError: it is nothing of the kind.
    """
    try:
        table = json.loads(read_bounded(path, _MAXIMUM_BYTES, "results"))
        runs = table.get("runs", [table])
        if not runs:
            raise ValueError("no runs")
        return [_parsed(dict(run)) for run in runs]
    except ValidationError as error:
        raise KilonetError(f"{path}: no results of 'kilonet train --json': {first_complaint(error)}") from None
    except (AttributeError, TypeError, ValueError, RecursionError):
        raise KilonetError(f"{path}: no results of 'kilonet train --json'") from None


def _parsed(run: dict[str, Any]) -> PrintedRun:
    folder, history = str(run.pop("folder", "run")), run.pop("history", [])
    epochs = tuple(EpochMetrics.model_validate_json(json.dumps(epoch)) for epoch in history)
    return PrintedRun(folder, Result.model_validate_json(json.dumps(run)), epochs)
