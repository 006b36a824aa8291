"""The data that a model was trained on and their changes, as far as they are known, for commands without `--data`."""

from pathlib import Path

from kilonet.data.datasets import DataSet, Images, load_data
from kilonet.data.listing import list_data
from kilonet.data.notices import silence
from kilonet.data.preprocessing import Preprocessing
from kilonet.data.section import AugmentSection
from kilonet.evaluation.scoring import images_to_score, matched_data
from kilonet.export.exported_model import ExportedModel
from kilonet.export.manifest import MANIFEST_FILE, Manifest, read_manifest
from kilonet.models.model import Classifier, packaged_models
from kilonet.training.run_data import KnownData, data_of_run
from kilonet.training.run_folder import is_finished, read_result
from kilonet.utils.errors import KilonetError

_PACKAGED = "mnist"
"""The data of the packaged models, and of any other model that reads digits and does not say more."""


def data_of(source: str | Path, model: Classifier) -> DataSet:
    """Load the data that a model was trained on, undivided, with the labels of the model's classes.

    Args:
        source: what the model was loaded from: a packaged name, a run folder, its model file, or an exported folder.
        model: the model.

    Raises:
        KilonetError: the data are not known, not there any more, or of other classes.
    """
    return matched_data(model, known_data(str(source), model).load(model.section, "--data names others"))


def scored_images(source: str | Path, model: Classifier, given: str | None, label_pattern: str | None = None) -> Images:
    """Return the images that a model is scored on, with the labels of its classes.

    Of the data that it was trained on these are the test images alone, wherever the data lie now.

    Args:
        source: as for `data_of`.
        model: the model.
        given: the data, as `load_data` takes them; None for those that the model was trained on. Of others that have no
            parts all images are scored.
        label_pattern: as for `load_data`, with `given`.

    Raises:
        KilonetError: the data are not known, not there any more, or of other classes.
    """
    if given is None:
        return data_of(source, model).test
    try:
        known = known_data(str(source), model)
    except KilonetError:
        return images_to_score(model, given, label_pattern)
    pattern = label_pattern or known.label_pattern
    preprocessing = Preprocessing.of(model.section)
    if not _is_same_place(given, known.source) and not _are_moved(known, given, pattern, preprocessing):
        return images_to_score(model, given, label_pattern)
    data = load_data(given, preprocessing, label_pattern=pattern)
    images = matched_data(model, data).test
    known.check(data)
    return images


def _are_moved(known: KnownData, given: str, label_pattern: str | None, preprocessing: Preprocessing) -> bool:
    """Return whether data without parts are the known ones, though they lie elsewhere; others would be scored whole."""
    if known.fingerprint is None:
        return False
    try:
        with silence():
            if set(list_data(given, label_pattern).parts) != {"all"}:
                return False
            return known.are(load_data(given, preprocessing, label_pattern=label_pattern))
    except KilonetError:
        return False


def _is_same_place(first: str, second: str) -> bool:
    return first == second or (Path(first).exists() and Path(second).exists() and Path(first).samefile(second))


def known_data(source: str, model: Classifier, remedy: str = "name them with --data") -> KnownData:
    """Return what is known of the data of a model.

    Args:
        source: as for `data_of`.
        model: as for `data_of`.
        remedy: what to do if nothing is known, for the message.

    Raises:
        KilonetError: nothing is known, and the model reads no digits.
    """
    path = Path(source)
    if folder := _run_folder(source):
        return data_of_run(read_result(folder), str(folder))
    if (
        source not in packaged_models()
        and path.is_dir()
        and (path / MANIFEST_FILE).is_file()
        and (known := data_of_export(read_manifest(path), source))
    ):
        return known
    if not model.reads_digits:
        raise KilonetError(f"what data {source} was trained on is not known; {remedy}")
    return KnownData(source, _PACKAGED)


def augment_of(source: str) -> AugmentSection | None:
    """Return the random changes of the images in a model's training; None if it is in no run folder.

    Args:
        source: as for `data_of`.
    """
    folder = _run_folder(source)
    return None if folder is None else read_result(folder).recipe.augment


def _run_folder(source: str) -> Path | None:
    """Return the run folder that a model was loaded from, or None."""
    path = Path(source)
    folder = path if path.is_dir() else path.parent
    return folder if source not in packaged_models() and path.exists() and is_finished(folder) else None


def data_of_export(manifest: Manifest, owner: str) -> KnownData | None:
    """Return what is known of the data on which a model was exported; None for folders of older versions."""
    return (
        None
        if manifest.data is None
        else KnownData(owner, manifest.data, manifest.data_sha256, label_pattern=manifest.label_pattern)
    )


def verification_images(folder: Path, given: str | None, label_pattern: str | None = None) -> Images:
    """Return the images on which an exported folder is verified; see `scored_images`.

    Raises:
        KilonetError: the folder is no exported one, or its data are not known, not there any more, or of other classes.
    """
    return scored_images(folder, ExportedModel(folder), given, label_pattern)
