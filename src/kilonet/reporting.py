"""Reports as the command line does them: finding the run, its companions and what else was measured of it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from kilonet.datasets import Images, load_data
from kilonet.errors import KilonetError
from kilonet.files import read_bounded, write_atomically
from kilonet.model import MODEL_FILE, load, packaged_models
from kilonet.recipe import RunSection, Section
from kilonet.runs import RESULT_FILE, EpochMetrics, Result, read_history, read_result

if TYPE_CHECKING:
    from kilonet.report import Record, Shipped, Subject

CORRUPTIONS_FILE = "corruptions.json"
EXPORTED_FOLDER = "exported"
_MAXIMUM_BYTES = 16 << 20

S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Evidence:
    """What the command line was told beside the runs; None is looked for in the run folder."""

    results: Path | None = None
    """What `kilonet train --json` printed."""
    corruptions: Path | None = None
    """What `kilonet evaluate --corruptions --json` printed."""
    exported: Path | None = None
    """What `kilonet export` wrote."""
    digit: int = 0


@dataclass(frozen=True)
class Report:
    """What was written. `str()` gives the line that `kilonet report` prints."""

    path: Path
    size: int
    """Bytes."""
    runs: int
    """How many records it tells of."""

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"file": str(self.path), "bytes": self.size, "runs": self.runs}

    def __str__(self) -> str:
        """Return the line."""
        return f"Report: {self.path}, {self.size:,} bytes, to be opened in any browser, offline too"


def report(sources: Sequence[str], out: Path, evidence: Evidence) -> Report:
    """Write a report on the first source, the others beside it.

    Raises:
        KilonetError: no such run, nothing finished, evidence that is another model's, or the extra `report` missing.
    """
    try:
        from kilonet.report import report_html  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise KilonetError(f"{error.name} is not installed; get it by: pip install 'kilonet[report]'") from None
    if out.is_dir():
        raise KilonetError(f"{out} is a folder; --out names the file to write")
    subject = subject_of(sources, evidence)
    content = report_html(subject).encode()
    write_atomically(out, content)
    return Report(out, len(content), len(subject.companions) + (subject.record is not None))


def subject_of(sources: Sequence[str], evidence: Evidence) -> "Subject":
    """Gather what is known of the first source, and the records of the others.

    Raises:
        KilonetError: as `report` does.
    """
    from kilonet.report import Robustness, Subject, is_model_of  # noqa: PLC0415

    if not sources:
        raise KilonetError("no run given; name at least one run folder")
    first, *others = [place for source in sources for place in _places(source)]
    model = load(first)
    records = [*_records(first), *(record for other in others for record in _records(other, needed=True))]
    own = records[0] if _is_run(first) else None
    if evidence.results is not None:
        records += read_records(evidence.results)
    own = own or next((record for record in records if is_model_of(record.result, model)), None)
    if own is None and evidence.results is not None:
        raise KilonetError(f"{evidence.results}: none of its runs is that of {first}")
    return Subject(
        name=_name(first),
        model=model,
        images=_scored(own),
        record=own,
        companions=_without_repetition(records, own),
        robustness=_found(Robustness, evidence.corruptions, Path(first) / CORRUPTIONS_FILE),
        shipped=_shipped(evidence.exported, Path(first) / EXPORTED_FOLDER),
        digit=evidence.digit,
    )


def _places(source: str) -> list[str]:
    """Return the run folders in a folder that `kilonet train --seeds` wrote, or the source itself."""
    folder = Path(source)
    if source in packaged_models() or not folder.is_dir() or (folder / RESULT_FILE).is_file():
        return [source]
    seeds = [path for path in folder.glob("seed*") if path.name[4:].isdecimal() and path.is_dir()]
    return [str(path) for path in sorted(seeds, key=lambda path: int(path.name[4:]))] or [source]


def _is_run(source: str) -> bool:
    return source not in packaged_models() and (Path(source) / RESULT_FILE).is_file()


def _name(source: str) -> str:
    path = Path(source).resolve()
    if path.name == MODEL_FILE:
        path = path.parent
    if path.name.startswith("seed") and path.name[4:].isdecimal() and _is_run(source):
        return f"{path.parent.name}, seed {path.name[4:]}"
    return path.name.removesuffix(".safetensors")


def _records(source: str, *, needed: bool = False) -> "list[Record]":
    from kilonet.report import Record  # noqa: PLC0415

    if not needed and not _is_run(source):
        return []
    folder = Path(source)
    return [Record(_name(source), read_result(folder), read_history(folder))]


def read_records(path: Path) -> "list[Record]":
    """Read what `kilonet train --json` printed, of one run or of several seeds.

    Raises:
        KilonetError: it is nothing of the kind.
    """
    try:
        table = json.loads(read_bounded(path, _MAXIMUM_BYTES, "results"))
        runs = table.get("runs", [table])
        if not runs:
            raise ValueError("it has no runs")
        return [_parsed(dict(run)) for run in runs]
    except ValidationError as error:
        raise KilonetError(f"{path}: {_first(error)}; is it what 'kilonet train --json' printed?") from None
    except (AttributeError, TypeError, ValueError, RecursionError):
        raise KilonetError(f"{path}: not what 'kilonet train --json' prints") from None


def _parsed(run: dict[str, Any]) -> "Record":
    from kilonet.report import Record  # noqa: PLC0415

    name, history = str(run.pop("folder", "run")), run.pop("history", [])
    result = Result.model_validate_json(json.dumps(run))
    epochs = tuple(EpochMetrics.model_validate_json(json.dumps(epoch)) for epoch in history)
    return Record(_name_of_path(name), result, epochs)


def _name_of_path(name: str) -> str:
    path = Path(name)
    return f"{path.parent.name}, seed {path.name[4:]}" if path.name[4:].isdecimal() else path.name


def _scored(own: "Record | None") -> Images:
    run = own.result.recipe.run if own else RunSection()
    data = load_data(run.data)
    return data.hold_out().test if run.holdout else data.test


def _without_repetition(records: "Sequence[Record]", own: "Record | None") -> "tuple[Record, ...]":
    """Leave out what was named twice, and the subject's own run."""
    seen = [own.result] if own else []
    return tuple(_new(records, seen))


def _new(records: "Sequence[Record]", seen: list[Result]) -> "Iterator[Record]":
    for record in records:
        if record.result not in seen:
            seen.append(record.result)
            yield record


def _found(kind: type[S], given: Path | None, usual: Path) -> S | None:
    path = given or usual
    if given is None and not usual.is_file():
        return None
    try:
        return kind.model_validate_json(read_bounded(path, _MAXIMUM_BYTES, "figures"))
    except ValidationError as error:
        raise KilonetError(f"{path}: {_first(error)}") from None


def _shipped(given: Path | None, usual: Path) -> "Shipped | None":
    from kilonet.report import Shipped  # noqa: PLC0415
    from kilonet.ship import description  # noqa: PLC0415

    if given is None and not (usual / description.DESCRIPTION_FILE).is_file():
        return None
    export = description.read(given or usual)
    return Shipped(export.model_sha256, export.forms)


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
