"""From logits to a prediction."""

import numpy as np
import pytest

from helpers import refusal
from kilonet.data.digits.prepare import BLOB, PreparedImage
from kilonet.models.calibration import Calibration
from kilonet.models.metadata import Metadata
from kilonet.models.prediction import STRANGE, Prediction, predictions_of
from kilonet.utils.errors import KilonetError

PIXELS = np.zeros((28, 28), np.uint8)
CALIBRATION = Calibration(temperature=2.0, sure_from=0.8, energy_from=3.0)
METADATA = Metadata(calibration=CALIBRATION)


def prediction(
    logits: list[float], metadata: Metadata = METADATA, objection: str | None = None, *, digits: bool = True
) -> Prediction:
    image = PreparedImage(PIXELS, objection)
    (found,) = predictions_of(np.array([logits], np.float32), [image], metadata, digits=digits)
    return found


def test_a_sure_prediction() -> None:
    found = prediction([0.0, 10.0, 0.0])
    assert (found.label, found.name, found.uncertain, found.objection) == (1, "1", False, None)
    assert found.probability == pytest.approx(1 / (1 + 2 * np.exp(-5)), rel=1e-5)
    assert str(found) == "1 (98.67%)"
    assert found.pixels is PIXELS


def test_a_doubtful_prediction_says_so() -> None:
    found = prediction([0.0, 4.0, 3.0])
    assert (found.label, found.uncertain) == (1, True)
    assert str(found).endswith("%, uncertain)")


def test_an_objection_is_no_digit() -> None:
    found = prediction([0.0, 10.0, 0.0], objection=BLOB)
    assert (found.label, found.name, found.uncertain) == (None, None, True)
    assert str(found) == f"no digit ({BLOB})"
    table = found.as_json()
    assert (table["class"], table["probability"], table["no_digit"]) == (None, None, BLOB)
    assert len(table["probabilities"]) == 3


def test_what_is_strange_is_no_digit_or_an_uncertain_class() -> None:
    assert prediction([-9.0, 1.0, -9.0]).objection == STRANGE
    found = prediction([-9.0, 1.0, -9.0], digits=False)
    assert (found.label, found.uncertain, found.objection) == (1, True, None)
    given = PreparedImage(PIXELS, as_given=True)
    (found,) = predictions_of(np.array([[-9.0, 1.0, -9.0]], np.float32), [given], METADATA, digits=True)
    assert (found.label, found.uncertain, found.objection) == (1, True, None)


def test_classes_have_their_names() -> None:
    found = prediction([0.0, 0.0, 10.0], Metadata(names=("cat", "dog", "fox")))
    assert (found.label, found.name) == (2, "fox")
    assert str(found).startswith("fox (")


def test_a_model_without_a_calibration_is_uncertain_below_nine_tenths() -> None:
    assert prediction([0.0, 2.0], Metadata()).uncertain
    assert not prediction([0.0, 2.5], Metadata()).uncertain
    assert prediction([-50.0, -50.0], Metadata()).objection is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metadata", [METADATA, Metadata()])
def test_no_answer_is_made_of_logits_that_are_not_finite(bad: float, metadata: Metadata) -> None:
    """NaN is less than no threshold, so it would be a sure answer."""
    with pytest.raises(KilonetError) as error:
        prediction([0.0, bad, 1.0], metadata)
    refusal(error, "NaN or infinity for 1 of 1 images")


def test_finite_logits_of_any_size_are_answered() -> None:
    most = float(np.finfo(np.float32).max)
    assert prediction([-most, most, 0.0], Metadata()).probabilities == (0.0, 1.0, 0.0)
    with pytest.raises(KilonetError):
        prediction([-most, most, 0.0], Metadata(calibration=Calibration(temperature=0.5)))
