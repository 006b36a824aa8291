"""Calibrating a model on the images that a run kept out of training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilonet.data.datasets import Images
from kilonet.evaluation.calibration import CalibrationReport, calibrate_on
from kilonet.evaluation.negatives import Negatives, read_negatives
from kilonet.evaluation.scoring import matched_data
from kilonet.models.calibration import Calibration
from kilonet.models.model import load_model, model_path
from kilonet.training.run_data import check_negatives, data_of_run, divided
from kilonet.training.run_folder import Run, check_model, is_finished, read_result, read_run
from kilonet.utils.errors import KilonetError


@dataclass(frozen=True)
class Calibrated:
    """The calibration that was saved in a model's file. `str()` gives a line for each figure."""

    calibration: Calibration
    report: CalibrationReport
    negatives: Negatives | None
    rejected: bool
    """Whether the model's calibration until now rejected images."""

    def as_json(self) -> dict[str, Any]:
        """Return the calibration, with the report and the files that could not be read if there were negatives."""
        table = self.calibration.model_dump(mode="json")
        if self.negatives is None:
            return table
        skipped = [{"file": str(path), "reason": reason} for path, reason in self.negatives.skipped]
        return table | {"report": self.report.model_dump(mode="json"), "skipped": skipped}

    def __str__(self) -> str:
        calibration = self.calibration
        answer = "None of these" if calibration.rejects else "Uncertain"
        lines = [
            f"Temperature: {calibration.temperature:.4f}",
            f"{answer} below a probability of {100 * calibration.sure_from:.2f}%",
            f"Unlike the training images below an energy of {calibration.energy_from:.3f}",
        ]
        if self.rejected and not calibration.rejects:
            lines.append('No answer is "none of these" any more; --negatives FOLDER keeps it')
        return "\n".join([*lines, str(self.report)] if self.negatives else lines)


def calibrate(source: str, by: Path | None = None, negatives: Path | None = None) -> Calibrated:
    """Fit a calibration on the images that a run kept out of training, and save it in a model's file.

    A run calibrates its own model with the images that it kept aside or held out. For a model that was trained on all
    images, a run of the same recipe is used that kept some.

    Args:
        source: the model whose file is changed: a run folder or a model file.
        by: the folder of a finished run; None for that of the model.
        negatives: a folder of images of none of the classes, for "none of these".

    Raises:
        KilonetError: no such model or run, a run that kept no images, one whose data have changed since, one of another
            network, a run folder whose model was exchanged, negatives that are the run's own data, or too few images.
    """
    model = load_model(source)
    folder = model_path(source).parent
    if is_finished(folder):
        check_model(folder, read_result(folder), model)
    elif by is None:
        raise KilonetError(f"{source}: no run folder; name a run that kept images out of training with --by")
    run = read_run(by or folder)
    section = run.result.recipe.model
    if section.layers != model.section.layers or section.input_shape != model.section.input_shape:
        raise KilonetError(f"{by}: its network is not that of {source}")
    if negatives is not None:
        check_negatives(negatives, run.result.recipe.run.data)
    images = _images_kept(run, by or folder)
    others = None if negatives is None else read_negatives(negatives, model)
    calibration, report = calibrate_on(run.model, images, others)
    metadata = model.metadata.model_copy(update={"calibration": calibration})
    model.with_metadata(metadata).save(model_path(source))
    before = model.metadata.calibration
    return Calibrated(calibration, report, others, before is not None and bool(before.rejects))


def _images_kept(run: Run, folder: Path) -> Images:
    """Return the images that a run kept aside, or else those that it held out and scored."""
    own = run.result.recipe.run
    data = divided(
        matched_data(run.model, data_of_run(run.result, str(folder)).load(run.model.section, unchanged=True)), own
    )
    if data.validation is not None:
        return data.validation
    if not own.holdout:
        raise KilonetError(f"{folder}: trained on all images; calibrate by a run with --calibration 0.1 or --holdout")
    return data.test
