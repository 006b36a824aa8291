"""What the service knows of its model."""

from pathlib import Path

import kilonet
from kilonet.data.datasets import load_data
from kilonet.evaluation.scoring import evaluate
from kilonet.export.exported_model import ExportedModel
from kilonet.export.exporter import display_name
from kilonet.models.model import Classifier, Model, packaged_models
from kilonet.serve.schema import Accuracy, Card
from kilonet.training.run_folder import RESULT_FILE, read_result


def card_of(classifier: Model | ExportedModel, engine: Classifier, source: str) -> Card:
    """Describe a model.

    Args:
        classifier: the model.
        engine: what computes its logits here.
        source: what it was loaded from.
    """
    section, metadata = classifier.section, classifier.metadata
    return Card(
        name=display_name(source),
        parameters=section.parameters,
        layers=[str(placed.layer) for placed in section.placed],
        input=section.input_shape,
        classes=[metadata.name_of(label) for label in range(section.classes)],
        reads_digits=classifier.reads_digits,
        sha256=classifier.sha256,
        accuracy=_accuracy(engine, source),
        calibration=metadata.calibration,
        kilonet=kilonet.__version__,
    )


def _accuracy(engine: Classifier, source: str) -> Accuracy | None:
    """Score a model of the package, which is quickly done; of a run take its result."""
    if source in packaged_models():
        test = load_data("mnist").test
        return Accuracy(share=evaluate(engine, test).accuracy, images=len(test), of="MNIST's test images, as served")
    folder = Path(source)
    if not (folder / RESULT_FILE).is_file():
        return None
    result = read_result(folder)
    share = result.correct / result.scored_images
    return Accuracy(share=share, images=result.scored_images, of=f"{result.scored} images of {result.recipe.run.data}")
