"""Calibrating a model on the images that a run held out."""

from pathlib import Path

from kilonet.evaluation.calibration import fit_calibration
from kilonet.evaluation.scoring import matched_data
from kilonet.models.calibration import Calibration
from kilonet.models.model import load_model, model_path
from kilonet.training.run_data import data_of_run
from kilonet.training.run_folder import check_model, is_finished, read_result, read_run
from kilonet.utils.errors import KilonetError


def calibrate(source: str, by: Path) -> Calibration:
    """Fit a calibration on the images that a run held out, with that run's model, and save it in a model's file.

    A run with --holdout can calibrate its own model. For a model that was trained on all images, a run of the same
    recipe with --holdout is used. A line on stderr says if that run's data have changed since.

    Args:
        source: the model whose file is changed: a run folder or a model file.
        by: the folder of a finished run with --holdout.

    Returns:
        the fitted calibration.

    Raises:
        KilonetError: no such model or run, a run that held nothing out, one of another network, or a run folder whose
            model was exchanged.
    """
    model = load_model(source)
    folder = model_path(source).parent
    if is_finished(folder):
        check_model(folder, read_result(folder), model)
    run = read_run(by)
    recipe = run.result.recipe
    if not recipe.run.holdout:
        raise KilonetError(f"{by}: trained on all images; calibrate by a run with --holdout")
    if recipe.model.layers != model.section.layers or recipe.model.input_shape != model.section.input_shape:
        raise KilonetError(f"{by}: its network is not that of {source}")
    held = matched_data(run.model, data_of_run(run.result, str(by)).load(run.model.section)).hold_out().test
    calibration = fit_calibration(run.model.logits(held.pixels).numpy(), held.labels.numpy())
    metadata = model.metadata.model_copy(update={"calibration": calibration})
    model.with_metadata(metadata).save(model_path(source))
    return calibration
