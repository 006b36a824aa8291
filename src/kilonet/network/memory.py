"""The memory that a network takes, computed from its layers before any of it is taken, and the limits on it."""

from collections.abc import Sequence

from kilonet.network.graph import PlacedLayer
from kilonet.network.operations import BatchNorm, ReLU, elements
from kilonet.utils.capacity import available_memory
from kilonet.utils.errors import KilonetError

MAXIMUM_IMAGE_BYTES = 1 << 30
"""The most bytes that the activations of one image may take where a network is used."""

_FLOAT_BYTES = 4
_COPIES_OF_WEIGHTS = 8
"""Values, gradients, two moments and the moving average, and what a checkpoint copies of them."""
_PARTS, _LANES = 64, 16
"""The native engine sums gradients in at most 64 parts of a batch, each of at least 16 images."""
_PASSING = 3
"""Tensors of the largest activation's size that a backward pass takes beside the activations of the forward pass: the
gradients of an input and an output, and a copy in another layout."""


def weight_bytes(layers: Sequence[PlacedLayer]) -> int:
    """Return the bytes of a network's float32 weights and batch-norm statistics."""
    operations = [operation for placed in layers for operation in placed.operations]
    statistics = sum(2 * operation.channels for operation in operations if isinstance(operation, BatchNorm))
    return _FLOAT_BYTES * (statistics + sum(operation.parameters for operation in operations))


def image_bytes(layers: Sequence[PlacedLayer]) -> int:
    """Return the bytes that the activations of one image take at most where a network is used.

    These are the input and the output of one operation, a copy of the output in another layout, and what a residual
    layer keeps, all in float32.
    """
    most = 0
    for placed in layers:
        shape, kept = placed.input_shape, elements(placed.input_shape) if placed.layer.residual else 0
        for operation in placed.operations:
            before, shape = shape, operation.output_shape(shape)
            most = max(most, kept + elements(before) + 2 * elements(shape))
    return _FLOAT_BYTES * most


def images_at_once(layers: Sequence[PlacedLayer], most: int, budget: int) -> int:
    """Return how many images may be computed together: at most `most`, and fewer if they take over `budget` bytes."""
    return max(1, min(most, budget // image_bytes(layers)))


def training_bytes(layers: Sequence[PlacedLayer], batch: int, *, native: bool) -> int:
    """Return the bytes that training a network takes beside the training images.

    The batch's augmentation and the output of every operation but ReLU, which works in place, are kept for the backward
    pass. A slow test (tests/network/test_memory.py) holds that a step in float32 takes 0.6 to 1.1 times as much.

    Args:
        layers: the network.
        batch: images a step.
        native: whether the native engine trains it, which also keeps sums of gradients for each part of a batch.
    """
    outputs = [0]
    for placed in layers:
        shape = placed.input_shape
        for operation in placed.operations:
            shape = operation.output_shape(shape)
            if not isinstance(operation, ReLU):
                outputs.append(elements(shape))
    channels, rows, columns = layers[0].input_shape
    augmented = (2 * channels + 4) * rows * columns
    parts = min(_PARTS, -(-batch // _LANES)) if native else 0
    activations = batch * _FLOAT_BYTES * (augmented + sum(outputs) + _PASSING * max(outputs))
    return activations + (_COPIES_OF_WEIGHTS + parts) * weight_bytes(layers)


def check_image_memory(layers: Sequence[PlacedLayer]) -> None:
    """Check that the activations of one image stay under `MAXIMUM_IMAGE_BYTES`.

    Raises:
        KilonetError: they do not.
    """
    if (needed := image_bytes(layers)) > MAXIMUM_IMAGE_BYTES:
        raise KilonetError(
            f"one image takes {_written(needed)} of activations, over the limit of {_written(MAXIMUM_IMAGE_BYTES)}; "
            "use fewer channels, smaller images or an earlier 'maxpool'"
        )


def check_training_memory(layers: Sequence[PlacedLayer], batch: int, *, native: bool) -> None:
    """Check that there is memory to train a network with batches of `batch` images.

    Raises:
        KilonetError: there is not; the message has what is needed and what is available.
    """
    needed = training_bytes(layers, batch, native=native)
    _check_available(needed, f"training with batches of {batch:,} images", "; lower --batch-size")


def check_prediction_memory(layers: Sequence[PlacedLayer]) -> None:
    """Check that there is memory for a network's weights and the activations of an image.

    Raises:
        KilonetError: there is not; the message has what is needed and what is available.
    """
    _check_available(2 * weight_bytes(layers) + image_bytes(layers), "the network with one image")


def _check_available(needed: int, what: str, remedy: str = "") -> None:
    available = available_memory()
    if available is not None and needed > available:
        raise KilonetError(
            f"{what} takes about {_written(needed)} of memory, but {_written(available)} are available{remedy}"
        )


def _written(count: int) -> str:
    """Return a number of bytes in mebibytes or gibibytes."""
    return f"{count / (1 << 30):,.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):,.1f} MiB"
