"""Calibration as the command line does it: on the images that a run held out, kept in the model's file."""

from pathlib import Path

from kilonet.data.datasets import load_data
from kilonet.evaluation.calibration import fit_calibration
from kilonet.models.calibration import Calibration
from kilonet.models.model import load_model, model_path
from kilonet.training.run_folder import read_run
from kilonet.utils.errors import KilonetError


def calibrate(source: str, by: Path) -> Calibration:
    """Fit a calibration on the images that a run held out, by that run's model, and keep it in a model's file.

    A model trained on all images has held none out, so a run of the same network and training with --holdout stands in;
    a run with --holdout calibrates itself.

    Args:
        source: the model whose file is changed: a run folder or a file.
        by: a finished run with --holdout.

    Raises:
        KilonetError: nothing there, a run that held nothing out, or one of another network or training.
    """
    model = load_model(source)
    run = read_run(by)
    recipe = run.result.recipe
    if not recipe.run.holdout:
        raise KilonetError(f"{by}: trained on all images; calibrate by a run with --holdout")
    if recipe.model.layers != model.section.layers or recipe.model.input_shape != model.section.input_shape:
        raise KilonetError(f"{by}: its network is not that of {source}")
    held = load_data(recipe.run.data).hold_out().test
    calibration = fit_calibration(run.model.logits(held.pixels).numpy(), held.labels.numpy())
    metadata = model.metadata.model_copy(update={"calibration": calibration})
    model.with_metadata(metadata).save(model_path(source))
    return calibration


def described(calibration: Calibration) -> str:
    """Return the calibration in a line a dial."""
    lines = [
        f"Temperature: {calibration.temperature:.4f}",
        f"Uncertain below a probability of {100 * calibration.sure_from:.2f}%",
        f"Unlike the training images below an energy of {calibration.energy_from:.3f}",
    ]
    return "\n".join(lines)
