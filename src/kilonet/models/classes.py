"""The classes of a model by name, and labelled data whose classes are matched with them."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from kilonet.data.datasets import DataSet, Images
from kilonet.models.metadata import Metadata
from kilonet.utils.errors import KilonetError

_SHOWN = 10


def class_names(metadata: Metadata, classes: int) -> list[str]:
    """Return the names of a model's classes; a class without a name has its number."""
    return [metadata.name_of(label) for label in range(classes)]


def labels_of(names: Sequence[str], known: Sequence[str], source: str) -> list[int]:
    """Return the label of each name: its place among the names that a model knows.

    Args:
        names: names of classes of the data.
        known: the names of the model's classes, in order.
        source: the data's name in messages.

    Raises:
        KilonetError: the model has no such class.
    """
    places = {name: label for label, name in enumerate(known)}
    for name in names:
        if name not in places:
            some = ", ".join(known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
            raise KilonetError(f"{source}: the model has no class '{name}'; its classes are {some}")
    return [places[name] for name in names]


def match_classes(data: DataSet, metadata: Metadata, classes: int) -> DataSet:
    """Return a data set with the labels that a model has for the same names.

    Folders are matched by their names. Labels that are numbers in their file keep them, unless both the data and the
    model name their classes.

    Raises:
        KilonetError: the model has no class of such a name or number.
    """
    names = data.folders or (data.names if metadata.names is not None else None)
    if names is None:
        highest = int(max(data.train.labels.max(), data.test.labels.max()))
        if highest >= classes:
            raise KilonetError(
                f"{data.source or 'the data'}: the labels go up to {highest}, but the model has {classes} classes"
            )
        return data
    known = class_names(metadata, classes)
    labels = torch.tensor(labels_of(names, known, data.source or "the data"))

    def relabelled(images: Images) -> Images:
        return replace(images, labels=labels[images.labels])

    return replace(
        data,
        train=relabelled(data.train),
        test=relabelled(data.test),
        validation=data.validation and relabelled(data.validation),
        names=metadata.names,
        folders=tuple(known),
    )
