"""The accuracies that others have published, as they are packaged."""

import pytest

from helpers import refusal
from kilonet.evaluation.public_results import parse_public_results, public_results_on
from kilonet.utils.errors import KilonetError


def test_every_public_result_has_its_conditions_and_its_source() -> None:
    results = public_results_on("mnist")
    assert len(results) >= 5
    assert not public_results_on("fashion-mnist"), "all of them are on MNIST"
    assert all(result.conditions and result.source for result in results)
    assert all(result.range is None or result.range[0] <= result.accuracy <= result.range[1] for result in results)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("parameters = 1", "parameters = 0", "result.0.parameters"),
        ("accuracy = 99.5", "accuracy = 100.5", "result.0.accuracy"),
        ('source = "a paper"', "", "result.0.source: missing"),
        ('source = "a paper"', 'source = "a paper"\nyear = 1998', "result.0.year: unknown key"),
        ("[[result]]", "[[result", "not a TOML file"),
    ],
)
def test_a_public_result_that_is_not_complete_is_refused(old: str, new: str, words: str) -> None:
    text = '[[result]]\nparameters = 1\naccuracy = 99.5\nconditions = "test"\nsource = "a paper"\n'
    assert [result.accuracy for result in parse_public_results(text)] == [99.5]
    with pytest.raises(KilonetError) as error:
        parse_public_results(text.replace(old, new))
    refusal(error, "public_results.toml", words)
