"""What `GET /model` says of the served model."""

from pathlib import Path

import kilonet
from kilonet.data.datasets import load_data
from kilonet.data.preprocessing import preprocessing_facts
from kilonet.evaluation.scoring import evaluate
from kilonet.export.exported_model import ExportedModel
from kilonet.export.exporter import model_name
from kilonet.models.classes import class_names
from kilonet.models.model import Classifier, Model, packaged_models
from kilonet.report.subject import is_result_of
from kilonet.serve.schema import ModelAccuracy, ModelFacts
from kilonet.training.run_folder import RESULT_FILE, read_result


def describe_model(model: Model | ExportedModel, classifier: Classifier, source: str) -> ModelFacts:
    """Collect the facts about a model.

    Args:
        model: the model.
        classifier: the same network as the service computes it, which is scored.
        source: what the model was loaded from.
    """
    section, metadata = model.section, model.metadata
    return ModelFacts(
        name=model_name(source),
        parameters=section.parameters,
        layers=[str(placed.layer) for placed in section.placed],
        input=section.input_shape,
        classes=class_names(metadata, section.classes),
        reads_digits=model.reads_digits,
        preprocessing=preprocessing_facts(section, reads_digits=model.reads_digits),
        sha256=model.sha256,
        accuracy=_accuracy(model, classifier, source),
        calibration=metadata.calibration,
        kilonet=kilonet.__version__,
    )


def _accuracy(model: Model | ExportedModel, classifier: Classifier, source: str) -> ModelAccuracy | None:
    """Return the accuracy of a packaged model, scored here, or of a run, read from its result; None for all others.

    A result that is not of this model says nothing about it: the model's file may have been exchanged since.
    """
    if source in packaged_models():
        test = load_data("mnist").test
        share = evaluate(classifier, test).accuracy
        return ModelAccuracy(share=share, images=len(test), of="MNIST's test images, as served")
    folder = Path(source)
    if not (folder / RESULT_FILE).is_file():
        return None
    result = read_result(folder)
    if not (is_result_of(result, model) if isinstance(model, Model) else result.model_sha256 == model.sha256):
        return None
    share = result.correct / result.scored_images
    of = f"{result.scored} images of {result.recipe.run.data}"
    return ModelAccuracy(share=share, images=result.scored_images, of=of)
