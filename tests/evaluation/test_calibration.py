"""Calibration: a temperature that makes confidence mean what it says, and bounds that hold on their own images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers import refusal
from kilonet.evaluation.calibration import fit_calibration, fit_rejection, fit_temperature
from kilonet.models.calibration import GREATEST_TEMPERATURE, LEAST_TEMPERATURE, Calibration, energies
from kilonet.utils.errors import KilonetError

Logits = NDArray[np.float32]


def drawn(temperature: float, count: int = 20_000) -> tuple[Logits, NDArray[np.int64]]:
    """Logits, and labels drawn with the probabilities that they give at a temperature."""
    random = np.random.default_rng(5)
    logits = random.normal(0, 3, (count, 10)).astype(np.float32)
    # Gumbel's trick draws from a softmax.
    labels = (logits / temperature + random.gumbel(size=logits.shape)).argmax(1)
    return logits, labels.astype(np.int64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 4.0])
def test_the_temperature_behind_the_labels_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.05)


def test_no_other_temperature_has_a_lower_cross_entropy() -> None:
    logits, labels = drawn(1.7, 2000)

    def loss(temperature: float) -> float:
        scaled = logits.astype(float) / temperature
        return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(labels)), labels]).mean())

    best = fit_temperature(logits, labels)
    assert loss(best) < min(loss(best * 0.99), loss(best * 1.01))


def test_a_temperature_stays_within_its_bounds() -> None:
    logits, _ = drawn(1.0, 1000)
    best = logits.argmax(1)
    assert fit_temperature(logits, best) == LEAST_TEMPERATURE, "always right: as sure as possible"
    assert fit_temperature(logits, (best + 1) % 10) == GREATEST_TEMPERATURE, "never right: as unsure as possible"


def test_answers_that_are_sure_are_nearly_always_right() -> None:
    logits, labels = drawn(1.0)
    fitted = fit_calibration(logits * 4, labels)
    confidence = fitted.probabilities(logits * 4)
    sure = confidence.max(1) >= fitted.sure_from
    right = confidence.argmax(1) == labels
    assert right[sure].mean() >= 0.999
    assert 0.01 < sure.mean() < 0.9
    # As low as it goes: one more answer, the next most sure, would break the promise in the long run.
    assert right[~sure].mean() < 0.999


def test_two_in_a_thousand_are_strange() -> None:
    logits, labels = drawn(1.0)
    fitted = fit_calibration(logits, labels)
    assert fitted.energy_from is not None
    assert (energies(logits) < fitted.energy_from).mean() == pytest.approx(0.002, abs=1e-4)


def test_a_network_that_is_never_right_is_never_sure() -> None:
    logits, labels = drawn(1.0, 1000)
    assert fit_calibration(logits, (logits.argmax(1) + 1) % 10).sure_from == 1.0
    assert len(labels) == 1000


def test_too_few_images_are_refused() -> None:
    with pytest.raises(KilonetError) as error:
        fit_calibration(*drawn(1.0, 19))
    refusal(error, "19", "20")


@given(
    logits=st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=5),
    temperature=st.floats(0.02, 50),
)
def test_probabilities_are_probabilities_in_the_logits_order(logits: list[list[float]], temperature: float) -> None:
    rows = np.array(logits, np.float32)
    found = Calibration(temperature=temperature).probabilities(rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert (found[np.arange(len(rows)), rows.argmax(1)] == found.max(1)).all()


def test_without_a_temperature_it_is_the_softmax() -> None:
    np.testing.assert_allclose(
        Calibration().probabilities(np.log([[1, 2, 5]]).astype(np.float32)), [[0.125, 0.25, 0.625]]
    )
    np.testing.assert_allclose(energies(np.log([[1, 2, 5]]).astype(np.float32)), [np.log(8)], rtol=1e-6)


def test_logits_that_are_not_finite_are_refused() -> None:
    logits, labels = drawn(1.0, 600)
    logits[7, 3] = np.nan
    with pytest.raises(KilonetError) as error:
        fit_calibration(logits, labels)
    refusal(error, "NaN or infinity for 1 of 600 images")


def test_few_images_that_are_all_right_do_not_make_a_model_sure_of_everything() -> None:
    logits, _ = drawn(1.0, 30)
    best = logits.argmax(1)
    fitted = fit_calibration(logits, best)
    assert 0.1 < fitted.temperature < 1
    assert fitted.energy_from == energies(logits).min()
    assert not fitted.strange(logits).any()
    assert 0.7 < fitted.probabilities(logits).max(1).mean() < 0.99
    assert fit_calibration(logits[:20], best[:20]).temperature > 0.1


def test_of_few_images_with_mistakes_the_temperature_is_found_roughly() -> None:
    logits, labels = drawn(1.7, 200)
    assert fit_calibration(logits, labels).temperature == pytest.approx(1.7, rel=0.3)


@given(seed=st.integers(0, 1000), count=st.integers(20, 400), shift=st.floats(-3, 3))
@settings(max_examples=30)
def test_rejection_keeps_the_images_and_takes_what_it_can(seed: int, count: int, shift: float) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, 4)).astype(np.float32)
    labels = (logits + random.gumbel(size=logits.shape)).argmax(1)
    negatives = random.normal(shift, 1, (50, 4)).astype(np.float32)
    plain = fit_calibration(logits, labels)
    fitted = fit_rejection(plain, logits, labels, negatives)
    assert fitted.rejects
    assert fitted.temperature == plain.temperature
    right = logits[logits.argmax(1) == labels]
    lost = int(fitted.uncertain(right).sum())
    assert lost <= 0.02 * len(right)
    # No pair of thresholds that keeps as many images as it must takes more negatives.
    energy, confidence = energies(right), plain.probabilities(right).max(1)
    other_energy, other_confidence = energies(negatives), plain.probabilities(negatives).max(1)
    most = max(
        int(((other_energy < low) | (other_confidence < unsure)).sum())
        for low in np.sort(energy)[: len(right) // 50 + 1]
        for unsure in np.minimum(np.sort(confidence)[: len(right) // 50 + 1], 0.9999)
        if int(((energy < low) | (confidence < unsure)).sum()) <= 0.02 * len(right)
    )
    assert int(fitted.uncertain(negatives).sum()) == most


def test_negatives_far_away_are_rejected_and_no_image_with_them() -> None:
    logits, labels = drawn(0.3, 1000)
    negatives = np.zeros((40, 10), np.float32) - 5
    fitted = fit_rejection(fit_calibration(logits, labels), logits, labels, negatives)
    assert fitted.uncertain(negatives).all()
    assert not fitted.uncertain(logits[logits.argmax(1) == labels]).any()
