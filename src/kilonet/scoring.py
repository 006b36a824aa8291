"""Evaluation as the command line does it: which images a model is scored on, also photos in class-named folders."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from kilonet.data.datasets import Images, check_fit, has_classes, load_data
from kilonet.data.decode import Picture
from kilonet.data.digits.prepare import prepare_digit, prepare_plain
from kilonet.data.image_folders import class_folders, read_labelled
from kilonet.evaluation.scoring import Evaluation, evaluate
from kilonet.export.loading import load
from kilonet.models.model import Classifier
from kilonet.network.section import ModelSection
from kilonet.utils.errors import KilonetError
from kilonet.utils.extras import needed_from

if TYPE_CHECKING:
    from kilonet.evaluation.corruptions import CorruptedEvaluation


def score(source: str, data: str) -> Evaluation:
    """Score a model on the test images of a data set, or on a folder of class-named folders.

    Raises:
        KilonetError: no such model or data, or they do not fit together.
    """
    model = load(source)
    return evaluate(model, scored_images(model, data))


def scored_images(model: Classifier, data: str) -> Images:
    """Return the images to score a model on.

    For a model of digits, images in folders are photos: each is laid out first. In those where no digit is found, what
    the network says of the attempt counts, and their number is said on stderr.

    Raises:
        KilonetError: no such data, or they do not fit the model.
    """
    folder = Path(data)
    if not has_classes(folder) or (folder / "train").is_dir():
        return load_data(data).test
    eye = _Eye(model)
    pixels, labels, _ = read_labelled(folder, _labels(folder, model), eye.view)
    if eye.objections:
        print(f"no digit found in {eye.objections} of {len(labels)} images; scored all the same", file=sys.stderr)
    return Images(torch.from_numpy(pixels), torch.from_numpy(labels), folder.resolve().name)


class _Eye:
    """Shows pictures to a model and counts those without a digit."""

    def __init__(self, model: Classifier) -> None:
        self._model = model
        self.objections = 0

    def view(self, picture: Picture, name: str) -> NDArray[np.uint8]:
        shape = self._model.section.input_shape
        sight = prepare_digit(picture) if self._model.reads_digits else prepare_plain(picture, shape, name)
        self.objections += sight.objection is not None
        return sight.pixels.reshape(shape)


def _labels(folder: Path, model: Classifier) -> dict[str, int]:
    names = model.metadata.names or tuple(str(label) for label in range(model.section.classes))
    found = class_folders(folder)
    for name in found:
        if name not in names:
            known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise KilonetError(f"{folder}: the model has no class '{name}'; its classes are {known}")
    return {name: names.index(name) for name in found}


def described(section: ModelSection, data: str) -> str:
    """Return a line on a data set that a network takes.

    Raises:
        KilonetError: no such data, or the network does not take them.
    """
    images = load_data(data)
    check_fit(section, images)
    channels, rows, columns = images.train.pixels.shape[1:]
    counts = f"{len(images.train):,} training and {len(images.test):,} test images"
    classes = int(images.train.labels.max()) + 1 if images.names is None else len(images.names)
    return f"Data: {data}: {counts}, {channels}x{rows}x{columns}, {classes} classes; they fit the network"


def score_corrupted(source: str, data: str) -> "CorruptedEvaluation":
    """Score a model on the test images of a data set under the corruptions of MNIST-C.

    Raises:
        KilonetError: no such model or data, they do not fit together, or the extra `corruptions` is not installed.
    """
    model = load(source)
    with needed_from("corruptions", "--corruptions"):
        from kilonet.evaluation.corruptions import evaluate_corrupted  # noqa: PLC0415
    return evaluate_corrupted(model, scored_images(model, data))
