"""Scoring a model: every figure can be counted by hand."""

import json
import math
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers import model_section, refusal, some_pixels
from kilonet.data.datasets import DataSet, Images
from kilonet.evaluation.scoring import (
    WORST_IMAGES,
    Evaluation,
    accuracy_of,
    class_counts,
    correct_predictions,
    evaluate,
    evaluation_of,
)
from kilonet.evaluation.statistics import wilson_interval
from kilonet.models.calibration import Calibration
from kilonet.models.metadata import NO_METADATA, Metadata
from kilonet.models.model import Model
from kilonet.training.run_folder import Run
from kilonet.utils.errors import KilonetError


class Fixed(Model):
    """A model of three classes that gives one-pixel images the logits that their pixel names."""

    LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 5.0]])

    def __init__(self) -> None:
        section = model_section("pointwise 3", input=(1, 1, 1))
        super().__init__(section, {"layers.0.convolution.weight": torch.zeros(3, 1, 1, 1)})

    def logits(self, pixels: Tensor) -> Tensor:
        return self.LOGITS[pixels.flatten().long()]


def scored(predicted: list[int], labels: list[int], metadata: Metadata = NO_METADATA) -> Evaluation:
    pixels = torch.tensor(predicted, dtype=torch.uint8).view(-1, 1, 1, 1)
    model = Fixed()
    model.metadata = metadata
    return evaluate(model, Images(pixels, torch.tensor(labels), "Test"))


def test_figures_are_those_counted_by_hand() -> None:
    evaluation = scored([0, 0, 1, 1, 2, 2], [0, 0, 1, 0, 1, 0])
    assert (evaluation.images, evaluation.correct, evaluation.accuracy) == (6, 3, 0.5)
    assert evaluation.interval == wilson_interval(3, 6)
    assert evaluation.confusion == ((2, 1, 1), (0, 1, 1), (0, 0, 0))
    assert evaluation.class_accuracy == (0.5, 0.5, None)
    zero, one, two = (math.log(math.exp(high) + 2) for high in (2, 1, 5))
    losses = [zero - 2, zero - 2, one - 1, one, two, two]
    assert evaluation.loss == pytest.approx(sum(losses) / 6)
    assert [image.index for image in evaluation.worst] == [4, 5, 3, 2, 0, 1]
    worst = evaluation.worst[0]
    assert (worst.label, worst.predicted) == (1, 2)
    assert worst.probability == pytest.approx(math.exp(5 - two))
    assert worst.loss == pytest.approx(two)


def test_only_the_worst_are_listed() -> None:
    assert len(scored([0] * 50, [1] * 50).worst) == WORST_IMAGES == 10


def test_sums_agree(finished: Run, small: DataSet) -> None:
    evaluation = evaluate(finished.model, small.test)
    assert sum(map(sum, evaluation.confusion)) == evaluation.images == 500
    assert sum(evaluation.confusion[label][label] for label in range(10)) == evaluation.correct
    assert [sum(row) for row in evaluation.confusion] == torch.bincount(small.test.labels).tolist()
    assert evaluation.correct == finished.result.correct
    assert evaluation.loss == pytest.approx(finished.result.final.test_loss, abs=1e-6)
    losses = [image.loss for image in evaluation.worst]
    assert losses == sorted(losses, reverse=True)


def test_the_report_is_as_the_seed_prints_it() -> None:
    report = str(scored([0, 0, 1, 1, 2, 2], [0, 0, 1, 0, 1, 0])).splitlines()
    assert report[0].startswith("Test set: Average loss: 2.1015, ")
    assert report[0].endswith("Accuracy: 3/6 (50.00%), 95 % interval 18.76 to 81.24 %")
    assert report[1] == "Balanced accuracy: 50.00% (mean of the classes' accuracies), macro F1: 38.89%"
    report = report[1:]
    assert report[2:7] == [
        "Confusion (row: label, column: prediction)",
        "label  0 1 2  accuracy",
        "    0  2 1 1    50.00%",
        "    1  . 1 1    50.00%",
        "    2  . . .  no images",
    ]
    assert report[8:10] == ["Worst images", "index  label  predicted  probability   loss"]
    assert report[10] == "    4      1          2       0.9867   5.01"


def test_names_stand_beside_the_numbers_and_long_ones_are_cut() -> None:
    metadata = Metadata(names=("cat", "dog", "a very long name of a class"))
    report = str(scored([0, 0, 1, 1, 2, 2], [0, 0, 1, 0, 1, 0], metadata)).splitlines()[1:]
    assert report[2:7] == [
        "Confusion (row: label, column: prediction)",
        "label                   0 1 2  accuracy",
        "0 cat                   2 1 1    50.00%",
        "1 dog                   . 1 1    50.00%",
        "2 a very long name ...  . . .  no images",
    ]
    assert report[9] == "index  label               predicted  probability   loss"
    assert report[10] == "    4  1 dog  2 a very long name ...       0.9867   5.01"


def test_many_classes_are_listed_by_their_confusions() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(4000) % 100
    logits = torch.zeros(4000, 101)
    logits[torch.arange(4000), labels] = 1
    logits[40:80, 7], logits[107] = 2, torch.eye(101)[3] * 5
    evaluation = evaluation_of(
        logits + 0.01 * torch.rand(logits.shape, generator=random),
        Images(some_pixels(4000, (1, 1, 1)), labels, "Test"),
        Metadata(names=tuple(f"name {label}" for label in range(101))),
    )
    for name, shown in (
        ("a maple leaf with {} spots", "3 a maple leaf with 3 spots  "),
        ("{}" * 50, f"3 {'3' * 33}..."),
    ):
        named = str(replace(evaluation, names=tuple(name.replace("{}", f"{label}") for label in range(101))))
        assert shown in named
        assert max(map(len, named.splitlines())) <= 120
    lines = str(evaluation).splitlines()
    assert max(map(len, lines)) <= 120
    assert len(lines) < 45
    assert lines[2] == "Most frequent of 41 confusions of 101 classes"
    assert lines[3].split() == ["label", "predicted", "images", "of", "the", "label's"]
    assert lines[4].split() == ["7", "name", "7", "3", "name", "3", "1", "40"]
    assert "Classes of the lowest accuracy; 1 have no images" in lines


def test_balanced_accuracy_counts_classes_alike() -> None:
    evaluation = scored([0, 0, 0, 0, 0], [0, 0, 0, 0, 1])
    assert (evaluation.accuracy, evaluation.balanced_accuracy) == (0.8, 0.5)
    assert evaluation.macro_f1 == pytest.approx((8 / 9 + 0) / 2)
    assert "Balanced accuracy: 50.00% (mean of the classes' accuracies), macro F1: 44.44%" in str(evaluation)
    assert "Balanced" not in str(scored([0, 1, 2], [0, 1, 2]))


@given(
    st.integers(2, 6).flatmap(
        lambda classes: st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=1, max_size=40)
    )
)
def test_balanced_accuracy_macro_f1_and_recall_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    """Also with classes that have no images, no predictions or neither."""
    from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

    labels, predictions = (list(part) for part in zip(*pairs, strict=True))
    counts = class_counts(torch.eye(7)[predictions], torch.tensor(labels))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
        warnings.filterwarnings("ignore", "A single label was found")
        assert counts.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predictions))
    assert counts.macro_f1 == pytest.approx(f1_score(labels, predictions, average="macro", zero_division=0))
    recall = recall_score(labels, predictions, labels=range(7), average=None, zero_division=math.nan)
    assert [math.nan if share is None else share for share in counts.recall] == pytest.approx(recall, nan_ok=True)


def test_none_of_these_are_counted_beside_the_accuracy() -> None:
    # The logits of a predicted 1 are the least sure.
    metadata = Metadata(calibration=Calibration(sure_from=0.6, rejects=True))
    evaluation = scored([0, 0, 1, 1, 2], [0, 0, 1, 0, 1], metadata)
    assert (evaluation.correct, evaluation.none_of_these, evaluation.none_of_these_wrong) == (3, 2, 1)
    assert str(evaluation).splitlines()[2] == (
        "None of these: 2 of 5 images, 1 of them classified wrongly; of the others 66.67% are right"
    )
    only_uncertain = Metadata(calibration=Calibration(sure_from=0.6))
    assert scored([0, 1], [0, 1], only_uncertain).none_of_these is None


def test_it_can_be_written_as_json() -> None:
    evaluation = scored([0, 1], [0, 2])
    table = json.loads(json.dumps(evaluation.as_json()))
    assert table["scored"] == "Test"
    assert table["confusion"] == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert table["class_accuracy"] == [1.0, None, 0.0]
    assert table["worst"][0]["index"] == 1


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (Images(some_pixels(2, (1, 2, 2)), torch.tensor([0, 1])), "(2, 1, 2, 2)"),
        (Images(some_pixels(2, (3, 1, 1)), torch.tensor([0, 1])), "(2, 3, 1, 1)"),
        (Images(some_pixels(2, (1, 1, 1)), torch.tensor([0, 3])), "up to 3"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: Images, words: str) -> None:
    with pytest.raises(KilonetError) as error:
        evaluate(Fixed(), images)
    refusal(error, words)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, -3e38])
def test_logits_or_losses_that_are_not_finite_are_refused(bad: float) -> None:
    logits = torch.tensor([[3e38, 0.0], [0.0, 1.0]])
    logits[0, 1] = bad
    with pytest.raises(KilonetError) as error:
        evaluation_of(logits, Images(some_pixels(2, (1, 1, 1)), torch.tensor([1, 1])))
    refusal(error, "NaN or infinity for 1 of 2 images")


def test_correct_predictions_have_the_highest_score() -> None:
    logits, labels = torch.tensor([[0.1, 0.2], [3.0, -1.0], [0.0, 0.5], [1.0, 2.0]]), torch.tensor([1, 0, 0, 1])
    assert correct_predictions(logits, labels).tolist() == [True, True, False, True]
    assert correct_predictions(logits.numpy(), labels.numpy()).tolist() == [True, True, False, True]
    assert accuracy_of(logits, labels) == accuracy_of(logits.numpy(), labels.numpy()) == 0.75
