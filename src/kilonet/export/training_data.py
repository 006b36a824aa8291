"""The data that a model was trained on and their changes, as far as they are known, for commands without `--data`."""

from pathlib import Path

from kilonet.data.datasets import DataSet, Images, load_data
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


def is_own_data(source: str | Path, model: Classifier, data: str) -> bool:
    """Return whether data are those that a model was trained on, of which only the test images may score it."""
    try:
        own = known_data(str(source), model).source
    except KilonetError:
        return False
    return own == data or (Path(data).exists() and Path(own).exists() and Path(data).samefile(own))


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
    """Return the images on which an exported folder is verified, with the labels of its classes.

    Args:
        folder: the exported folder.
        given: the data whose images are scored, all of them if they have no parts, as `kilonet evaluate --data` does;
            None for the test images of the data on which the folder was exported.
        label_pattern: as for `load_data`, with `given`.

    Raises:
        KilonetError: the folder is no exported one, or its data are not known, not there any more, or of other classes.
    """
    model = ExportedModel(folder)
    if given is not None and not is_own_data(folder, model, given):
        return images_to_score(model, given, label_pattern)
    if given is None:
        return data_of(folder, model).test
    data = load_data(given, Preprocessing.of(model.section), label_pattern=label_pattern)
    return matched_data(model, data).test
