"""Collect what a report or a card needs: the model, its run, the runs beside it, corruptions, exported sizes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from kilonet.data.datasets import Images
from kilonet.evaluation.scoring import matched_data
from kilonet.export.manifest import MANIFEST_FILE, read_manifest
from kilonet.export.training_data import known_data
from kilonet.models.model import MODEL_FILE, Model, load_model, packaged_models
from kilonet.report.subject import ExportedSizes, Robustness, Subject, is_result_of
from kilonet.training.run_data import data_of_run, divided
from kilonet.training.run_folder import Result, is_finished
from kilonet.training.run_records import RunRecord, read_printed_runs, read_run_folder, run_folders, run_name
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import read_bounded
from kilonet.utils.schema import first_complaint
from kilonet.utils.terminal import printable

CORRUPTIONS_FILE = "corruptions.json"
EXPORTED_FOLDER = "exported"
_MAXIMUM_BYTES = 16 << 20


@dataclass(frozen=True)
class ExtraFiles:
    """Files that are given beside the run folders."""

    results: Path | None = None
    """The output of `kilonet train --json`."""
    corruptions: Path | None = None
    """The output of `kilonet evaluate --corruptions --json`; None for the run folder's corruptions.json."""
    exported: Path | None = None
    """A folder that `kilonet export` wrote; None for the run folder's `exported`."""


def collect(sources: Sequence[str], extra: ExtraFiles | None = None, image_index: int = 0) -> Subject:
    """Collect everything known about the first source, and the runs of the others.

    Args:
        sources: run folders or folders of seeds; the first may also be any model.
        extra: further files.
        image_index: the image that is looked at closely.

    Raises:
        KilonetError: no such run, an unfinished run, data that have changed since, or a file that belongs to another
            model.
    """
    if not sources:
        raise KilonetError("no run given; name at least one run folder")
    extra = extra or ExtraFiles()
    first, *others = [place for source in sources for place in _models_and_runs(source)]
    model = load_model(first)
    # A packaged model has no folder, even where a folder has its name.
    home = None if first in packaged_models() else Path(first)
    own = read_run_folder(Path(first)) if _is_run(first) else None
    records = [*([own] if own else []), *(read_run_folder(Path(other)) for other in others)]
    if extra.results is not None:
        records += read_printed_runs(extra.results)
    records = [replace(record, name=printable(record.name)) for record in records]
    own = records[0] if own else None
    own = own or next((record for record in records if is_result_of(record.result, model)), None)
    if own is None and extra.results is not None:
        raise KilonetError(f"{extra.results}: none of its runs is that of {first}")
    return Subject(
        name=name_of(first),
        model=model,
        images=_scored_images(own, first, model),
        record=own,
        others=tuple(_distinct(records, own.result if own else None)),
        robustness=_read_robustness(extra.corruptions, home),
        exported=_read_sizes(extra.exported, home),
        image_index=image_index,
    )


def _models_and_runs(source: str) -> list[str]:
    """Return the run folders in a folder, the run folder of a model file in one, or the source itself."""
    path = Path(source)
    if path.name == MODEL_FILE and is_finished(path.parent):
        return [str(path.parent)]
    return [source] if source in packaged_models() else [str(folder) for folder in run_folders(path)] or [source]


def _is_run(source: str) -> bool:
    return source not in packaged_models() and is_finished(Path(source))


def name_of(source: str) -> str:
    """Return the name of a run or a model: its packaged name, or its folder's or file's name, in printable letters."""
    path = Path(source).resolve()
    if path.name == MODEL_FILE:
        path = path.parent
    return printable(run_name(path) if _is_run(source) else path.name.removesuffix(".safetensors"))


def _scored_images(own: RunRecord | None, source: str, model: Model) -> Images:
    known = data_of_run(own.result, own.name) if own else known_data(source, model, "give its run folder")
    data = matched_data(model, known.load(model.section, unchanged=True))
    return (divided(data, known.run) if known.run else data).test


def _distinct(records: Sequence[RunRecord], first: Result | None) -> Iterator[RunRecord]:
    """Yield the records whose result is neither the first nor that of a record before."""
    seen = {first.model_dump_json()} if first else set()
    for record in records:
        result = record.result.model_dump_json()
        if result not in seen:
            seen.add(result)
            yield record


def _read_robustness(given: Path | None, home: Path | None) -> Robustness | None:
    path = given or (home / CORRUPTIONS_FILE if home else None)
    if path is None or (given is None and not path.is_file()):
        return None
    content = read_bounded(path, _MAXIMUM_BYTES, "figures")
    if not content.strip():
        # What a shell leaves of `kilonet evaluate ... > corruptions.json` that was refused or interrupted.
        raise KilonetError(
            f"{path} is empty; remove it, or write it again with: kilonet evaluate MODEL --corruptions --json"
        )
    try:
        return Robustness.model_validate_json(content)
    except ValidationError as error:
        raise KilonetError(f"{path}: {first_complaint(error)}") from None


def _read_sizes(given: Path | None, home: Path | None) -> ExportedSizes | None:
    path = given or (home / EXPORTED_FOLDER if home else None)
    if path is None or (given is None and not (path / MANIFEST_FILE).is_file()):
        return None
    export = read_manifest(path)
    return ExportedSizes(export.model_sha256, export.forms)
