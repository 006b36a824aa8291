"""Classes are matched by the names of folders, and by numbers where a file has only numbers."""

import pytest
import torch

from helpers import refusal
from kilonet.data.datasets import DataSet, Images
from kilonet.models.classes import class_names, labels_of, match_classes
from kilonet.models.metadata import Metadata
from kilonet.utils.errors import KilonetError

CAT_DOG_OWL = Metadata(names=("cat", "dog", "owl"))
IMAGES = Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 1, 0]))


def test_a_class_without_a_name_has_its_number() -> None:
    assert class_names(Metadata(), 3) == ["0", "1", "2"]
    assert class_names(CAT_DOG_OWL, 3) == ["cat", "dog", "owl"]


def test_folders_have_the_labels_of_the_models_names() -> None:
    data = match_classes(DataSet(IMAGES, IMAGES, names=("dog", "owl"), folders=("dog", "owl")), CAT_DOG_OWL, 3)
    assert data.train.labels.tolist() == data.test.labels.tolist() == [1, 2, 2, 1]
    assert data.names == ("cat", "dog", "owl")
    assert match_classes(data, CAT_DOG_OWL, 3).train.labels.tolist() == [1, 2, 2, 1]
    numbers = match_classes(DataSet(IMAGES, IMAGES, names=("3", "7"), folders=("3", "7")), Metadata(), 10)
    assert numbers.train.labels.tolist() == [3, 7, 7, 3]
    assert numbers.names is None


def test_labels_of_a_file_are_numbers_unless_both_sides_have_names() -> None:
    assert match_classes(DataSet(IMAGES, IMAGES), CAT_DOG_OWL, 3).train.labels is IMAGES.labels
    assert match_classes(DataSet(IMAGES, IMAGES, names=("a", "b")), Metadata(), 2).train.labels is IMAGES.labels
    named = match_classes(DataSet(IMAGES, IMAGES, names=("owl", "cat")), CAT_DOG_OWL, 3)
    assert named.train.labels.tolist() == [2, 0, 0, 2]


@pytest.mark.parametrize(
    ("data", "metadata"),
    [
        (DataSet(IMAGES, IMAGES, names=("cat", "fox"), folders=("cat", "fox"), source="pets"), CAT_DOG_OWL),
        # Folders of numbers are names too: the model's third class is no class '2'.
        (DataSet(IMAGES, IMAGES, folders=("0", "fox"), source="pets"), Metadata()),
        (DataSet(IMAGES, IMAGES, names=("cat", "fox"), source="pets"), CAT_DOG_OWL),
    ],
)
def test_a_class_that_the_model_has_not_is_refused(data: DataSet, metadata: Metadata) -> None:
    with pytest.raises(KilonetError) as error:
        match_classes(data, metadata, 3)
    refusal(error, "pets", "no class 'fox'", class_names(metadata, 3)[2])


def test_many_classes_are_not_all_listed() -> None:
    with pytest.raises(KilonetError) as error:
        labels_of(["x"], [str(number) for number in range(4096)], "pets")
    assert refusal(error).endswith("8, 9, ...")
