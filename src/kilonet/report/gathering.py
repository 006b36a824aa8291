"""From names on the command line to what is known of a model: its run, the runs beside it, what else was measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from kilonet.data.datasets import Images, load_data
from kilonet.models.model import MODEL_FILE, load_model, packaged_models
from kilonet.recipe import RunSection
from kilonet.report.subject import Record, Robustness, Shipped, Subject, is_model_of
from kilonet.training.results import read_printed
from kilonet.training.run_folder import RESULT_FILE, Result, read_history, read_result, seed_of
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import read_bounded
from kilonet.utils.schema import first_complaint

CORRUPTIONS_FILE = "corruptions.json"
EXPORTED_FOLDER = "exported"
_MAXIMUM_BYTES = 16 << 20


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


def subject_of(sources: Sequence[str], evidence: Evidence) -> Subject:
    """Gather what is known of the first source, and the records of the others.

    Raises:
        KilonetError: no such run, nothing finished, or evidence that is another model's.
    """
    if not sources:
        raise KilonetError("no run given; name at least one run folder")
    first, *others = [place for source in sources for place in _places(source)]
    model = load_model(first)
    # A packaged model has no folder, even where one of its name lies about.
    home = None if first in packaged_models() else Path(first)
    records = [*_records(first), *(record for other in others for record in _records(other, needed=True))]
    own = records[0] if _is_run(first) else None
    if evidence.results is not None:
        records += read_records(evidence.results)
    own = own or next((record for record in records if is_model_of(record.result, model)), None)
    if own is None and evidence.results is not None:
        raise KilonetError(f"{evidence.results}: none of its runs is that of {first}")
    return Subject(
        name=name_of(first),
        model=model,
        images=_scored(own),
        record=own,
        companions=_without_repetition(records, own),
        robustness=_robustness(evidence.corruptions, home),
        shipped=_shipped(evidence.exported, home),
        digit=evidence.digit,
    )


def _places(source: str) -> list[str]:
    """Return the run folders in a folder of `kilonet train --seeds`, a model file's own, or the source itself."""
    folder = Path(source)
    if folder.name == MODEL_FILE and (folder.parent / RESULT_FILE).is_file():
        return [str(folder.parent)]
    if source in packaged_models() or not folder.is_dir() or (folder / RESULT_FILE).is_file():
        return [source]
    seeds = {seed: path for path in folder.iterdir() if path.is_dir() and (seed := seed_of(path)) is not None}
    return [str(seeds[seed]) for seed in sorted(seeds)] or [source]


def _is_run(source: str) -> bool:
    return source not in packaged_models() and (Path(source) / RESULT_FILE).is_file()


def name_of(source: str) -> str:
    """Return what to call a run or a model: its packaged name, its folder's or its file's."""
    path = Path(source).resolve()
    if path.name == MODEL_FILE:
        path = path.parent
    return _name_of_path(str(path)) if _is_run(source) else path.name.removesuffix(".safetensors")


def _records(source: str, *, needed: bool = False) -> list[Record]:
    if not needed and not _is_run(source):
        return []
    folder = Path(source)
    return [Record(name_of(source), read_result(folder), read_history(folder))]


def read_records(path: Path) -> list[Record]:
    """Read what `kilonet train --json` printed, of one run or of several seeds.

    Raises:
        KilonetError: it is nothing of the kind.
    """
    return [Record(_name_of_path(run.folder), run.result, run.history) for run in read_printed(path)]


def _name_of_path(name: str) -> str:
    path = Path(name)
    seed = seed_of(path)
    return path.name if seed is None else f"{path.parent.name}, seed {seed}"


def _scored(own: Record | None) -> Images:
    run = own.result.recipe.run if own else RunSection()
    return load_data(run.data, holdout=run.holdout).test


def _without_repetition(records: Sequence[Record], own: Record | None) -> tuple[Record, ...]:
    """Leave out what was named twice, and the subject's own run."""
    seen = [own.result] if own else []
    return tuple(_new(records, seen))


def _new(records: Sequence[Record], seen: list[Result]) -> Iterator[Record]:
    for record in records:
        if record.result not in seen:
            seen.append(record.result)
            yield record


def _robustness(given: Path | None, home: Path | None) -> Robustness | None:
    path = given or (home / CORRUPTIONS_FILE if home else None)
    if path is None or (given is None and not path.is_file()):
        return None
    try:
        return Robustness.model_validate_json(read_bounded(path, _MAXIMUM_BYTES, "figures"))
    except ValidationError as error:
        raise KilonetError(f"{path}: {first_complaint(error)}") from None


def _shipped(given: Path | None, home: Path | None) -> Shipped | None:
    from kilonet.export import manifest  # noqa: PLC0415 - only where something may have been exported

    path = given or (home / EXPORTED_FOLDER if home else None)
    if path is None or (given is None and not (path / manifest.DESCRIPTION_FILE).is_file()):
        return None
    export = manifest.read(path)
    return Shipped(export.model_sha256, export.forms)
